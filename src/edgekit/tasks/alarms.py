"""Set the score above which an image is anomalous, and measure what it does. NumPy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.alarms import Alarm, AlarmQuality, AlarmRule
from edgekit.conformal import fewest_samples
from edgekit.intervals import of_order_statistic, wilson
from edgekit.tasks.anomaly import MAP, SCORE
from edgekit.tasks.anomaly_metrics import best_threshold, f1_at, quantile_threshold
from edgekit.tasks.task import Outputs

_SHOWN = 0.95  # share of normal images whose heat maps are not outlined anywhere


def set_alarm(
    outputs: Outputs, labels: NDArray[np.bool_], rule: AlarmRule, false_alarms: float, trim: float, are: str
) -> Alarm:
    """Set the threshold of a model on some images.

    Args:
        outputs: its score and map of them.
        labels: whether each is anomalous; of the rule `normal` none is.
        rule: what sets it.
        false_alarms: of the rule `normal`: the share of normal images that may be called anomalous.
        trim: likewise: the share of these images that may be anomalous: so many with the largest scores do not count.
        are: what the images are, for the record.
    """
    scores, maps = outputs[SCORE].astype(np.float64), outputs[MAP][~labels]
    map_threshold = float(np.quantile(maps.reshape(len(maps), -1).max(1), _SHOWN))
    if rule == "labeled":
        best = best_threshold(scores, labels.astype(np.int64))
        return Alarm(
            threshold=best.threshold, rule="labeled", interval=best.interval, f1=best.f1, f1_interval=best.f1_interval,
            images=len(scores), are=are, map_threshold=map_threshold,
        )  # fmt: skip
    trimmed = min(math.ceil(trim * len(scores)), len(scores) - 1) if trim else 0
    kept = np.sort(scores)[: len(scores) - trimmed]
    if len(kept) >= fewest_samples(false_alarms):
        found = quantile_threshold(kept, false_alarms)
        threshold, share, interval = found.threshold, found.false_alarms, found.interval
    else:  # the largest: a further image is above it as often as any of them would be the largest
        threshold, share, interval = float(kept[-1]), 1 / (len(kept) + 1), of_order_statistic(1, len(kept))
    return Alarm(
        threshold=threshold, rule="normal", false_alarms=share, interval=interval, images=len(kept), trimmed=trimmed, are=are,
        map_threshold=map_threshold,
    )  # fmt: skip


def alarm_quality(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    threshold: float,
    are: str,
    trained: NDArray[np.bool_] | None = None,
) -> AlarmQuality:
    """What a threshold does to labeled images.

    Args:
        scores: (n,).
        labels: whether each image is anomalous.
        threshold: above which it is called so.
        are: what the images are, for the record.
        trained: what the trained model calls them by its own threshold; None for the trained model.
    """
    called = scores > threshold
    good, bad = int((~labels).sum()), int(labels.sum())
    wrong, missed = int(called[~labels].sum()), int((~called[labels]).sum())
    return AlarmQuality(
        are=are,
        normal=good,
        anomalous=bad,
        false_alarms=wrong / good if good else None,
        false_alarms_interval=wilson(wrong / good, good) if good else None,
        missed=missed / bad if bad else None,
        missed_interval=wilson(missed / bad, bad) if bad else None,
        f1=f1_at(scores, labels, threshold) if bad else None,
        agreement=None if trained is None else float((called == trained).mean()),
    )
