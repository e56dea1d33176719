"""The names of the classes: from a file, from the folders of labelled images, or made up."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import DataError, ExportError
from edgekit.foreign import Unreadable, parse_json


def read_classes(path: str) -> list[str]:
    """The names in a text file, one a line, or in a JSON list.

    Raises:
        DataError: it cannot be read, names fewer than two, or one twice.
    """
    here = f"--classes: {path}"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise DataError(f"{here}: cannot be read: {reason}", "give a text file, or a JSON list") from error
    names = (
        _of_json(text, here) if text.lstrip().startswith(("[", "{")) else [line.strip() for line in text.splitlines()]
    )
    while names and not names[-1]:
        names.pop()
    if len(names) < 2:
        raise DataError(f"{here}: names {len(names)} classes", "a classifier needs at least two, one name a line")
    if empty := [i for i, name in enumerate(names) if not name]:
        raise DataError(f"{here}: line {empty[0] + 1} is empty", "line i names the i-th logit, so none may be left out")
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise DataError(f"{here}: names {twice} twice", "give each class its own name")
    return names


def _of_json(text: str, here: str) -> list[str]:
    try:
        content = parse_json(text, here, None)
    except Unreadable as error:
        raise DataError(f"{here}: is {error.reason}", "give a list of names, or a text file, one a line") from error
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{here}: is JSON, but no list of names", 'give a list like ["cat", "dog"]')
    return [name.strip() for name in content]


def agree(count: int, model: str, named: list[str] | None, said_by: str) -> None:
    """Refuse names that are not as many as a model's logits.

    Args:
        count: how many logits the model has.
        model: what the user called it.
        named: the names; None where nobody gave some.
        said_by: who did.

    Raises:
        ExportError: they differ.
    """
    if named is not None and len(named) != count:
        raise ExportError(
            f"{model}: has {count} classes, {said_by} {len(named)} ({', '.join(named[:3])}{', …' if len(named) > 3 else ''})",
            "the names must be the model's own, in the order of its logits (--classes FILE)",
        )


def numbered(count: int) -> list[str]:
    """Names for classes that nobody named."""
    return [f"class_{i}" for i in range(count)]
