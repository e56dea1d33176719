"""Options that several commands have, and choices that are read from a table only when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:  # click 8.1's is not generic
    _Choice = click.Choice


override_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value; may be repeated."
)


class TableChoice(_Choice):
    """A choice whose values come from a function. It is called when a value is checked or help is shown, not at import.

    Args:
        read: lists the values that are accepted.
    """

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        self._read = read
        super().__init__(())

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are accepted."""
        return tuple(self._read())

    @choices.setter
    def choices(self, value: Any) -> None:
        """Ignore the empty list that click's constructor sets."""
