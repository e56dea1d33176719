"""Pillow's resizing in the order of its versions up to 12, whatever version is installed: for references that edgekit must equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from PIL import Image

_ONE_PASS = Image.Image.resize  # of images of which one side alone changes


@contextmanager
def order_of_pillow_12() -> Iterator[None]:
    """Resize horizontally, then vertically; the other way round where the image is over a hundred times as tall as wide."""
    with patch.object(Image.Image, "resize", _resize):
        yield


def _resize(
    image: Image.Image, size: tuple[int, int], resample: Any = None, box: Any = None, reducing_gap: Any = None
) -> Image.Image:
    assert reducing_gap is None
    left, top, right, bottom = box or (0, 0, *image.size)
    if image.height > 100 * image.width and size[1] < image.height:
        image = _ONE_PASS(image, (image.width, size[1]), resample, (0, top, image.width, bottom))
        return _ONE_PASS(image, tuple(size), resample, (left, 0, right, image.height))
    image = _ONE_PASS(image, (size[0], image.height), resample, (left, 0, right, image.height))
    return _ONE_PASS(image, tuple(size), resample, (0, top, image.width, bottom))
