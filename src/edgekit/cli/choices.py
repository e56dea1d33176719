"""Options that several commands have, and choices that are read from a table only when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, parse_image_size

if TYPE_CHECKING:
    Choice = click.Choice
    ParamType = click.ParamType
else:

    class _Generic:
        """Those of click 8.1 are not generic."""

        def __class_getitem__(cls, kind):
            return cls

    class Choice(_Generic, click.Choice):
        """See `click.Choice`."""

    class ParamType(_Generic, click.ParamType):
        """See `click.ParamType`."""


override_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value; may be repeated."
)


class TableChoice(Choice[str]):
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


class Number(click.FloatRange):
    """A number within bounds. Click's own accepts `nan`, which is within all bounds, and for which every later comparison is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number

    def _describe_range(self) -> str:
        """The bounds, for the help; empty without any."""
        return super()._describe_range() if self.min is not None or self.max is not None else ""


class SizeOption(ParamType[ImageSize]):
    """The size of images in pixels: `96`, or `96,128` for height and width.

    Args:
        most: the largest side.
    """

    name = "pixels"

    def __init__(self, most: int = MOST_SIDE) -> None:
        self._most = most

    def convert(self, value: str | ImageSize, param: click.Parameter | None, ctx: click.Context | None) -> ImageSize:
        """See `click.ParamType`."""
        if isinstance(value, ImageSize):
            return value
        try:
            size = parse_image_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not all(LEAST_SIDE <= side <= self._most for side in size):
            self.fail(f"{value!r} is not possible: sides are from {LEAST_SIDE} to {self._most} pixels", param, ctx)
        return size
