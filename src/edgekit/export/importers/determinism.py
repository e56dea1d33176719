"""Whether a foreign network answers an image always alike: not by chance, and not by the images beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError


def determinism_fault(
    name: str, answer: Callable[[Any], NDArray[Any]], images: Any, others: Any, tolerance: float
) -> ExportError | None:
    """What keeps a network from being exported because part of it is in training mode; None where nothing does.

    Args:
        name: what the user called it, for messages.
        answer: from images (n, ...) to scores, of any shape with as many numbers for each image.
        images: n of them.
        others: a batch whose first image is the first of `images`, with other ones beside it or none.
        tolerance: how much of the largest score two answers to an image may differ by.
    """
    first, again, beside = answer(images), answer(images), answer(others)
    if not _alike(again, first, tolerance):
        return ExportError(
            f"{name}: answers the same images differently from call to call: part of it is in training mode, or it draws random numbers",
            "call .eval(), and let it switch everything off that is random, as functional.dropout(x, p, training=self.training) does",
        )
    if beside.size * len(images) != first.size * len(others) or not _alike(
        beside.reshape(len(others), -1)[0], first.reshape(len(images), -1)[0], tolerance, float(_largest(first))
    ):
        return ExportError(
            f"{name}: answers an image differently beside other images: part of it is in training mode",
            "call .eval(), and let BatchNorm keep running statistics, so that it switches to them",
        )
    return None


def _alike(a: NDArray[Any], b: NDArray[Any], tolerance: float, reach: float | None = None) -> bool:
    """Whether two answers are the same up to what the order of additions changes, where both are finite."""
    if a.shape != b.shape:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    within = tolerance * max(_largest(b) if reach is None else reach, 1e-6)
    return bool(np.abs(a[finite] - b[finite]).max(initial=0) <= within)


def _largest(scores: NDArray[Any]) -> float:
    return float(np.abs(scores[np.isfinite(scores)]).max(initial=0))
