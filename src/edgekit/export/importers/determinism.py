"""Check that a foreign network's output for an image is reproducible and independent of the other images of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError


def determinism_fault(
    name: str, answer: Callable[[Any], NDArray[Any]], images: Any, others: Any, tolerance: float
) -> ExportError | None:
    """The error to raise if part of a network is in training mode or random; None if its output is reproducible.

    Args:
        name: the user's name for it, for messages.
        answer: runs the network: images (n, ...) -> scores of any shape, with the same count of numbers per image.
        images: n images.
        others: a batch whose first image is the first of `images`, with other images beside it or none.
        tolerance: allowed difference between two outputs for an image, as a share of the largest score.
    """
    first, again, beside = answer(images), answer(images), answer(others)
    if not _alike(again, first, tolerance):
        return ExportError(
            f"{name}: gives different outputs for the same images: part of it is in training mode, or it draws random numbers",
            "call .eval() before exporting; it must also switch off functional calls: functional.dropout(x, p, training=self.training)",
        )
    if beside.size * len(images) != first.size * len(others) or not _alike(
        beside.reshape(len(others), -1)[0], first.reshape(len(images), -1)[0], tolerance, float(_largest(first))
    ):
        return ExportError(
            f"{name}: its output for an image depends on the other images of the batch: part of it is in training mode",
            "call .eval() before exporting; BatchNorm must have running statistics to switch to",
        )
    return None


def _alike(a: NDArray[Any], b: NDArray[Any], tolerance: float, reach: float | None = None) -> bool:
    """Whether two outputs are equal up to rounding, where both are finite."""
    if a.shape != b.shape:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    within = tolerance * max(_largest(b) if reach is None else reach, 1e-6)
    return bool(np.abs(a[finite] - b[finite]).max(initial=0) <= within)


def _largest(scores: NDArray[Any]) -> float:
    return float(np.abs(scores[np.isfinite(scores)]).max(initial=0))
