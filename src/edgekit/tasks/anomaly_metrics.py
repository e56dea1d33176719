"""How well scores and heat maps find anomalies, and where the threshold stands. NumPy alone.

A score is the larger, the more anomalous an image or a pixel is; an image is called anomalous if its score is **above** the threshold.
All areas come from one formula, which needs no curve and holds with ties: with the share of negatives above a positive's score (a) and at or
above it (b), that positive is found from the false-positive rate b on, and linearly more likely between a and b.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.conformal import fewest_samples, rank_beyond
from edgekit.errors import DataError
from edgekit.intervals import of_order_statistic
from edgekit.shares import percent

PRO_LIMIT = 0.3  # false-positive rate up to which PRO is integrated (Bergmann et al. 2021, section 5.2)
RESAMPLES = 1000
FEWEST_OF_EACH = 3  # normal and anomalous images that a threshold can be chosen on
_CHUNK = 64  # resamples at a time

Scores = NDArray[np.floating]
Labels = NDArray[np.integer] | NDArray[np.bool_]
Mask = NDArray[np.bool_]


def image_auroc(scores: Scores, labels: Labels) -> float:
    """Return the area under the ROC curve: the probability that an anomalous image scores above a normal one, ties counting half.

    Args:
        scores: (n,).
        labels: (n,), 0 normal, 1 anomalous.

    Raises:
        ValueError: one of the two kinds is missing, or a score is not a number.
    """
    anomalous = np.asarray(labels).astype(bool)
    values = _finite(scores)
    rates = _FalsePositives(values[anomalous])
    rates.add(values[~anomalous])
    return rates.area(np.ones(int(anomalous.sum())), 1.0)


def roc(scores: Scores, labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the ROC curve: false-positive rates, true-positive rates, and the thresholds "at or above" that give them, from strict to lax.

    The first point is (0, 0) with the threshold infinity, the last one (1, 1).

    Raises:
        ValueError: as in `image_auroc`.
    """
    anomalous = np.asarray(labels).astype(bool)
    values = _finite(scores)
    if anomalous.all() or not anomalous.any():
        raise ValueError("normal and anomalous images are needed")
    thresholds = np.unique(values)[::-1]
    rates = [
        1 - np.searchsorted(np.sort(part), thresholds, side="left") / len(part)
        for part in (values[~anomalous], values[anomalous])
    ]
    start = np.zeros(1)
    return np.r_[start, rates[0]], np.r_[start, rates[1]], np.r_[np.inf, thresholds]


def pixel_auroc(maps: Sequence[Scores], masks: Sequence[Mask | None]) -> float:
    """Return the area under the ROC curve of all pixels.

    Args:
        maps: n heat maps, float (h, w) each.
        masks: n masks, bool (h, w) of the same size; an image without one (None) does not count.

    Raises:
        ValueError: all pixels are of one kind, a value is not a number, or a map and its mask differ in size.
    """
    pairs = _pairs(maps, masks)
    rates = _FalsePositives(np.concatenate([m[mask] for m, mask in pairs]))
    for values, mask in pairs:
        rates.add(values[~mask])
    return rates.area(np.ones(len(rates.positives)), 1.0)


def region_overlap(maps: Sequence[Scores], masks: Sequence[Mask | None], limit: float = PRO_LIMIT) -> float:
    """Return PRO: the normalized area under the mean per-region overlap, over false-positive rates up to `limit`.

    The overlap of a region (an 8-connected component of a mask) at a threshold is the share of its pixels at or above it; every region
    weighs the same, however large it is; false positives are counted among all normal pixels (Bergmann et al., The MVTec Anomaly Detection
    Dataset, IJCV 2021, equations 2 and 3).

    Args:
        maps, masks: as in `pixel_auroc`.
        limit: of the false-positive rate.

    Raises:
        ValueError: as in `pixel_auroc`.
    """
    pairs = _pairs(maps, masks)
    weights = []
    for _, mask in pairs:
        found = regions(mask)[mask]
        weights.append(1 / np.bincount(found)[found] if len(found) else np.zeros(0))
    rates = _FalsePositives(np.concatenate([m[mask] for m, mask in pairs]))
    for values, mask in pairs:
        rates.add(values[~mask])
    return rates.area(np.concatenate(weights), limit)


