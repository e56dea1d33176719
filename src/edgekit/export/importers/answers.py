"""What the numbers that a network gives for an image are: logits, probabilities, or one number for two classes. NumPy alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError

# How logits (n, classes) are made of what a network gives:
#   as it is; log p of probabilities; (0, z) of one logit; (log(1 - p), log p) of one probability.
Reading = Literal["logits", "probabilities", "one logit", "one probability"]
# Of a probability before its logarithm: float32 holds the first; what 1 - p can tell apart from 0 is the second.
SMALLEST, SMALLEST_OTHER = 1e-30, 1e-7
_SUM = 5e-3  # how far the sum of a row of probabilities may be from 1: half precision inside the network
_EDGE = 1e-4


def is_flat(shape: tuple[int, ...], count: int) -> bool:
    """Whether an array holds one row of numbers for each of `count` images: (n,), (n, k), (n, k, 1, 1), (n, 1, 1, k)."""
    return bool(shape) and shape[0] == count and 0 not in shape and sum(side > 1 for side in shape[1:]) <= 1


def sum_to_one(rows: NDArray[np.floating]) -> bool:
    """Whether rows (n, k), k of 2 or more, are probabilities of classes; rows that are not finite do not count."""
    rows = rows[np.isfinite(rows).all(1)]
    if not len(rows) or rows.shape[1] < 2 or rows.min() < -_EDGE or rows.max() > 1 + _EDGE:
        return False
    return bool(np.abs(rows.sum(1) - 1).max() <= _SUM)


def softmax(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities (n, k) of logits (n, k), in float64."""
    shifted = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
    return result


def sigmoid(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), in float64, without overflow."""
    result: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * rows.astype(np.float64)))
    return result


def to_logits(rows: NDArray[np.floating], reading: Reading) -> NDArray[np.float32]:
    """Logits, float32 (n, classes), of rows (n, k)."""
    if reading == "one logit":
        return np.concatenate([np.zeros_like(rows), rows], axis=1).astype(np.float32)
    if reading == "one probability":
        rows = np.log(np.maximum(np.concatenate([1 - rows, rows], axis=1), SMALLEST_OTHER))
    if reading == "probabilities":
        rows = np.log(np.maximum(rows, SMALLEST))
    return rows.astype(np.float32)


def count_of_classes(numbers: int, reading: Reading) -> int:
    """How many classes `numbers` numbers an image stand for."""
    return 2 if reading in {"one logit", "one probability"} else numbers


def multi_label(file: str, how: str) -> ExportError:
    """What to raise for a network that says of each class independently whether an image shows it."""
    return ExportError(
        f"{file}: {how}, one for each class: a multi-label network, whose classes do not exclude each other",
        "give a classifier of one class an image; if it is one, export it without its Sigmoid",
    )
