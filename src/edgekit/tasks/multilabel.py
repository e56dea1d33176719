"""Multi-label classification: any number of classes for each image, also none. All that is its own, on the device side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.abstention import Rule
from edgekit.confidence import ClassThresholds, ThresholdQuality
from edgekit.shares import percent
from edgekit.tasks.classification import LOGITS, logits_fault
from edgekit.tasks.multilabel_metrics import (
    average_precisions,
    binary_cross_entropy,
    class_thresholds,
    class_wise_error,
    f1_scores,
    mean_average_precision,
    sigmoid,
    sigmoid_temperature_for,
    weighted_precisions,
)
from edgekit.tasks.task import EMBEDDING, Answer, Outputs, Task
from edgekit.tasks.unknown import Geometry, Known

MAP, F1_MICRO, F1_MACRO = "map", "f1_micro", "f1_macro"
_HALF = 0.5  # the threshold of every class without calibrated ones: a logit of 0
_ENOUGH = 8  # images, before the same classes for all of them say something


@dataclass(frozen=True)
class FoundClass:
    """A class that the model finds in an image.

    Attributes:
        name: of the class.
        probability: calibrated where the bundle has a temperature.
        threshold: the least probability with which the class counts as found.
    """

    name: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class Labels(Answer):
    """What the model says about one image.

    Attributes:
        found: the classes whose probability is at least their threshold, the likeliest first; empty where there is none.
        embedding: float32 (features,), where the bundle's graph has that output; else None.
    """

    found: list[FoundClass]
    embedding: NDArray[np.float32] | None = None

    @property
    def classes(self) -> list[tuple[str, float]]:
        """Names and probabilities of the classes that are found, the likeliest first."""
        return [(one.name, one.probability) for one in self.found]

    def line(self) -> str:
        """`cat 97.1%  dog 61.0%`, or `no class`."""
        return "  ".join(f"{one.name} {percent(one.probability)}" for one in self.found) or "no class"

    def as_json(self) -> dict[str, Any]:
        """The classes that are found, each with its probability and its threshold."""
        return {
            "classes": [
                {"class": one.name, "probability": round(one.probability, 6), "threshold": round(one.threshold, 6)}
                for one in self.found
            ]
        }


class Multilabel(Task):
    """The graph gives `logits`, float32 (n, classes), whose sigmoids are probabilities, and on request `embedding`, float32 (n, d).

    Labels are a matrix (n, classes) of 0 and 1. A class counts as found from a probability of 0.5 on, or from its own calibrated threshold.
    """

    name = "multilabel"
    main = LOGITS
    optional = (EMBEDDING,)
    unit = "logit"
    decision = "set of classes"
    quality = "mAP"
    metrics = {MAP: "mAP", F1_MICRO: "micro F1", F1_MACRO: "macro F1"}  # noqa: RUF012
    kept = (MAP, F1_MICRO)
    of_class = "average precision"
    counted = features_counted = False  # a mean of average precisions has no binomial interval
    smallest = 1.0
    # Two float variants may differ in the one or the other class whose probability is 0.5 up to rounding.
    least_agreement = 0.95
    calibrates = explains = True
    uncalibrated = "the probabilities are not calibrated, and the threshold of every class is 0.5"

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        """A class or more, and a logit for each."""
        return logits_fault(classes, shapes) if classes else "a multi-label classification needs a class or more"

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        """Labels are integers (n, classes), 0 or 1; one class at least must be somewhere."""
        if labels.shape != (images, len(classes)):
            return f"are not a row of {len(classes)} zeros and ones for each of {images} images"
        if not np.isin(labels, (0, 1)).all():
            return "hold something other than 0 and 1"
        return "" if labels.any() else "name no class of any image"

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None) -> list[Answer]:
        """All classes whose probability is at least `threshold`, or 0.5 where that is None. `top` cuts nothing off: there is no choice to make."""
        return _answers(
            outputs, classes, sigmoid(outputs[LOGITS]), [_HALF if threshold is None else threshold] * len(classes)
        )

    def log_odds(self, scores: NDArray[np.floating[Any]], chosen: int) -> NDArray[np.float64]:
        """A class has a sigmoid of its own, so its logit is its log-odds."""
        return scores[:, chosen].astype(np.float64)

    def calibrated(
        self,
        outputs: Outputs,
        labels: NDArray[Any],
        rule: Rule,
        false_abstain: float,
        geometry: Geometry | None,
        are: str,
    ) -> ClassThresholds | None:
        """A temperature, and the thresholds with the highest F1; None where no class is in these images."""
        if not labels.any():
            return None
        temperature = sigmoid_temperature_for(outputs[LOGITS], labels)
        each, shared, own = class_thresholds(sigmoid(outputs[LOGITS] / temperature), labels)
        return ClassThresholds(
            temperature=temperature, thresholds=each, shared=shared, own=own, images=len(labels), are=are
        )

    def decisions(self, outputs: Outputs, known: Known) -> NDArray[np.int64]:
        """Which classes are found, (n, classes), 0 or 1."""
        found = _set(known)
        return (sigmoid(outputs[LOGITS] / found.temperature) >= np.array(found.thresholds)).astype(np.int64)

    def quality_of(
        self, outputs: Outputs, labels: NDArray[Any], known: Known, trained: NDArray[np.int64] | None, are: str
    ) -> ThresholdQuality:
        """F1 with 0.5 and with the thresholds, and calibration errors before and after the temperature."""
        logits, temperature = outputs[LOGITS], _set(known).temperature
        decided = self.decisions(outputs, known)
        half, own = f1_scores(logits >= 0, labels), f1_scores(decided, labels)
        before, after = (class_wise_error(sigmoid(logits / t), labels) for t in (1.0, temperature))
        return ThresholdQuality(
            images=len(labels),
            are=are,
            f1_micro=(half[0], own[0]),
            f1_macro=(half[1], own[1]),
            ece=(before, after),
            bce=(binary_cross_entropy(logits, labels), binary_cross_entropy(logits, labels, temperature)),
            agreement=None if trained is None else float((decided == trained).mean()),
        )

    def answers_knowing(
        self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None, known: Known
    ) -> list[Answer]:
        """All classes whose calibrated probability is at least their threshold, or `threshold` where that is given."""
        found = _set(known)
        thresholds = found.thresholds if threshold is None else [threshold] * len(classes)
        return _answers(outputs, classes, sigmoid(outputs[LOGITS] / found.temperature), thresholds)

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        """`map`, the mean average precision of the classes that are in these images; `f1_micro` and `f1_macro` with the threshold 0.5."""
        micro, macro = f1_scores(outputs[LOGITS] >= 0, labels)
        return {MAP: mean_average_precision(outputs[LOGITS], labels), F1_MICRO: micro, F1_MACRO: macro}

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        """The Jaccard index of the sets of classes that both find with the threshold 0.5; 1 where both find none."""
        one, other = got[LOGITS] >= 0, trained[LOGITS] >= 0
        either = (one | other).sum(axis=1)
        return np.where(either > 0, (one & other).sum(axis=1) / np.maximum(either, 1), 1.0)

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        """What the variant's ranking of the images loses against the trained model's own in mAP, if the trained model's probabilities are the
        shares with which the classes are there."""
        probabilities = sigmoid(trained[LOGITS])
        own, other = (weighted_precisions(outputs[LOGITS], probabilities) for outputs in (trained, got))
        lost = own - other
        return float(lost[np.isfinite(lost)].mean()) if np.isfinite(lost).any() else 0.0

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        """The rarest class of each image, those that the model finds where there are no labels; one group of its own for images without any."""
        there = outputs[LOGITS] >= 0 if labels is None else labels.astype(bool)
        counts = np.where(there, there.sum(axis=0), len(there) + 1)
        return np.where(there.any(axis=1), counts.argmin(axis=1), there.shape[1]).astype(np.int64)

    def doubts(self, outputs: Outputs, labels: NDArray[Any] | None, classes: Sequence[str]) -> list[str]:
        """The same probabilities for all images: most often the preprocessing, or an untrained network."""
        logits = outputs[LOGITS]
        if len(logits) < _ENOUGH or float(np.ptp(logits, axis=0).max()) > 1e-3:
            return []
        return [
            f"the trained model gives all {len(logits)} images the same probabilities: check --mean, --std, --channels and the weights; that a "
            "variant agrees with it means nothing"
        ]

    def per_class(self, outputs: Outputs, labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
        """The average precision of each class that is in these images."""
        each = average_precisions(outputs[LOGITS], labels)
        return {name: float(value) for name, value in zip(classes, each, strict=True) if np.isfinite(value)}


def _set(known: Known) -> ClassThresholds:
    assert isinstance(known.confidence, ClassThresholds)  # the manifest has been checked
    return known.confidence


def _answers(
    outputs: Outputs, classes: Sequence[str], probabilities: NDArray[np.float64], thresholds: Sequence[float]
) -> list[Answer]:
    embeddings = outputs.get(EMBEDDING)
    least = np.array(thresholds)
    found: list[Answer] = []
    for i, row in enumerate(probabilities):
        order = [int(c) for c in np.argsort(-row, kind="stable") if row[c] >= least[c]]
        listed = [FoundClass(classes[c], float(row[c]), float(least[c])) for c in order]
        found.append(Labels(listed, None if embeddings is None else embeddings[i]))
    return found


MULTILABEL = Multilabel()
