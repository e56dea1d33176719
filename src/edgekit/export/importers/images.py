"""The images that a user's own model is calibrated with and verified on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.data.decode import decode
from edgekit.data.images import spread_rows
from edgekit.data.source import ImageSource
from edgekit.data.sources import open_labeled, open_pool
from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import MOST_EMBEDDED, Candidates
from edgekit.recipe import DataConfig


def open_calibration(where: str, max_pixels: int | None = None) -> ImageSource:
    """Images without labels.

    Raises:
        DataError: there are none.
    """
    return open_pool(where, "--calibrate", _data(max_pixels))


def open_evaluation(where: str, max_pixels: int | None = None) -> ImageSource:
    """Labeled images.

    Raises:
        DataError: there are none, or only one class of them.
    """
    return open_labeled(where, "--evaluate", _data(max_pixels))


def _data(max_pixels: int | None) -> DataConfig:
    return DataConfig() if max_pixels is None else DataConfig(max_pixels=max_pixels)


def spread(source: ImageSource, count: int) -> ImageSource:
    """At most `count` images, spread over a source that may be sorted."""
    return source.subset(spread_rows(len(source.names), count))


def candidates(
    source: ImageSource, preprocessing: Preprocessing, count: int, classes: int
) -> tuple[Candidates, list[str]]:
    """What calibration draws from: of a large folder, no more images than the draw would look at.

    Args:
        source: images without labels.
        preprocessing: of the network.
        count: how many to draw.
        classes: of the network.

    Returns:
        The images, and notes on those that cannot be read.

    Raises:
        DataError: none can be read.
    """
    images, _, notes = pixels(spread(source, MOST_EMBEDDED), preprocessing)
    return replace(Candidates.these(images), count=count, classes=classes), [*source.notes, *notes]


def pixels(
    source: ImageSource, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, list[str]]:
    """Decode all images: uint8 (n, s, s, 3), their labels, and notes on those that cannot be read and are left out.

    Raises:
        DataError: none can be read.
    """
    decoded = decode(source, preprocessing, max_skipped=1.0)
    readable = np.array([bool(digest) for digest in decoded.digests])
    images = np.ascontiguousarray(decoded.images[readable])
    notes = [*source.notes, *decoded.notes]
    if skipped := decoded.skipped:
        first = f"{skipped[0].path}: {skipped[0].reason}"
        notes.append(
            f"{len(skipped)} images of {source.where} cannot be read and are left out, the first being {first}"
        )
    return images, source.labels[readable] if source.labels is not None else None, notes
