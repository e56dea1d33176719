"""Errors that a user can fix: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from edgekit.text import quoted, shortened, visible

# Quoted values are shortened where they are quoted; these limits catch all others.
_LONGEST = 3000
_LONGEST_HINT = 1000
_Error = TypeVar("_Error", bound="EdgekitError")


class EdgekitError(Exception):
    """An error that the user can fix. The command line prints its message without a traceback and exits with `exit_code`.

    Whatever their content, message and hint are one line each, without control characters, and not longer than a screen.

    Args:
        message: what is wrong, and where (the path, key or value) unless `where` says so, in one line.
        hint: what to do, in one line.
        where: the subject of the message, if code that passes the error on may rename it or has already named it.

    Attributes:
        message: what is wrong, and where.
        reason: what is wrong, without `where`.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "", *, where: object = "") -> None:
        super().__init__(message)
        self.reason = one_line(message)
        self.where = one_line(str(where))
        self.hint = one_line(hint, _LONGEST_HINT)

    @property
    def message(self) -> str:
        return one_line(f"{self.where}: {self.reason}") if self.where else self.reason

    def at(self: _Error, where: object = "") -> _Error:
        """Return the same error with another subject; without a subject if the reader knows it."""
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__)
        copy.where = one_line(str(where))
        return copy

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def one_line(text: str, limit: int = _LONGEST) -> str:
    """Return any text as one line of at most about `limit` visible characters."""
    # Shortened before, because the text may be huge, and after, because an invisible character becomes six visible ones.
    return shortened(visible(shortened(" ".join(text.split()), limit)), limit)


def reason_of(error: BaseException, limit: int = 200) -> str:
    """Return what a library's exception says as one line of at most about `limit` characters, or the name of its type where it says nothing."""
    return one_line(str(error), limit) or type(error).__name__


def typed_reason_of(error: BaseException, limit: int = 200) -> str:
    """Return the type of an exception of any code, and what it says, as one line of at most about `limit` characters."""
    return one_line(f"{type(error).__name__}: {error}", limit)


class RecipeError(EdgekitError):
    """The recipe cannot be read, or is not possible."""


class DataError(EdgekitError):
    """The images or labels cannot be read, or do not match the recipe."""


class RunError(EdgekitError):
    """The run folder is missing, incomplete, damaged, or in use."""


class BundleError(EdgekitError):
    """The bundle is missing or damaged, has another schema, or lacks something that is requested."""


class RuntimeMissing(EdgekitError):
    """A runtime or an optional package is not installed; the hint names the extra that installs it."""


class RemoteError(EdgekitError):
    """A remote device cannot be reached, refuses the connection, or fails."""


class ExportError(EdgekitError):
    """A model cannot be converted to the target."""


class GateFailed(EdgekitError):
    """The work was done, but its result did not pass: exit code 1, like a failed test."""

    exit_code = 1


def error_named(kind: str) -> type[EdgekitError]:
    """Return the class of an error that a child process reports by name; `EdgekitError` if the name is unknown."""
    found = globals().get(kind)
    return found if isinstance(found, type) and issubclass(found, EdgekitError) else EdgekitError


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9, and `signal 40` for a number without a name, such as most real-time signals."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number that is not within bounds, such as `nan`, for which every comparison is false.

    Raises:
        EdgekitError: it is not.
    """
    if not least <= value <= most:
        bounds = f"at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
        raise EdgekitError(f"{name}: {value:g} is not {bounds}", "give a number within these bounds")


def near(value: str, known: Iterable[str], count: int = 3) -> str:
    """Return `did you mean a, b or c?` for a misspelled name, or an empty string if no name is similar."""
    import difflib  # for a misspelled name only

    # Comparison takes quadratic time, and no name is this long.
    matches = difflib.get_close_matches(value[:200], list(known), n=count, cutoff=0.6)
    if not matches:
        return ""
    listed = matches[0] if len(matches) == 1 else f"{', '.join(matches[:-1])} or {matches[-1]}"
    return f"did you mean {listed}?"


__all__ = [
    "BundleError", "DataError", "EdgekitError", "ExportError", "GateFailed", "RecipeError", "RemoteError", "RunError",
    "RuntimeMissing", "check_range", "error_named", "near", "one_line", "quoted", "shortened", "signal_name", "visible",
]  # fmt: skip
