"""Images of more than 8 bits: which range of their values becomes the 256 gray levels that a model takes.

Cameras of 10 and 12 bits, thermal and CT images, and float images use a part of what their number type can hold. Mapped by the
type alone they would reach a model as a few gray levels. The range is therefore found from the data set (never from one image, which
would take away the differences between images), or stated, and it travels in the bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

PixelRange = tuple[float, float] | Literal["dtype"]

LEVELS = 256
INTEGERS = (0.0, 65535.0)  # by number type: Pillow holds 16-bit grays in 32 bits too
FLOATS = (0.0, 1.0)
DEEP = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}
_TRIM = 1e-4  # share of an image's pixels at either end that may be dead or hot ones
_USED = 0.999  # share of the pixels that the gray levels in use hold
_FEW = LEVELS // 10
_CLIPPED = 0.01  # share of the pixels above which a range that is known already does not fit
_ROWS = 1 << 22  # pixels that are mapped at a time


class PixelRangeWarning(UserWarning):
    """Images of more than 8 bits were mapped by their number type alone, and few gray levels are left of them."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image's values need a range: gray of 16 or 32 bits, or float."""
    return image.mode in DEEP


def pixel_values(image: Image.Image) -> NDArray[Any]:
    """The values of a deep image (H, W), in the machine's byte order: uint16, int32 or float32."""
    values = np.asarray(image)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def to_gray(values: NDArray[Any], pixel_range: PixelRange | None) -> NDArray[np.uint8]:
    """Values as gray levels; those outside the range are clipped, NaN is the lowest.

    Whole numbers fall into 256 bins of equal width, so that [0, 65535] keeps the high byte and [0, 255] every value; floats are
    scaled by 255 / (high - low) and cut to whole numbers.

    Args:
        values: any shape; uint16, int32 or float32.
        pixel_range: lowest and highest value; "dtype": [0, 65535] of whole numbers, [0, 1] of floats; None: the rule of bundles that
            state no range, which is "dtype" except that a float image with a value above 1 has [0, 255].

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
    """The lowest and the highest value that a range stands for, for values of this type."""
    if isinstance(pixel_range, tuple):
        return pixel_range
    if np.issubdtype(values.dtype, np.integer):
        return INTEGERS
    with np.errstate(invalid="ignore"):
        bytes_ = pixel_range is None and np.nan_to_num(values).max(initial=0) > 1.0
    return (0.0, 255.0) if bytes_ else FLOATS


def _binned(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # A quotient of whole numbers below 2**53 is at least 1 / divisor away from the next whole number: the floor is exact.
    bins = (values.astype(np.float64) - low) * LEVELS / (high - low + 1)
    return np.clip(np.floor(bins), 0, LEVELS - 1).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(low: float, high: float) -> NDArray[np.uint8]:
    return _binned(np.arange(1 << 16), low, high)


def gray_image(image: Image.Image, pixel_range: PixelRange | None) -> Image.Image:
    """A deep image as 8-bit gray, a few rows at a time: large images need little more memory than their own."""
    from PIL import Image

    rows = max(1, _ROWS // max(1, image.width))
    if image.height <= rows or pixel_range is None:  # without a range, a float image is looked at as a whole
        return Image.fromarray(to_gray(pixel_values(image), pixel_range))
    gray = Image.new("L", image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        gray.paste(Image.fromarray(to_gray(pixel_values(part), pixel_range)), (0, top))
    return gray


@dataclass
class Extent:
    """What values the deep images of a data set hold.

    Attributes:
        images: number of deep images.
        low, high: the smallest and the largest value, without the 0.01 % of an image's pixels at either end.
        whole: whether all values are of a type of whole numbers.
    """

    images: int = 0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def add(self, image: Image.Image) -> None:
        """Look at one deep image."""
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
        """Take in what another part of the data set holds."""
        self.images += other.images
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.whole = self.whole and other.whole

    def pixel_range(self) -> PixelRange | None:
        """The range to use; None where there is no deep image.

        A usual range of which the values use at least half is taken, so that a few more images do not change it: [0, 2**k - 1] for
        k = 8 to 16 bits, and of floats [0, 1] and [-1, 1]. Else it is that of the values.
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
    """What became of images of more than 8 bits.

    Attributes:
        images: number of images looked at.
        deep: of these, the ones that a range was applied to.
        not_finite: of these, the ones with NaN or infinite values.
        reduced: images with 16 bits a color, which Pillow reads as 8.
        clipped: pixels outside the range.
        levels: (256) number of pixels at each gray level, of the deep images.
    """

    images: int = 0
    deep: int = 0
    not_finite: int = 0
    reduced: int = 0
    clipped: int = 0
    levels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))

    def add(self, image: Image.Image, gray: Image.Image | None, pixel_range: PixelRange | None) -> None:
        """Count one image; `gray` is what became of it where it is deep."""
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
        """Take in another part."""
        for name in ("images", "deep", "not_finite", "reduced", "clipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.levels = self.levels + other.levels

    @property
    def used_levels(self) -> int:
        """How many gray levels hold 99.9 % of the pixels of the deep images, the fullest first."""
        shares = np.cumsum(np.sort(self.levels)[::-1])
        return int(np.searchsorted(shares, _USED * shares[-1]) + 1) if shares[-1] else 0

    def notes(self, where: str, pixel_range: PixelRange | None, hint: str, always: bool = True) -> list[str]:
        """What a user should know, one sentence each.

        Args:
            where: what the images are of.
            pixel_range: that was applied.
            hint: what to do about a bad one.
            always: tell of the range also where nothing is wrong with it.
        """
        notes = []
        few, clipped = self.used_levels < _FEW, self.clipped / max(1, int(self.levels.sum()))
        if self.deep and (always or few or clipped > _CLIPPED):
            notes.append(self._summary(where, pixel_range, clipped))
        if self.deep and few:
            notes.append(f"they use {self.used_levels} of the 256 gray levels: {hint}")
        if self.not_finite:
            notes.append(
                f"{self.not_finite:,} images of {where} hold NaN or infinite values: NaN is taken as the lowest value"
            )
        if self.reduced:
            notes.append(
                f"{self.reduced:,} images of {where} have 16 bits a color, of which Pillow reads the high byte: if their values use "
                "less than 16 bits, convert them to 8 bits a color first"
            )
        return notes

    def _summary(self, where: str, pixel_range: PixelRange | None, clipped: float) -> str:
        mixed = self.deep < self.images
        of = f"{self.deep:,} of the {self.images:,} images" if mixed else f"the {self.deep:,} images"
        text = f"{of} of {where} have more than 8 bits: {described(pixel_range)} becomes the gray levels 0 to 255"
        text += "; the others have 8 bits and keep theirs" if mixed else ""
        return text + (f"; {clipped:.2g} of the pixels lie outside and are clipped" if clipped else "")

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "levels": self.levels.tolist()}

    @classmethod
    def of(cls, content: Any) -> Depth:
        """From what `content` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        levels = np.array(content["levels"], np.int64)
        counts = {name: int(content[name]) for name in ("images", "deep", "not_finite", "reduced", "clipped")}
        if levels.shape != (LEVELS,):
            raise ValueError("not 256 gray levels")
        return cls(**counts, levels=levels)


REDUCED = "edgekit_reduced"  # in an image's info: its file has 16 bits a color, its pixels have 8


def described(pixel_range: PixelRange | None) -> str:
    """A range, in words."""
    if isinstance(pixel_range, tuple):
        return f"[{pixel_range[0]:g}, {pixel_range[1]:g}]"
    return "the range of their number type ([0, 65535] of whole numbers, [0, 1] of floats)"


def parse_pixel_range(text: str) -> PixelRange | Literal["auto"]:
    """`auto`, `dtype`, or `LOW,HIGH`.

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
    """Refuse a pair that is no range.

    Raises:
        ValueError: low is not below high, or one of them is not finite.
    """
    if isinstance(pixel_range, tuple):
        low, high = pixel_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"pixel_range ([{low:g}, {high:g}]) must be two finite numbers, the lower one first")
