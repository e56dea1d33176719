"""What goes wrong in ways that a user can mend: one line that says what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class EdgekitError(Exception):
    """An error that the user can act on. The command line prints its message without a traceback and exits with `exit_code`.

    Args:
        message: what is wrong and where (the path, key or value), in one line.
        hint: what to do about it, in one line.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


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


def near(value: str, known: Iterable[str], count: int = 3) -> str:
    """`did you mean a, b or c?` for a misspelt name, or an empty string where nothing is near."""
    import difflib  # for a misspelt name only

    matches = difflib.get_close_matches(value, list(known), n=count, cutoff=0.6)
    if not matches:
        return ""
    listed = matches[0] if len(matches) == 1 else f"{', '.join(matches[:-1])} or {matches[-1]}"
    return f"did you mean {listed}?"
