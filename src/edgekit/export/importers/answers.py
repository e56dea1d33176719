"""Kinds of classifier outputs: logits, probabilities, or one number for two classes. Needs only NumPy."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError

# The kind of a network's outputs, and how they become logits (n, classes):
#   unchanged; log p of probabilities; (0, z) of one logit; (log(1 - p), log p) of one probability.
Reading = Literal["logits", "probabilities", "one logit", "one probability"]
# Lower bounds of a probability before its logarithm: the first is a float32 number; the second is the smallest p for which 1 - p differs from 1.
SMALLEST, SMALLEST_OTHER = 1e-30, 1e-7
_SUM = 5e-3  # tolerance of the sum of a row of probabilities: the network may compute in half precision
_EDGE = 1e-4


def is_flat(shape: tuple[int, ...], count: int) -> bool:
    """Whether an array holds one row of numbers for each of `count` images: (n,), (n, k), (n, k, 1, 1), (n, 1, 1, k)."""
    return bool(shape) and shape[0] == count and 0 not in shape and sum(side > 1 for side in shape[1:]) <= 1


def sum_to_one(rows: NDArray[np.floating]) -> bool:
    """Whether rows (n, k), k >= 2, are probabilities of classes; rows that are not finite are ignored."""
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
    """Convert rows (n, k) to logits, float32 (n, classes)."""
    if reading == "one logit":
        return np.concatenate([np.zeros_like(rows), rows], axis=1).astype(np.float32)
    if reading == "one probability":
        rows = np.log(np.maximum(np.concatenate([1 - rows, rows], axis=1), SMALLEST_OTHER))
    if reading == "probabilities":
        rows = np.log(np.maximum(rows, SMALLEST))
    return rows.astype(np.float32)


WITHOUT_SIGMOID = "give it without its Sigmoid, so that it returns logits: with --task multilabel if an image may have several classes, else as it is"


def count_of_classes(numbers: int, reading: Reading) -> int:
    """The number of classes for `numbers` numbers per image."""
    return 2 if reading in {"one logit", "one probability"} else numbers


def multi_label(file: str, how: str) -> ExportError:
    """The error to raise for a multi-label network, which judges each class independently."""
    return ExportError(
        f"{file}: {how}, one per class: this is a multi-label network, whose classes do not exclude each other",
        WITHOUT_SIGMOID,
    )


def single_label(model: str) -> ExportError:
    """The error to raise for a network whose classes exclude each other, where an image may have several."""
    return ExportError(
        f"{model}: ends in a Softmax: its classes exclude each other, but --task multilabel is for images with any number of classes",
        "leave --task out, or give a network that returns one logit for each class",
    )