def regions(mask: Mask) -> NDArray[np.int64]:
    """Number the 8-connected components of a mask from 1; 0 elsewhere. int64 (h, w).

    Runs of each row are joined with those of the row before that touch them, as in Rosenfeld & Pfaltz (1966).
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]  # one behind the last pixel; in the order of the starts
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 1))
    for row in range(1, height):
        above, here = int(first[row - 1]), int(first[row])
        last_above, last = here, int(first[row + 1])
        while above < last_above and here < last:
            if starts[above] <= stops[here] and starts[here] <= stops[above]:  # they touch, corners included
                parent[root(here)] = root(above)
            if stops[above] < stops[here]:
                above += 1
            else:
                here += 1
    numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)[1] + 1
    labels = np.zeros((height, width), dtype=np.int64)
    for number, at, start, stop in zip(numbers, rows, starts, stops, strict=True):
        labels[at, start:stop] = number
    return labels


@dataclass(frozen=True)
class QuantileThreshold:
    """A threshold from normal images alone.

    Attributes:
        threshold: an image is called anomalous if its score is above it.
        false_alarms: the stated share of further normal images above it.
        interval: 95 % interval of the share of normal images that is truly above it.
        images: number of normal images.
    """

    threshold: float
    false_alarms: float
    interval: tuple[float, float]
    images: int


def quantile_threshold(scores: Scores, false_alarms: float) -> QuantileThreshold:
    """Set the threshold that a further normal image exceeds with a probability of at most `false_alarms`.

    It is the k-th largest score, see `edgekit.conformal`.

    Args:
        scores: (n,), of normal images that no model learned from.
        false_alarms: in (0, 1).

    Raises:
        DataError: there are too few images.
        ValueError: a score is not a number.
    """
    values = np.sort(_finite(scores))
    k = rank_beyond(false_alarms, len(values))
    if k < 1:
        raise DataError(
            f"a threshold with {percent(false_alarms)} false alarms needs {fewest_samples(false_alarms)} held-out normal images, but there are "
            f"{len(values)}",
            "hold more out (data.probe), add normal images, or allow more false alarms",
        )
    low, high = of_order_statistic(k, len(values))
    return QuantileThreshold(float(values[-k]), false_alarms, (low, high), len(values))


@dataclass(frozen=True)
class BestThreshold:
    """The threshold with the best F1 on labeled images.

    Attributes:
        threshold: an image is called anomalous if its score is above it.
        f1: harmonic mean of precision and recall of the anomalous images there; optimistic, because the threshold was chosen on them.
        interval: 95 % bootstrap interval of the threshold.
        f1_interval: 95 % bootstrap interval of the best F1.
        normal, anomalous: numbers of images.
    """

    threshold: float
    f1: float
    interval: tuple[float, float]
    f1_interval: tuple[float, float]
    normal: int
    anomalous: int


def best_threshold(scores: Scores, labels: Labels, seed: int = 0, resamples: int = RESAMPLES) -> BestThreshold:
    """Choose the threshold with the best F1: halfway between two neighboring scores, as a float32; of equally good ones the highest.

    The interval resamples the normal and the anomalous images separately (percentile bootstrap, Efron 1979).

    Args:
        scores: (n,), rounded to float32, which models give.
        labels: (n,), 0 normal, 1 anomalous.
        seed: of the resampling.
        resamples: number of resamples.

    Raises:
        DataError: there are fewer than three normal or three anomalous images.
        ValueError: a score is not a number.
    """
    anomalous = np.asarray(labels).astype(bool)
    values = _finite(scores).astype(np.float32)
    bad, good = int(anomalous.sum()), int((~anomalous).sum())
    if min(bad, good) < FEWEST_OF_EACH:
        raise DataError(
            f"a threshold on labeled images needs {FEWEST_OF_EACH} normal and {FEWEST_OF_EACH} anomalous ones, but there are {good} and {bad}",
            "label more, or set the threshold on held-out normal images",
        )
    distinct, at_value = np.unique(values, return_inverse=True)
    counts = [np.bincount(at_value[kind], minlength=len(distinct)) for kind in (~anomalous, anomalous)]
    cuts = _cuts(distinct)
    f1 = _f1(counts[0][None], counts[1][None])[0]
    best = _last_best(f1[None])[0]
    random = np.random.default_rng(seed)
    found, reached = [], []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = [random.multinomial(n, c / n, size=size) for n, c in zip((good, bad), counts, strict=True)]
        of_draws = _f1(drawn[0], drawn[1])
        chosen = _last_best(of_draws)
        found.append(cuts[chosen])
        reached.append(of_draws[np.arange(size), chosen])
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975], method="inverted_cdf")
    worst, top = np.quantile(np.concatenate(reached), [0.025, 0.975], method="inverted_cdf")
    return BestThreshold(
        float(cuts[best]), float(f1[best]), (float(low), float(high)), (float(worst), float(top)), good, bad
    )


def f1_at(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the F1 of the anomalous images, where those above the threshold are called so; 0 if none is found."""
    anomalous, called = np.asarray(labels).astype(bool), np.asarray(scores) > threshold
    hits = int((anomalous & called).sum())
    return 2 * hits / max(1, int(anomalous.sum()) + int(called.sum()))


