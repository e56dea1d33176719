"""Metrics of multi-label classification, its temperature and the thresholds of its classes. NumPy alone.

Truth is a matrix of 0 and 1 (n, k): image i shows class j. Scores are of the same shape, higher meaning that the class is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tasks.calibration import BINS, COLDEST, HOTTEST, SIGNIFICANT

Truth = NDArray[Any]  # integers or booleans, (n, k)
FEWEST_POSITIVES = (
    10  # images of a class: with fewer, its own threshold follows single images, and the shared one is used
)
_HALVINGS = 60  # of an interval of logarithms: far below the precision of a float64


def sigmoid(z: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)), float64 of the same shape, without overflow."""
    wide = z.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1 / (1 + small), small / (1 + small))


def average_precisions(scores: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
    """The average precision of each class, (k,); NaN for a class without a positive image.

    AP = sum over the distinct scores, from the highest, of (recall gained there) * (precision there), as scikit-learn's
    `average_precision_score`: images of equal scores count together, whatever their order.

    Args:
        scores: (n, k).
        truth: (n, k).
    """
    return weighted_precisions(scores, truth.astype(np.float64))


def weighted_precisions(scores: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`average_precisions` where truth is a probability, (n, k): the share of an image that is positive."""
    found = np.full(scores.shape[1], np.nan)
    ranks = np.arange(1, len(scores) + 1)
    for c in range(scores.shape[1]):
        total = weights[:, c].sum()
        if total <= 0:
            continue
        order = np.argsort(-scores[:, c], kind="stable")
        hits = np.cumsum(weights[order, c])
        ordered = scores[order, c]
        last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)  # of each run of equal scores
        gained = np.diff(hits[last], prepend=0.0)
        found[c] = float((gained * hits[last] / ranks[last]).sum() / total)
    return found


def mean_average_precision(scores: NDArray[Any], truth: Truth) -> float:
    """mAP: the mean of the average precisions of the classes that have a positive image; 0 where none has."""
    each = average_precisions(scores, truth)
    known = each[np.isfinite(each)]
    return float(known.mean()) if len(known) else 0.0


def f1_scores(predicted: Truth, truth: Truth) -> tuple[float, float]:
    """F1 over all decisions (micro), and the mean of the classes' F1 (macro), of predicted (n, k) against true classes.

    F1 = 2 TP / (2 TP + FP + FN). Where nothing is there and nothing predicted, it is 1 over all decisions; such a class is left out of the mean.
    """
    decided, there = predicted.astype(bool), truth.astype(bool)
    both = 2.0 * (decided & there).sum(axis=0)
    total = decided.sum(axis=0) + there.sum(axis=0)
    micro = float(both.sum() / total.sum()) if total.sum() else 1.0
    known = total > 0
    return micro, float((both[known] / total[known]).mean()) if known.any() else 1.0


def best_threshold(scores: NDArray[np.float64], truth: Truth) -> float:
    """The threshold in [0, 1] with the highest F1, scores at or above it being positive; of equal ones the highest.

    It lies halfway between two neighboring scores, so that rounding does not change a decision.

    Args:
        scores: probabilities (n,).
        truth: (n,), at least one positive.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truth[order].astype(np.float64))
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    f1 = 2 * hits[last] / (last + 1 + hits[-1])
    best = int(last[f1.argmax()])
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)


def class_thresholds(probabilities: NDArray[np.float64], truth: Truth) -> tuple[list[float], float, int]:
    """A threshold for each class, (k), the shared one, and how many classes have one of their own.

    The shared one has the highest micro F1. A class with at least `FEWEST_POSITIVES` positive and as many negative images gets the one with the
    highest F1 of its own instead.
    """
    shared = best_threshold(probabilities.ravel(), truth.ravel()) if truth.any() else 0.5
    positives = truth.astype(bool).sum(axis=0)
    own = (positives >= FEWEST_POSITIVES) & (len(truth) - positives >= FEWEST_POSITIVES)
    each = [
        best_threshold(probabilities[:, c], truth[:, c]) if own[c] else shared for c in range(probabilities.shape[1])
    ]
    return each, shared, int(own.sum())


def fit_sigmoid_temperature(logits: NDArray[np.float32], truth: Truth) -> float:
    """The temperature T, one for all classes, for which sigmoid(z / T) has the least binary cross-entropy on labeled images.

    It is Guo et al. 2017, section 4.2, for sigmoids. As in `calibration.fit_temperature` the labels are smoothed by the weight of one further image
    of which nothing is known, so that T stays above 0 where every decision is right.

    Args:
        logits: float32 (n, k), n >= 1.
        truth: (n, k).
    """
    z = logits.astype(np.float64)
    if not np.abs(z).max():
        return 1.0
    unsure = 1 / (len(z) + 1)
    target = (1 - unsure) * truth + unsure / 2

    def slope(inverse: float) -> float:
        """Of the binary cross-entropy in 1 / T, in which it is convex."""
        return float(((sigmoid(z * inverse) - target) * z).sum())

    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def sigmoid_temperature_for(logits: NDArray[np.float32], truth: Truth) -> float:
    """Return `fit_sigmoid_temperature`, or 1 where it does not pass the likelihood-ratio test (see `calibration.temperature_for`).

    Args:
        logits: float32 (n, k), n >= 1.
        truth: (n, k).
    """
    fitted = fit_sigmoid_temperature(logits, truth)
    gain = binary_cross_entropy(logits, truth) - binary_cross_entropy(logits, truth, fitted)
    return fitted if truth.size * gain > SIGNIFICANT else 1.0


def binary_cross_entropy(logits: NDArray[np.float32], truth: Truth, temperature: float = 1.0) -> float:
    """Mean over images and classes of -log of the probability of what is true, in nats."""
    z = logits.astype(np.float64) / temperature
    return float((np.maximum(z, 0) - z * truth + np.log1p(np.exp(-np.abs(z)))).mean())


def class_wise_error(probabilities: NDArray[np.float64], truth: Truth, bins: int = BINS) -> float:
    """Class-wise expected calibration error (Kull et al. 2019, arXiv 1910.12656, equation 3): the mean over the classes of the ECE of "the
    class is there", with bins of equal width."""
    n, classes = probabilities.shape
    number = np.clip(np.ceil(probabilities * bins).astype(np.int64) - 1, 0, bins - 1)
    total = 0.0
    for c in range(classes):
        gap = np.bincount(number[:, c], weights=truth[:, c] - probabilities[:, c], minlength=bins)
        total += float(np.abs(gap).sum()) / n
    return total / classes
