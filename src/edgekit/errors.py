"""What goes wrong in ways that a user can mend: one line that says what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from edgekit.text import quoted, shortened, visible

# What is quoted in a message is shortened where it is quoted; these bound what nobody thought of.
_LONGEST = 3000
_LONGEST_HINT = 1000
_Error = TypeVar("_Error", bound="EdgekitError")


class EdgekitError(Exception):
    """An error that the user can act on. The command line prints its message without a traceback and exits with `exit_code`.

    Whatever stands in them, message and hint are one line each, without control characters, and not longer than a screen.

    Args:
        message: what is wrong, and where (the path, key or value) unless `where` says so, in one line.
        hint: what to do about it, in one line.
        where: what the message is about, if somebody who passes the error on may name it otherwise, or has named it already.

    Attributes:
        message: what is wrong and where.
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
        """The same error about something else; about nothing in particular where its reader knows."""
        found = type(self).__new__(type(self), *self.args)
        found.__dict__.update(self.__dict__)
        found.where = one_line(str(where))
        return found

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def one_line(text: str, limit: int = _LONGEST) -> str:
    """A text of any origin as one line of at most about `limit` visible characters."""
    # A character that is not visible is written as six: shortened before, as the text may be huge, and after.
    return shortened(visible(shortened(" ".join(text.split()), limit)), limit)


class RecipeError(EdgekitError):
    """The recipe cannot be read, or asks for something impossible."""


class DataError(EdgekitError):
    """The images or labels are not what the recipe says, or cannot be read."""


class RunError(EdgekitError):
    """The run folder is missing, incomplete, damaged, or in use."""


class BundleError(EdgekitError):
    """The bundle is missing, damaged, of another schema, or does not hold what is asked of it."""


class RuntimeMissing(EdgekitError):
    """A runtime or an optional package is not installed; the hint names the extra that brings it."""


class RemoteError(EdgekitError):
    """A remote device cannot be reached, refuses, or cannot do what is asked of it."""


class ExportError(EdgekitError):
    """A model cannot be converted to the target."""


class GateFailed(EdgekitError):
    """The work was done and what it produced did not pass: exit code 1, like a failed test."""

    exit_code = 1


def error_named(kind: str) -> type[EdgekitError]:
    """The class of an error that a child process reports by name; `EdgekitError` where there is none of that name."""
    found = globals().get(kind)
    return found if isinstance(found, type) and issubclass(found, EdgekitError) else EdgekitError


def signal_name(number: int) -> str:
    """`SIGKILL` for 9, and `signal 40` where a number has no name, as most real-time signals have none."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def near(value: str, known: Iterable[str], count: int = 3) -> str:
    """`did you mean a, b or c?` for a misspelled name, or an empty string where nothing is near."""
    import difflib  # for a misspelled name only

    # Comparing takes quadratic time, and no name is that long.
    matches = difflib.get_close_matches(value[:200], list(known), n=count, cutoff=0.6)
    if not matches:
        return ""
    listed = matches[0] if len(matches) == 1 else f"{', '.join(matches[:-1])} or {matches[-1]}"
    return f"did you mean {listed}?"


__all__ = [
    "BundleError", "DataError", "EdgekitError", "ExportError", "GateFailed", "RecipeError", "RemoteError", "RunError",
    "RuntimeMissing", "error_named", "near", "one_line", "quoted", "shortened", "signal_name", "visible",
]  # fmt: skip
