"""An option's choices that are read from a table when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


class TableChoice(click.Choice):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A choice among what a function lists; it is called when a value is checked or help is shown, not when the command is defined.

    Args:
        read: lists the values that are accepted.
    """

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        self._read = read
        super().__init__(())

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The values that are accepted."""
        return tuple(self._read())

    @choices.setter
    def choices(self, value: Any) -> None:
        """What click sets at the beginning does not count."""