def _cuts(distinct: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thresholds of which number j has the scores from j on above it. As float32: NumPy rounds a threshold to the type of the scores."""
    lower = np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct[:-1]]
    middle = (lower / 2 + distinct / 2).astype(np.float32)
    return np.where((lower < middle) & (middle < distinct), middle, lower)


def _f1(good: NDArray[np.int64], bad: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 where the values from each position on are called anomalous; counts (draws, values)."""
    false, true = (np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] for counts in (good, bad))
    return np.asarray(2 * true / (true + false + bad.sum(axis=1, keepdims=True)))


def _last_best(f1: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(f1.shape[1] - 1 - f1[:, ::-1].argmax(axis=1))


class _FalsePositives:
    """Counts negatives above and at each positive's score, image by image, so that no sorted list of all negatives is needed."""

    def __init__(self, positives: Scores) -> None:
        self.positives = positives
        self.distinct, self.place = np.unique(positives, return_inverse=True)
        self.below = np.zeros(
            len(self.distinct) + 1, dtype=np.int64
        )  # entry j: negatives v with distinct[j - 1] < v <= distinct[j]
        self.equal = np.zeros(len(self.distinct) + 1, dtype=np.int64)
        self.total = 0

    def add(self, negatives: Scores) -> None:
        left = np.searchsorted(self.distinct, negatives, side="left")
        equal = np.searchsorted(self.distinct, negatives, side="right") > left
        self.below += np.bincount(left, minlength=len(self.below))
        self.equal += np.bincount(left[equal], minlength=len(self.equal))
        self.total += len(negatives)

    def area(self, weights: NDArray[np.float64], limit: float) -> float:
        """Return the area under the weighted ROC curve up to the false-positive rate `limit`, as a share of the largest one."""
        if not len(self.positives) or not self.total:
            raise ValueError("normal and anomalous ones are needed")
        upto = np.cumsum(self.below)[:-1]  # negatives at or below each distinct positive
        a = (self.total - upto) / self.total
        b = a + self.equal[:-1] / self.total
        width = np.where(b > a, b - a, 1)
        within = np.clip(limit - a, 0, b - a)
        area = within**2 / (2 * width) + np.maximum(0, limit - b)
        return float((weights * area[self.place]).sum() / weights.sum() / limit)


def _pairs(maps: Iterable[Scores], masks: Iterable[Mask | None]) -> list[tuple[Scores, Mask]]:
    pairs = [(_finite(m), mask) for m, mask in zip(maps, masks, strict=True) if mask is not None]
    for values, mask in pairs:
        if values.shape != mask.shape:
            raise ValueError(f"a map of {values.shape} and its mask of {mask.shape} differ in size")
    if not pairs:
        raise ValueError("no image has a mask")
    return pairs


def _finite(scores: Scores) -> Scores:
    values = np.asarray(scores)
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number")
    return values
