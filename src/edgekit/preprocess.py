"""From any image file to the uint8 pixels that a model takes: the same code in training evaluation and on the device.

The bundle carries a `Preprocessing`; whoever holds it can repeat what the training did, to the byte, with Pillow alone. Pillow is
imported with the first image: whoever has pixels already, a camera's for instance, needs none of it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_16_BIT_MODES = {"I;16", "I;16B", "I;16L", "I;16N"}


class Preprocessing(BaseModel):
    """How an upright RGB image becomes a square of `image_size` pixels.

    With `fit="crop"` the shorter side is resized to `resize_to` and the centre is cut out; with `fit="stretch"` the whole
    image is resized to the square whatever its shape. Resampling is Pillow's (antialiased).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    image_size: int = Field(ge=4, le=4096, description="side of the square that the model takes, in pixels")
    resize_to: int = Field(
        ge=4, le=8192, description="length of the shorter side before the centre is cut out, in pixels"
    )
    fit: Literal["crop", "stretch"] = "crop"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        if self.resize_to < self.image_size:
            raise ValueError(f"resize_to ({self.resize_to}) must be at least image_size ({self.image_size})")
        return self

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """An upright RGB image as uint8 pixels of shape (image_size, image_size, 3)."""
        from PIL.Image import Resampling

        resampling = Resampling[self.interpolation.upper()]
        size = self.image_size
        if self.fit == "stretch":
            return np.asarray(image.resize((size, size), resampling))
        width, height = image.size
        scale = self.resize_to / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        left, top = (width - size) // 2, (height - size) // 2
        # Only the centre is resized: faster, and an image that is long and thin does not become a huge one on the way.
        x, y = image.width / width, image.height / height
        box = (left * x, top * y, (left + size) * x, (top + size) * y)
        return np.asarray(image.resize((size, size), resampling, box=box))


def read_image(source: Path | str | bytes) -> Image.Image:
    """Any image that Pillow reads, as upright 8-bit RGB.

    EXIF orientation is applied; 16-bit greys keep their high byte; transparency is laid over white; palette, grey, CMYK
    and other colour spaces are converted; of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of an encoded image.

    Raises:
        DataError: the file is missing, is not an image, is truncated, or is large enough to be a decompression bomb.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = "<bytes>" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder, not an image") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels to be decoded safely ({error})") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, … on bad files
        reason = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{name}: {reason or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any Pillow mode as 8-bit RGB (see `read_image` for the rules)."""
    from PIL import Image

    if image.mode in _16_BIT_MODES:
        return _grey((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "I":  # 32-bit container; PNG and TIFF readers put 16-bit greys here
        return _grey(np.clip(np.asarray(image), 0, 65535) >> 8)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return _grey(np.clip(values * 255.0 if values.max(initial=0) <= 1.0 else values, 0, 255))
    if image.mode == "La":  # premultiplied, as only some TIFFs are; Pillow converts it to LA and to nothing else
        image = image.convert("LA")
    if image.mode in {"RGBA", "LA", "PA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey(values: NDArray[np.generic]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
