"""The size of images: what a recipe or a bundle writes as one side of a square, or as [height, width].

Everything that holds a size holds an `ImageSize`. Whatever may come from outside, a plain side or a pair, goes through `ImageSize.of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

LEAST_SIDE, MOST_SIDE = 4, 4096  # pixels, of what a model takes
MOST_TRAINED = 1024  # pixels, of what a recipe trains
_PAIR = "[height, width], such as [96, 128]"


@dataclass(frozen=True, eq=False)
class ImageSize:
    """Height and width of images, in pixels.

    A square equals its side, so that `size == 96` compares as it reads. Files hold `plain`: a square has always been written as one
    number, and digests of older records depend on it.
    """

    height: int
    width: int

    @classmethod
    def of(cls, size: SizeLike) -> ImageSize:
        """Return the size of a side, a pair (height, width) or an `ImageSize`.

        Raises:
            ValueError: it is none of these, or not positive.
        """
        if isinstance(size, ImageSize):
            return size
        sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size, size]
        if len(sides) != 2 or not all(_is_whole(side) and side > 0 for side in sides):
            raise ValueError(f"an image size is a number of pixels, or {_PAIR}; not {size!r}")
        return cls(*sides)

    def __iter__(self) -> Iterator[int]:
        """Height, then width: `np.zeros((n, *size, 3))`."""
        yield self.height
        yield self.width

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ImageSize):
            return (self.height, self.width) == (other.height, other.width)
        return self.plain == other if _is_whole(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.height if self.is_square else (self.height, self.width))

    def __str__(self) -> str:
        """96 for a square, 96x128 for 96 rows of 128 pixels."""
        return str(self.height) if self.is_square else f"{self.height}x{self.width}"

    @property
    def plain(self) -> int | list[int]:
        """The size as files hold it: the side of a square, else [height, width]."""
        return self.height if self.is_square else [self.height, self.width]

    @property
    def option(self) -> str:
        """The size as options of the command line take it: 96 or 96,128 (see `parse_image_size`)."""
        return str(self.height) if self.is_square else f"{self.height},{self.width}"

    @property
    def is_square(self) -> bool:
        """Whether both sides are equal."""
        return self.height == self.width

    @property
    def shorter(self) -> int:
        """The shorter side, in pixels."""
        return min(self.height, self.width)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def aspect(self) -> float:
        """Width divided by height."""
        return self.width / self.height

    @property
    def transposed(self) -> ImageSize:
        """Height and width exchanged, as by a quarter turn."""
        return ImageSize(self.width, self.height)

    def with_shorter(self, side: int) -> ImageSize:
        """Return the size of the same shape, rounded to whole pixels, whose shorter side is `side`."""
        return ImageSize(round(self.height * side / self.shorter), round(self.width * side / self.shorter))


SizeLike: TypeAlias = int | Sequence[int] | ImageSize


@dataclass(frozen=True)
class SizeBounds:
    """For a field of a pydantic model, `Annotated[ImageSize, SizeBounds(4, 1024)]`: the smallest and the largest side, in pixels.

    It reads a whole number or a pair of them, and writes `ImageSize.plain`.
    """

    least: int
    most: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            self._checked,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda size: ImageSize.of(size).plain),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        side = {"type": "integer", "minimum": self.least, "maximum": self.most}
        return {"anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}

    def _checked(self, value: Any) -> ImageSize:
        from pydantic_core import PydanticCustomError

        if isinstance(value, ImageSize):
            value = value.plain
        if isinstance(value, list | tuple):
            if len(value) != 2 or not all(_is_whole(side) for side in value):
                raise PydanticCustomError("image_size", f"must be a whole number, or {_PAIR}")
            if not all(self.least <= side <= self.most for side in value):
                raise PydanticCustomError(
                    "image_size", f"must be {_PAIR}: both from {self.least} to {self.most} pixels"
                )
            return ImageSize.of(value)
        side = _side(value)
        if side is None:
            raise PydanticCustomError("image_size", f"must be a whole number, or {_PAIR}")
        if side < self.least:
            raise PydanticCustomError("image_size", f"must be greater than or equal to {self.least}")
        if side > self.most:
            raise PydanticCustomError("image_size", f"must be less than or equal to {self.most}")
        return ImageSize(side, side)


def parse_image_size(text: str) -> ImageSize:
    """Read the size in an option of the command line: `96`, or `96,128` for 96 rows of 128 pixels.

    Raises:
        ValueError: it is neither.
    """
    sides = [part.strip() for part in text.split(",")]
    if len(sides) > 2 or not all(_is_digits(side) and int(side) > 0 for side in sides):
        raise ValueError(f"{text[:40]!r} is not a size in pixels: write it like 96, or like 96,128 for height,width")
    return ImageSize(int(sides[0]), int(sides[-1]))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _side(value: Any) -> int | None:
    """A whole number as pydantic reads it: 32, 32.0 or "32"; else None."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _is_digits(value.strip()):
        return int(value)
    return value if _is_whole(value) else None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9
