"""Images of more than 8 bits: the range of values that is mapped to the 256 gray levels of a model's input.

Cameras of 10 and 12 bits, thermal and CT images, and float images use a part of the range of their number type. Mapped by the number
type, they would become a few gray levels. So the range is measured on the data set (never on one image, which would remove the
differences between images), or stated by the user, and stored in the bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.text import counted

if TYPE_CHECKING:
    from PIL import Image

PixelRange = tuple[float, float] | Literal["dtype"]

LEVELS = 256
INTEGERS = (0.0, 65535.0)  # by number type: Pillow holds 16-bit grays in 32 bits too
FLOATS = (0.0, 1.0)
DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}
_TRIM = 1e-4  # share of the pixels of an image at either end that may be dead or hot
_USED = 0.999  # share of the pixels that the used gray levels hold
_FEW = LEVELS // 10
_CLIPPED = 0.01  # if a larger share of the pixels is clipped, a known range does not fit
_ROWS = 1 << 22  # pixels to map at a time


class PixelRangeWarning(UserWarning):
    """Images of more than 8 bits were mapped by their number type, and use few gray levels."""


def is_deep(image: Image.Image) -> bool:
    """Return whether an image needs a range of values: gray of 16 or 32 bits, or float."""
    return image.mode in DEEP


def pixel_values(image: Image.Image) -> NDArray[Any]:
    """Return the values of a deep image (H, W), in native byte order: uint16, int32 or float32."""
    values = np.asarray(image)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def to_gray(values: NDArray[Any], pixel_range: PixelRange | None) -> NDArray[np.uint8]:
    """Map values to gray levels; values outside the range are clipped, NaN becomes the lowest level.

    Integers are mapped to 256 bins of equal width, so that [0, 65535] keeps the high byte and [0, 255] every value; floats are
    scaled by 255 / (high - low) and truncated to integers.

    Args:
        values: any shape; uint16, int32 or float32.
        pixel_range: lowest and highest value; "dtype": [0, 65535] for integers, [0, 1] for floats; None: the rule of bundles without
            a range: as "dtype", but [0, 255] for a float image with a value above 1.

    Returns:
        uint8, of the same shape.
    """
    low, high = limits(values, pixel_range)
    if values.dtype == np.uint16:
        mapped: NDArray[np.uint8] = _table(low, high)[values]
        return mapped
    if np.issubdtype(values.dtype, np.integer):
        return _binned(values, low, high)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values - np.float32(low)) * np.float32(255 / (high - low))
    levels = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255)
    return np.asarray(levels, dtype=np.float32).astype(np.uint8)


def limits(values: NDArray[Any], pixel_range: PixelRange | None) -> tuple[float, float]:
    """Return the lowest and the highest value of a range, for values of this type."""
    if isinstance(pixel_range, tuple):
        return pixel_range
    if np.issubdtype(values.dtype, np.integer):
        return INTEGERS
    with np.errstate(invalid="ignore"):
        bytes_ = pixel_range is None and np.nan_to_num(values).max(initial=0) > 1.0
    return (0.0, 255.0) if bytes_ else FLOATS


def _binned(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # A quotient of integers below 2**53 is at least 1 / divisor away from the next integer: the floor is exact.
    bins = (values.astype(np.float64) - low) * LEVELS / (high - low + 1)
    return np.clip(np.floor(bins), 0, LEVELS - 1).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(low: float, high: float) -> NDArray[np.uint8]:
    return _binned(np.arange(1 << 16), low, high)


def gray_image(image: Image.Image, pixel_range: PixelRange | None) -> Image.Image:
    """Convert a deep image to 8-bit gray, a few rows at a time, so that large images need little more memory than their own."""
    from PIL import Image

    rows = max(1, _ROWS // max(1, image.width))
    if image.height <= rows or pixel_range is None:  # without a range, the rule needs the whole float image
        return Image.fromarray(to_gray(pixel_values(image), pixel_range))
    gray = Image.new("L", image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        gray.paste(Image.fromarray(to_gray(pixel_values(part), pixel_range)), (0, top))
    return gray


@dataclass
class Extent:
    """The values of the deep images of a data set.

    Attributes:
        images: number of deep images.
        low, high: the smallest and the largest value, without the 0.01 % of an image's pixels at either end.
        whole: whether all images have an integer type.
    """

    images: int = 0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def add(self, image: Image.Image) -> None:
        """Add one deep image."""
        values = pixel_values(image)
        self.images += 1
        if not np.issubdtype(values.dtype, np.integer):
            self.whole = False
            values = values[np.isfinite(values)]
        if values.size:
            cut = int(values.size * _TRIM)
            ends = np.partition(values, (cut, values.size - 1 - cut), axis=None)
            self.low = min(self.low, float(ends[cut]))
            self.high = max(self.high, float(ends[-1 - cut]))

    def merge(self, other: Extent) -> None:
        """Add the values of another part of the data set."""
        self.images += other.images
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.whole = self.whole and other.whole

    def pixel_range(self) -> PixelRange | None:
        """Return the range to use; None without deep images.

        If the values use at least half of a standard range, it is the standard range, so that a few more images do not change it:
        [0, 2**k - 1] for k = 8 to 16 bits, and for floats also [0, 1] and [-1, 1]. Otherwise it is the range of the values.
        """
        if not self.images:
            return None
        if self.low > self.high:  # nothing is finite
            return "dtype"
        usual = [(0.0, float((1 << bits) - 1)) for bits in range(8, 17)]
        for low, high in usual if self.whole else [FLOATS, (-1.0, 1.0), *usual]:
            if low <= self.low and self.high <= high and self.high - self.low >= 0.5 * (high - low):
                return low, high
        return self.low, self.high if self.high > self.low else self.low + 1.0


@dataclass
class Depth:
    """Statistics of how images of more than 8 bits were mapped.

    Attributes:
        images: number of images.
        deep: number of deep images, to which a range was applied.
        not_finite: number of deep images with NaN or infinite values.
        reduced: number of images with 16 bits per color, which Pillow reads as 8.
        clipped: number of pixels outside the range.
        levels: (256) number of pixels at each gray level in the deep images.
    """

    images: int = 0
    deep: int = 0
    not_finite: int = 0
    reduced: int = 0
    clipped: int = 0
    levels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))

    def add(self, image: Image.Image, gray: Image.Image | None, pixel_range: PixelRange | None) -> None:
        """Add one image; `gray` is the mapped image if it is deep."""
        self.images += 1
        self.reduced += bool(image.info.get(REDUCED))
        if gray is None:
            return
        values = pixel_values(image)
        self.deep += 1
        self.levels += np.array(gray.histogram(), np.int64)
        finite = True if np.issubdtype(values.dtype, np.integer) else np.isfinite(values)
        self.not_finite += not np.all(finite)
        low, high = limits(values, pixel_range)
        self.clipped += int(np.count_nonzero(((values < low) | (values > high)) & finite))

    def merge(self, other: Depth) -> None:
        """Add the statistics of another part."""
        for name in ("images", "deep", "not_finite", "reduced", "clipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.levels = self.levels + other.levels

    @property
    def used_levels(self) -> int:
        """The number of gray levels, the fullest first, that hold 99.9 % of the pixels of the deep images."""
        shares = np.cumsum(np.sort(self.levels)[::-1])
        return int(np.searchsorted(shares, _USED * shares[-1]) + 1) if shares[-1] else 0

    def notes(self, where: str, pixel_range: PixelRange | None, hint: str, always: bool = True) -> list[str]:
        """Return notes for the user, one sentence each.

        Args:
            where: where the images come from.
            pixel_range: the range that was applied.
            hint: what to do about a bad range.
            always: also report a range without problems.
        """
        notes = []
        few, clipped = self.used_levels < _FEW, self.clipped / max(1, int(self.levels.sum()))
        if self.deep and (always or few or clipped > _CLIPPED):
            notes.append(self._summary(where, pixel_range, clipped))
        if self.deep and few:
            notes.append(f"they use {self.used_levels} of the 256 gray levels: {hint}")
        if self.not_finite:
            notes.append(
                f"{counted(self.not_finite, 'image')} of {where} with NaN or infinite values: NaN becomes the lowest gray level"
            )
        if self.reduced:
            notes.append(
                f"{counted(self.reduced, 'image')} of {where} with 16 bits per color, of which Pillow reads the high byte: if their values use "
                "less than 16 bits, convert them to 8 bits per color first"
            )
        return notes

    def _summary(self, where: str, pixel_range: PixelRange | None, clipped: float) -> str:
        mixed = self.deep < self.images
        of = f"{self.deep:,} of the {self.images:,} images" if mixed else counted(self.deep, "image")
        text = f"{of} of {where} with more than 8 bits: {described(pixel_range)} becomes the gray levels 0 to 255"
        text += "; the others have 8 bits and keep theirs" if mixed else ""
        return text + (f"; {clipped:.2g} of the pixels are outside and are clipped" if clipped else "")

    def content(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        return {**vars(self), "levels": self.levels.tolist()}

    @classmethod
    def of(cls, content: Any) -> Depth:
        """Read what `content` returned.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        levels = np.array(content["levels"], np.int64)
        counts = {name: int(content[name]) for name in ("images", "deep", "not_finite", "reduced", "clipped")}
        if levels.shape != (LEVELS,):
            raise ValueError("not 256 gray levels")
        return cls(**counts, levels=levels)


