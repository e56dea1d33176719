"""When a classifier answers `unknown`: scores that are lower for images unlike those it was trained on, and their threshold. NumPy alone.

A softmax gives its probabilities to whatever it is shown. How far an image's outputs are from those of known images tells more:
`benchmarks/unknown.py` compares the three scores on near and far unknowns, and the distance is the default for what it found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.abstention import DISTANCE, ENERGY, PROBABILITY, Rule
from edgekit.confidence import AnyConfidence, Confidence, Quality, ReliabilityBin
from edgekit.conformal import rank_beyond
from edgekit.intervals import of_order_statistic, wilson
from edgekit.tasks.calibration import (
    calibration_error,
    negative_log_likelihood,
    reliability,
    scaled_softmax,
    temperature_for,
)

MEANS, WHITENING = "means", "whitening"  # arrays of a geometry's file


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the images of known classes lie in one output (Lee et al. 2018, arXiv 1807.03888, equations 1 and 2).

    Attributes:
        output: the name of the output, the embedding or the logits.
        means: float32 (k, d), the mean of each class that images were found of.
        whitening: float32 (d, d), W with W transposed times W the inverse of the covariance that all classes share.
    """

    output: str
    means: NDArray[np.float32]
    whitening: NDArray[np.float32]

    @classmethod
    def of(cls, output: str, values: NDArray[np.float32], classes: NDArray[np.int64]) -> Geometry | None:
        """Estimate it from images, labeled or as the network itself classifies them; None where all values are the same.

        The covariance is shrunk toward a multiple of the identity (Ledoit and Wolf 2004), so that few images suffice.

        Args:
            output: the name of the output.
            values: float32 (n, d).
            classes: int64 (n,).
        """
        present, index = np.unique(classes, return_inverse=True)
        x = values.astype(np.float64)
        means = np.stack([x[index == k].mean(axis=0) for k in range(len(present))])
        covariance = shrunk_covariance(x - means[index])
        variances, directions = np.linalg.eigh(covariance)
        if variances[0] <= 0 or not np.isfinite(variances).all():
            return None
        whitening = directions.T / np.sqrt(variances)[:, None]
        return cls(output, means.astype(np.float32), whitening.astype(np.float32))

    def squared_distances(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """The squared Mahalanobis distance from the nearest class mean, (n,), of values (n, d)."""
        whitening = self.whitening.astype(np.float64)
        white, centers = values.astype(np.float64) @ whitening.T, self.means.astype(np.float64) @ whitening.T
        nearest = np.full(len(white), np.inf)
        for center in centers:  # not all at once: (n, k, d) of a thousand classes does not fit into a device's memory
            nearest = np.minimum(nearest, ((white - center) ** 2).sum(axis=1))
        return nearest


def shrunk_covariance(centered: NDArray[np.float64]) -> NDArray[np.float64]:
    """The covariance (d, d) of centered rows (n, d), shrunk as in Ledoit and Wolf 2004: the same as scikit-learn's `ledoit_wolf`."""
    n, d = centered.shape
    sample = centered.T @ centered / n
    scale = np.trace(sample) / d
    identity = np.eye(d)
    apart = ((sample - scale * identity) ** 2).sum() / d
    noise = ((centered**2).T @ centered**2 / n - sample**2).sum() / (n * d)
    weight = min(noise, apart) / apart if apart > 0 else 0.0
    shrunk: NDArray[np.float64] = (1 - weight) * sample + weight * scale * identity
    return shrunk


@dataclass(frozen=True, eq=False)
class Known:
    """How one variant tells known images from unknown ones, or which classes an image has.

    Attributes:
        confidence: the temperature, the rule and its threshold; of a multi-label classifier, the temperature and the thresholds of its classes.
        geometry: where known images lie, for the rule of the distance; else None.
        abstains: whether an image below the threshold is unknown; otherwise it is scored alone.
    """

    confidence: AnyConfidence
    geometry: Geometry | None = None
    abstains: bool = True


def rule_of(known: Known) -> Confidence:
    """The rule for unknown. Asked only where the task has one."""
    assert isinstance(known.confidence, Confidence)  # the manifest has been checked
    return known.confidence


def score_images(
    rule: Rule,
    logits: NDArray[np.float32],
    temperature: float,
    geometry: Geometry | None,
    values: NDArray[np.float32] | None,
) -> NDArray[np.float64]:
    """How well known images are, float64 (n,): higher is more so.

    - probability: the highest calibrated probability (Hendrycks and Gimpel 2017, arXiv 1610.02136).
    - energy: log sum exp(z), minus the energy at T = 1 (Liu et al. 2020, arXiv 2010.03759, equation 4).
    - distance: minus the squared Mahalanobis distance from the nearest class (Lee et al. 2018, equation 2).

    Args:
        rule: one of them.
        logits: float32 (n, classes).
        temperature: of the probability.
        geometry, values: of the distance: where known images lie, and the images' own values of that output.
    """
    if rule == PROBABILITY:
        return scaled_softmax(logits, temperature).max(axis=1)
    if rule == ENERGY:
        z = logits.astype(np.float64)
        largest = z.max(axis=1)
        return np.asarray(largest + np.log(np.exp(z - largest[:, None]).sum(axis=1)))
    assert rule == DISTANCE
    assert geometry is not None
    assert values is not None
    return -geometry.squared_distances(values)


def threshold_fault(rule: Rule, threshold: float) -> str:
    """Why no image of this rule can have such a score, in a clause; empty where one can."""
    if not math.isfinite(threshold):
        return f"{threshold:g} is not a number"
    if rule == PROBABILITY and not 0 <= threshold <= 1:
        return f"{threshold:g} is not a probability from 0 to 1"
    if rule == DISTANCE and threshold > 0:
        return f"{threshold:g} is above 0, and the score is minus a squared distance"
    return ""


def threshold_at(scores: NDArray[np.float64], share: float) -> tuple[float, tuple[float, float]]:
    """The threshold below which a further image of the same kind falls with a probability of at most `share`.

    It is the k-th smallest score, see `edgekit.conformal`.

    Args:
        scores: (n,), of images of known classes, at least `abstention.fewest_images(share)`.
        share: of them that may be called unknown.

    Returns:
        The threshold, and the 95 % interval of the share of such images that truly fall below it.
    """
    k = rank_beyond(share, len(scores))
    return float(np.sort(scores)[k - 1]), of_order_statistic(k, len(scores))


def calibrate(
    logits: NDArray[np.float32], labels: NDArray[np.int64], rule: Rule, false_abstain: float,
    geometry: Geometry | None, values: NDArray[np.float32] | None, are: str,
) -> Confidence:  # fmt: skip
    """Set the temperature and the threshold on labeled images.

    Args:
        logits: float32 (n, classes), of images of known classes from which no model learned.
        labels: int64 (n,).
        rule: the score.
        false_abstain: the share of known images that may be called unknown.
        geometry, values: see `score_images`.
        are: what the images are, for the record.
    """
    temperature = temperature_for(logits, labels)
    scores = score_images(rule, logits, temperature, geometry, values)
    threshold, interval = threshold_at(scores, false_abstain)
    return Confidence(
        temperature=temperature, rule=rule, threshold=threshold, false_abstain=false_abstain, interval=interval, images=len(labels), are=are
    )  # fmt: skip


def measure(
    logits: NDArray[np.float32], labels: NDArray[np.int64], unknown: NDArray[np.bool_], temperature: float, are: str,
    agreement: float | None,
) -> Quality:  # fmt: skip
    """What a temperature and a threshold do to labeled images that they were not set on.

    Args:
        logits: float32 (n, classes), of known classes.
        labels: int64 (n,).
        unknown: bool (n,), which images fall below the threshold.
        temperature: the fitted one.
        are: what the images are, for the record.
        agreement: with the trained model's decisions; None for the trained model itself.
    """
    bins = [reliability(logits, labels, t) for t in (1.0, temperature)]
    share = float(unknown.mean())
    right = logits.argmax(axis=1) == labels
    return Quality(
        images=len(labels),
        are=are,
        ece=(calibration_error(bins[0]), calibration_error(bins[1])),
        nll=(negative_log_likelihood(logits, labels), negative_log_likelihood(logits, labels, temperature)),
        unknown=share,
        unknown_interval=wilson(share, len(labels)),
        answered_accuracy=None if unknown.all() else float(right[~unknown].mean()),
        agreement=agreement,
        bins_before=[_recorded(one) for one in bins[0]],
        bins=[_recorded(one) for one in bins[1]],
    )


def _recorded(found: tuple[int, float, float]) -> ReliabilityBin:
    images, confidence, accuracy = found
    return ReliabilityBin(images=images, confidence=confidence, accuracy=accuracy)
