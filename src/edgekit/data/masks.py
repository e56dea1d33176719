"""Masks of defects: images of the same size, black where the image is normal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import DataError
from edgekit.image_files import MAX_PIXELS, bounded_decoding, open_image, upright_size
from edgekit.pixel_range import is_deep, pixel_values
from edgekit.preprocess import Preprocessing

Mask = NDArray[np.bool_]
_BLURRED = {".jpg", ".jpeg"}  # black is not quite black in them


def check_mask(mask: Path, image: Path, where: str) -> None:
    """Refuse a mask that is no image, or of another size than its image. Only headers are read.

    Args:
        mask: the mask.
        image: its image; one that cannot be read is reported where it is decoded.
        where: the start of error messages.

    Raises:
        DataError: as above.
    """
    try:
        size = upright_size(mask)
    except DataError as error:
        raise DataError(f"{where}: the mask {mask}: {error.reason}", "replace it, or remove it") from error
    try:
        of_image = upright_size(image)
    except DataError:
        return
    if size != of_image:
        raise DataError(
            f"{where}: the mask {mask} has {size[0]} x {size[1]} pixels, but its image {image.name} has {of_image[0]} x {of_image[1]}",
            "a mask must have the size of its image",
        )


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> Mask:
    """Read a mask: bool (height, width), True where a pixel is not black; in a JPEG, where it is lighter than middle gray.

    Raises:
        DataError: it cannot be read.
    """
    with bounded_decoding():
        image = open_image(path, max_pixels)
        if is_deep(image):
            return np.asarray(pixel_values(image) != 0)
        values = np.asarray(image.convert("RGB")).max(axis=2)
        return np.asarray(values > (127 if path.suffix.lower() in _BLURRED else 0))


def no_defect(path: Path) -> Mask:
    """Return the mask of a normal image: bool (height, width), False everywhere.

    Raises:
        DataError: the image cannot be read.
    """
    width, height = upright_size(path)
    return np.zeros((height, width), dtype=bool)


def seen_by_model(mask: Mask, preprocessing: Preprocessing) -> Mask:
    """Return a mask as the model sees its image: resized and cropped likewise, True where a defect covers half of a pixel or more."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    return np.asarray(preprocessing(image)[:, :, 0] > 127)
