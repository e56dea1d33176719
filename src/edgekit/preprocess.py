"""Convert any image file to the uint8 pixels that a model takes: the same code in evaluation after training and on the device.

The bundle stores a `Preprocessing`, which repeats the preprocessing of training byte for byte, with Pillow only. Pillow is imported
with the first image file: pixels from a camera do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from edgekit.errors import DataError
from edgekit.image_files import MAX_PIXELS, as_image, bounded_decoding, open_image
from edgekit.pixel_range import SOURCE, PixelRange, check_pixel_range, gray_image, is_deep
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeBounds

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_PIXELS", "Preprocessing", "as_image", "bounded_decoding", "open_image", "read_image", "to_rgb"]

_TALL = 100  # times as high as wide: the first pass is vertical, so that what lies between the passes is small
_LONGEST = 50_000_000  # pixels: if the resized picture would be larger, only its center is resized
_STRIP = 1 << 24  # pixels of a transparent picture to blend with white at a time


class Preprocessing(BaseModel):
    """How an upright image becomes one of `image_size`, height H and width W.

    `resize_to` is the shorter side of an area of the shape of H x W, for a square the area's side. With `fit="crop"`, the image keeps its
    aspect ratio and is resized so that it just covers that area: for a square, its shorter side becomes `resize_to`. The center of H x W
    pixels is cut out. With `fit="stretch"`, the whole image is resized to H x W, whatever its aspect ratio. Resampling is that of Pillow
    (antialiased), the same with every version of it.

    `geometry` defines how sides are rounded. "edgekit": sides to the nearest pixel, margins down, and only the center is resized.
    "torchvision": as `torchvision.transforms.Resize` and `CenterCrop`, and so timm's transforms, pixel by pixel (the longer side is
    truncated, the margin is rounded half to even, missing pixels are filled); there, `fit="stretch"` resizes to the area of `resize_to`
    and cuts out the center, and `fit="border"` resizes the image so that it fits into the area, and fills the rest. Where H and W differ,
    it is timm's `ResizeKeepRatio`, which rounds to the nearest pixel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, MOST_SIDE)] = Field(
        description="size of the image that the model takes, in pixels: the side of a square, or [height, width]"
    )
    resize_to: int = Field(
        ge=4,
        le=8192,
        description="shorter side, in pixels, of the area of the shape of image_size that the image must cover before the center is cut out; "
        "for a square: length of the image's shorter side",
    )
    fit: Literal["crop", "stretch", "border"] = Field(
        "crop",
        description="crop: the image covers the area of resize_to (of a square, its shorter side becomes resize_to); stretch: it becomes the area, "
        "whatever its aspect ratio; border: it fits into the area (of a square, its longer side becomes resize_to)",
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    geometry: Literal["edgekit", "torchvision"] = Field(
        "edgekit",
        description="how sides and margins are rounded: as edgekit trains, or as torchvision's and timm's transforms do",
    )
    fill: tuple[int, int, int] = Field(
        (0, 0, 0),
        description="geometry torchvision: color, 0 to 255, of the part of the result that the resized image does not cover",
    )
    pixel_range: PixelRange | None = Field(
        None,
        description="images of more than 8 bits: the lowest and the highest value, which become 0 and 255; dtype: [0, 65535] for "
        "integers, [0, 1] for floats; null: there was no such training image",
    )

    @field_validator("pixel_range", mode="after")
    @classmethod
    def _is_a_range(cls, pixel_range: PixelRange | None) -> PixelRange | None:
        check_pixel_range(pixel_range)
        return pixel_range

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        if self.geometry == "torchvision":
            return self
        if self.resize_to < (shorter := self.image_size.shorter):
            of = "" if self.image_size.is_square else "the shorter side of "
            raise ValueError(f"resize_to ({self.resize_to}) must be at least {of}image_size ({shorter})")
        if self.fit == "border":
            raise ValueError("fit: border needs geometry: torchvision")
        return self

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, handler: Callable[[Preprocessing], dict[str, Any]]) -> dict[str, Any]:
        """Leave out newer keys that have their defaults: digests of older records stay valid, and a device with an older edgekit
        reads the bundle, or refuses it if it would compute other pixels."""
        content = handler(self)
        for name in ("geometry", "fill", "pixel_range"):
            if getattr(self, name) == type(self).model_fields[name].default:
                content.pop(name, None)
        return content

    def read(self, source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """Read the pixels (H, W, 3) of a file.

        Raises:
            DataError: it cannot be read, or has too many pixels.
        """
        with bounded_decoding():
            return self(open_image(source, max_pixels))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert an upright image to uint8 pixels (H, W, 3); it is converted to RGB first (see `to_rgb`)."""
        from PIL.Image import Resampling

        if image.mode != "RGB":
            image = to_rgb(image, self.pixel_range)
        resampling = Resampling[self.interpolation.upper()]
        if self.geometry == "torchvision":
            return self._as_torchvision(image, resampling)
        wanted = self.image_size.width, self.image_size.height
        if self.fit == "stretch":
            return np.asarray(_resize(image, wanted, resampling))
        scale = max(area / side for area, side in zip(self._area(), image.size, strict=True))
        width, height = (max(least, round(side * scale)) for least, side in zip(wanted, image.size, strict=True))
        left, top = (width - wanted[0]) // 2, (height - wanted[1]) // 2
        return np.asarray(_resized_part(image, (width, height), (left, top), wanted, resampling))

    def _area(self) -> tuple[float, float]:
        """Width and height of the area of `resize_to`: the shape of `image_size`, not rounded."""
        height, width = self.image_size
        # In this order: the area of a square is then `resize_to` exactly.
        return width * self.resize_to / self.image_size.shorter, height * self.resize_to / self.image_size.shorter

    def _as_torchvision(self, image: Image.Image, resampling: Any) -> NDArray[np.uint8]:
        """torchvision.transforms.functional: `resize`, `center_crop`; timm.data.transforms: `ResizeKeepRatio`, `center_crop_or_pad`."""
        from PIL import Image

        wanted = self.image_size.width, self.image_size.height
        width, height = self.resized(*image.size)
        margins = []
        for size, side in zip(wanted, (width, height), strict=True):
            missing = size - side
            # Pad first: an odd margin is one pixel smaller before the picture. Then cut out the center.
            margins.append(-(missing // 2) if missing > 0 else round(-missing / 2))
        left, top = margins
        result = Image.new("RGB", wanted, self.fill)
        if width * height > _LONGEST:
            part = (min(wanted[0], width), min(wanted[1], height))
            image = _resized_part(image, (width, height), (max(0, left), max(0, top)), part, resampling)
            left, top = min(0, left), min(0, top)
        elif (width, height) != image.size:
            image = _resize(image, (width, height), resampling)
        result.paste(image, (-left, -top))
        return np.asarray(result)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the whole resized image, rounded as in torchvision and timm."""
        across, down = (int(side) for side in self._area())
        if self.fit == "stretch":
            return across, down
        if self.fit == "border" or not self.image_size.is_square:
            ratios = height / down, width / across
            ratio = max(ratios) if self.fit == "border" else min(ratios)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        short, long = min(width, height), max(width, height)
        longer = int(self.resize_to * long / short)
        return (self.resize_to, longer) if width <= height else (longer, self.resize_to)


def _resize(
    image: Image.Image, size: tuple[int, int], resampling: Any, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Resize one axis after the other, so that every version of Pillow gives the same pixels.

    Between the two passes lie 8 bits, so their order matters. Up to Pillow 12 the first one is horizontal, except for very tall images; Pillow
    13 begins with the vertical one for most tall images. This keeps the earlier order.
    """
    width, height = size
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    tall = image.height > _TALL * image.width and height < image.height
    for axis in ("down", "across") if tall else ("across", "down"):
        if axis == "across":
            image = image.resize((width, image.height), resampling, box=(left, 0, right, image.height))
        else:
            image = image.resize((image.width, height), resampling, box=(0, top, image.width, bottom))
    return image


def _resized_part(
    image: Image.Image, resized: tuple[int, int], offset: tuple[int, int], size: tuple[int, int], resampling: Any
) -> Image.Image:
    """Resize only a part of the resized image: faster, and a long, thin image does not become a huge one."""
    (width, height), (left, top) = resized, offset
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size[0]) * x, (top + size[1]) * y)
    return _resize(image, size, resampling, box)


def read_image(
    source: Path | str | bytes, pixel_range: PixelRange | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read any image that Pillow reads, as upright 8-bit RGB.

    EXIF orientation is applied; transparency is blended with white; palette, gray, CMYK and other color spaces are converted; gray
    of more than 8 bits is mapped by `pixel_range` (see `edgekit.pixel_range.to_gray`); of an animation, the first frame is taken.

    Args:
        source: a path, or the bytes of an encoded image.
        pixel_range: range for images of more than 8 bits.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: the file is missing, is not an image, is truncated, or has too many pixels.
    """
    return to_rgb(open_image(source, max_pixels), pixel_range)


def to_rgb(image: Image.Image, pixel_range: PixelRange | None = None) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit RGB (see `read_image` for the rules).

    Raises:
        DataError: Pillow cannot convert it, because its file is damaged.
    """
    try:
        return _rgb(image, pixel_range)
    except DataError:
        raise
    except Exception as error:  # Pillow raises ValueError, OSError and others for a palette or a mode that cannot be
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot be converted to RGB: {reason}", where=image.info.get(SOURCE, "")) from error


def _rgb(image: Image.Image, pixel_range: PixelRange | None) -> Image.Image:
    if is_deep(image):
        return gray_image(image, pixel_range).convert("RGB")
    if image.mode == "La":  # premultiplied, in some TIFFs; Pillow converts it only to LA
        image = image.convert("LA")
    if image.mode in {"RGBA", "LA", "PA", "RGBa"} or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _colors(image: Image.Image) -> int:
    """Return the number of colors of a palette image."""
    palette = image.palette
    return 256 if palette is None else len(palette.palette) // len(palette.mode)


def _over_white(image: Image.Image) -> Image.Image:
    """Blend a transparent image with white, in strips: as a whole, it would take four times its memory."""
    from PIL import Image

    transparency = image.info.get("transparency")
    if image.mode == "P" and isinstance(transparency, bytes) and len(transparency) > (colors := _colors(image)):
        image = image.copy()  # the caller's stays as it is
        image.info["transparency"] = transparency[:colors]  # damaged, or of a careless writer: Pillow refuses it
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        part = image if image.height <= rows else image.crop((0, top, image.width, min(top + rows, image.height)))
        rgba = part.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return rgb
