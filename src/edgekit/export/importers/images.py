"""The images for calibration and verification of a user's own model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.data.decode import decode
from edgekit.data.images import spread_rows
from edgekit.data.source import ImageSource
from edgekit.data.sources import open_labeled, open_pool
from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import MOST_EMBEDDED, CalibrationPool
from edgekit.recipe import DataConfig
from edgekit.text import counted


def open_calibration(where: str, max_pixels: int | None = None) -> ImageSource:
    """Open unlabeled images.

    Raises:
        DataError: there are no images.
    """
    return open_pool(where, "--calibrate", _data(max_pixels))


def open_evaluation(where: str, max_pixels: int | None = None, several: bool = False) -> ImageSource:
    """Open labeled images; with `several`, a CSV file of images with any number of classes.

    Raises:
        DataError: there are no images, or only one class.
    """
    data = _data(max_pixels)
    return open_labeled(where, "--evaluate", data.model_copy(update={"classes_per_image": "any"}) if several else data)


def _data(max_pixels: int | None) -> DataConfig:
    return DataConfig() if max_pixels is None else DataConfig(max_pixels=max_pixels)


def spread(source: ImageSource, count: int) -> ImageSource:
    """At most `count` images, spread evenly over a source that may be sorted."""
    return source.subset(spread_rows(len(source.names), count))


def calibration_pool(
    source: ImageSource, preprocessing: Preprocessing, count: int, classes: int
) -> tuple[CalibrationPool, list[str]]:
    """The pool for calibration; of a large folder, only as many images as a draw embeds.

    Args:
        source: unlabeled images.
        preprocessing: the network's preprocessing.
        count: number of images to draw.
        classes: number of the network's classes.

    Returns:
        The pool, and notes on images that cannot be read.

    Raises:
        DataError: no image can be read.
    """
    images, _, notes = pixels(spread(source, MOST_EMBEDDED), preprocessing)
    return replace(CalibrationPool.of_images(images), count=count, classes=classes), [*source.notes, *notes]


def pixels(
    source: ImageSource, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, list[str]]:
    """Decode all images: uint8 (n, h, w, 3), their labels, and notes on unreadable images, which are left out.

    Raises:
        DataError: no image can be read.
    """
    decoded = decode(source, preprocessing, max_skipped=1.0)
    readable = np.array([bool(digest) for digest in decoded.digests])
    images = np.ascontiguousarray(decoded.images[readable])
    notes = [*source.notes, *decoded.notes]
    if skipped := decoded.skipped:
        first = f"{skipped[0].path}: {skipped[0].reason}"
        notes.append(
            f"left out {counted(len(skipped), 'image')} of {source.where} that cannot be read; the first is {first}"
        )
    return images, source.labels[readable] if source.labels is not None else None, notes