SOURCE = "edgekit_source"  # in the info of an image: the name of its file
REDUCED = "edgekit_reduced"  # in the info of an image: its file has 16 bits per color, its pixels have 8


def described(pixel_range: PixelRange | None) -> str:
    """Describe a range in words."""
    if isinstance(pixel_range, tuple):
        return f"[{pixel_range[0]:g}, {pixel_range[1]:g}]"
    return "the range of their number type ([0, 65535] for integers, [0, 1] for floats)"


def parse_pixel_range(text: str) -> PixelRange | Literal["auto"]:
    """Parse `auto`, `dtype`, or `LOW,HIGH`.

    Raises:
        ValueError: it is none of them.
    """
    words: dict[str, Literal["auto", "dtype"]] = {"auto": "auto", "dtype": "dtype"}
    if text in words:
        return words[text]
    try:
        low, high = (float(part) for part in text.strip("[]").split(","))
    except ValueError as error:
        raise ValueError("must be auto, dtype, or LOW,HIGH") from error
    check_pixel_range((low, high))
    return low, high


def check_pixel_range(pixel_range: object) -> None:
    """Refuse a pair that is not a range.

    Raises:
        ValueError: low is not below high, or one of them is not finite.
    """
    if isinstance(pixel_range, tuple):
        low, high = pixel_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"pixel_range ([{low:g}, {high:g}]) must be two finite numbers, the lower one first")
