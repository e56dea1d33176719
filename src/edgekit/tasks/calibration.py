"""Confidence of a classifier that one can act on: the temperature, and how far confidence and accuracy are apart. NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of equal width, as in Guo et al. 2017
COLDEST, HOTTEST = 0.01, 100.0  # temperatures
SIGNIFICANT = 1.92  # nats: half of the 95 % quantile of chi-square with one degree of freedom, 3.84
_HALVINGS = 60  # of an interval of logarithms: far below the precision of a float64


def scaled_softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities softmax(z / T) over the last axis, float64 of the logits' shape.

    The largest logit is taken off first, so that no exponential overflows.
    """
    shifted = (logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / temperature
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature T for which softmax(z / T) has the least negative log-likelihood on labeled images (Guo et al. 2017, section 4.2).

    Where a classifier is right on every image, no temperature is cold enough: the likelihood grows until T is 0. So the labels are smoothed as
    in Platt 1999, by the weight of one further image whose class is unknown, which fades as the images become more.

    Args:
        logits: float32 (n, classes), n >= 1.
        labels: int64 (n,), the true classes.

    Returns:
        From `COLDEST` to `HOTTEST`; 1 where the logits say nothing.
    """
    z = logits.astype(np.float64)
    z -= z.mean(axis=1, keepdims=True)  # a constant of a row changes no probability
    if not np.ptp(z):
        return 1.0
    unsure = 1 / (len(z) + 1)
    wanted = (1 - unsure) * z[
        np.arange(len(z)), labels
    ].sum()  # the uniform part of the target has the mean logit, which is 0

    def slope(inverse: float) -> float:
        """Of the negative log-likelihood in 1 / T, in which it is convex."""
        return float((scaled_softmax(z, 1 / inverse) * z).sum()) - wanted

    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def temperature_for(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return `fit_temperature`, or 1 where the labels do not show that it is better than 1.

    A temperature that is fitted to few images fits their noise, and may make the probabilities of other images worse. So it is taken only if it
    passes the likelihood-ratio test (Wilks 1938) at 5 %: it must raise the log-likelihood of the labels by more than `SIGNIFICANT`.

    Args:
        logits: float32 (n, classes), n >= 1.
        labels: int64 (n,), the true classes.
    """
    fitted = fit_temperature(logits, labels)
    gain = negative_log_likelihood(logits, labels) - negative_log_likelihood(logits, labels, fitted)
    return fitted if len(labels) * gain > SIGNIFICANT else 1.0


def negative_log_likelihood(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean of -log softmax(z / T) of the true class, in nats."""
    z = logits.astype(np.float64) / temperature
    largest = z.max(axis=1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1))
    return float((total - z[np.arange(len(z)), labels]).mean())


Bin = tuple[int, float, float]  # number of images, their mean confidence, their accuracy


def reliability(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0, bins: int = BINS
) -> list[Bin]:
    """Confidence and accuracy by bins of equal width (k / bins, (k + 1) / bins] of the highest probability; empty bins are left out."""
    probabilities = scaled_softmax(logits, temperature)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        (int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for k in range(bins)
        if (inside := number == k).any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error: the mean of |accuracy - confidence| over the bins, weighted by their images (Naeini et al. 2015)."""
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in bins) / sum(n for n, _, _ in bins)
