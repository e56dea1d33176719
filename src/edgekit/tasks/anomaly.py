"""Anomaly detection: how far each image is from normal ones, and where. All that is its own, on the device side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.tasks.anomaly_metrics import image_auroc, pixel_auroc, region_overlap
from edgekit.tasks.task import Answer, Outputs, Task
from edgekit.text import counted

SCORE, MAP = "score", "map"
NORMAL, ANOMALOUS = "normal", "anomalous"
UNMASKED = 2  # in masks: every pixel of an anomalous image whose mask is not known
_MOST = 2048  # images that are compared with one another; of more, so many are taken at equal distances


@dataclass(frozen=True)
class Verdict(Answer):
    """What the model says about one image.

    Attributes:
        score: how far it is from normal images; the larger, the farther.
        heat_map: float32 (height, width), the same of each place of the image as the model sees it.
        threshold: the score above which an image is anomalous; None where the bundle has none.
    """

    score: float
    heat_map: NDArray[np.float32]
    threshold: float | None
    embedding: NDArray[np.float32] | None = None

    @property
    def anomalous(self) -> bool | None:
        """Whether the score is above the threshold; None without one."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def heat(self) -> NDArray[np.float32]:
        """The heat map."""
        return self.heat_map

    @property
    def answer(self) -> str | None:
        """`anomalous` or `normal`; None without a threshold."""
        return None if self.anomalous is None else ANOMALOUS if self.anomalous else NORMAL

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the largest value of the heat map."""
        row, column = divmod(int(self.heat_map.argmax()), self.heat_map.shape[1])
        return row, column

    def line(self) -> str:
        """`anomalous 2.31 (threshold 1.8)`."""
        if self.threshold is None:
            return f"score {self.score:.4g}"
        return f"{self.answer} {self.score:.4g} (threshold {self.threshold:.4g})"

    def as_json(self) -> dict[str, Any]:
        """`answer` (null without a threshold), `score`, `threshold`, and `place`, the row and column of the heat map's largest value."""
        return {
            "answer": self.answer,
            "score": float(f"{self.score:.7g}"),
            "threshold": self.threshold,
            "place": list(self.place),
        }


class AnomalyDetection(Task):
    """The graph gives `score`, float32 (n,), and `map`, float32 (n, height, width) at the model's image size. A bundle has no classes.

    Labels are uint8, (n,) with 1 for anomalous images, or masks (n, height, width) with 1 for anomalous pixels and `UNMASKED` for all
    pixels of an anomalous image without a mask.

    Two models agree as far as they order images alike: two images count by the difference that the trained model sees between them, so that
    a new order of images with nearly the same score costs nearly nothing. AUROC depends on that order alone, and the threshold is set for each
    variant; so a variant whose scores are all larger by some factor is as good. Heat maps must keep their direction.
    """

    name = "anomaly"
    main = SCORE
    others = (MAP,)
    optional = ()
    unit = "score"
    decision = "order of scores"
    quality = "AUROC"
    metrics = {"auroc": "AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO"}  # noqa: RUF012
    counted = False
    directions = frozenset({MAP})
    least_agreement = 0.999
    alarms = True
    float_tail = True
    batch = 16

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        """A number and a map for each image, and no classes."""
        if classes:
            return "an anomaly detection has no classes"
        ranks = len(shapes[SCORE]), len(shapes[MAP])
        return (
            ""
            if ranks == (0, 2)
            else f"its {SCORE} and {MAP} have {ranks[0]} and {ranks[1]} axes beside the images, not 0 and 2"
        )

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        """See the class; both kinds of images must be among them."""
        if labels.ndim not in (1, 3) or len(labels) != images or labels.dtype.kind not in "iub":
            return f"are neither {counted(images, 'number')} nor {counted(images, 'mask')}"
        if labels.size and (labels.min() < 0 or labels.max() > (1 if labels.ndim == 1 else UNMASKED)):
            return "hold other numbers than 0 and 1"
        found = image_labels(labels)
        return "" if found.any() and not found.all() else "are not of normal and anomalous images both"

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None) -> list[Answer]:
        """Score, heat map and verdict of each image.

        Args:
            outputs, classes, top: see `Task.answers`.
            threshold: the score above which an image is anomalous; None or infinite: there is none.
        """
        limit = None if threshold is None or math.isinf(threshold) else float(threshold)
        return [Verdict(float(score), heat, limit) for score, heat in zip(outputs[SCORE], outputs[MAP], strict=True)]

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        """`auroc` of the images; with masks `pixel_auroc`, and `pro`, the per-region overlap up to 30 % false positives."""
        found = {"auroc": image_auroc(outputs[SCORE], image_labels(labels))}
        if labels.ndim == 3:
            masked = ~(labels == UNMASKED).any((1, 2))
            maps, masks = list(outputs[MAP][masked]), [mask.astype(bool) for mask in labels[masked]]
            if any(mask.any() for mask in masks):
                found["pixel_auroc"] = pixel_auroc(maps, masks)
                found["pro"] = region_overlap(maps, masks)
        return found

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        """For each image, the share of the differences between its score and the others' that keep their sign, each weighted by its size."""
        same, weights = _kept_order(got[SCORE], trained[SCORE])
        total = weights.sum(1)
        return np.where(total > 0, (same * weights).sum(1) / np.where(total > 0, total, 1), 1.0)

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        """What AUROC loses if the trained model's order is the right one and a pair of images matters as much as their scores differ."""
        same, weights = _kept_order(got[SCORE], trained[SCORE])
        total = float(weights.sum())
        return 1 - float((same * weights).sum()) / total if total > 0 else 0.0

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        """Normal and anomalous images; without labels, quarters of the scores."""
        if labels is not None:
            return image_labels(labels).astype(np.int64)
        return np.searchsorted(np.quantile(outputs[SCORE], [0.25, 0.5, 0.75]), outputs[SCORE]).astype(np.int64)

    def doubts(self, outputs: Outputs, labels: NDArray[Any] | None, classes: Sequence[str]) -> list[str]:
        """One score for all images."""
        scores = outputs[SCORE]
        if len(scores) > 1 and float(np.ptp(scores)) <= 1e-6 * float(np.abs(scores).max()):
            return [f"the trained model gives all {len(scores)} images the same score: it tells nothing apart"]
        return []


def image_labels(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each image is anomalous, (n,), from labels (n,) or masks (n, h, w)."""
    return np.asarray(labels.astype(bool) if labels.ndim == 1 else (labels > 0).any((1, 2)))


def _kept_order(
    got: NDArray[np.float32], trained: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every image (rows) and the others (columns): whether both models order them alike, a tie counting half, and how much it counts."""
    rows = np.arange(len(got)) if len(got) <= _MOST else np.linspace(0, len(got) - 1, _MOST).astype(np.int64)
    one, other = (values.astype(np.float64)[:, None] - values.astype(np.float64)[rows] for values in (got, trained))
    return (1 + np.sign(one) * np.sign(other)) / 2, np.abs(other)


ANOMALY_DETECTION = AnomalyDetection()
