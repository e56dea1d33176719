"""Recognition: a vector for each image, whose direction says what it is like. A gallery of such vectors names it (`edgekit.gallery`).

The graph gives the embedding as the network computes it, not normalized: that is the same output as a classification's on request, and every
runtime and every quantizer takes the graph as it is. The length says nothing, and is divided out where vectors are compared: here, and in
a gallery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.parity import cosines
from edgekit.tasks.task import EMBEDDING, Answer, Outputs, Task

RECALL = "recall1"
# Of the softmax over cosines with the other images: InstDisc's non-parametric classifier (Wu et al. 2018, equation 2).
TEMPERATURE = 0.07
_MOST = 2048  # images that all others are compared with; of more, so many are taken at equal distances
_BLOCK = 1024
_SAME_DIRECTION = 0.999  # a cosine: if the directions of all images are nearer than that, they tell nothing apart


@dataclass(frozen=True)
class Embedded(Answer):
    """What the model says about one image without a gallery: its embedding, float32 (features,)."""

    embedding: NDArray[np.float32]

    def line(self) -> str:
        """`128 features, of length 3.217`."""
        return f"{len(self.embedding)} features, of length {float(np.linalg.norm(self.embedding)):.4g} (name it with --gallery)"

    def as_json(self) -> dict[str, Any]:
        """The number of features; the embedding itself is added on request."""
        return {"features": len(self.embedding)}


class Recognition(Task):
    """The graph gives `embedding`, float32 (n, d). A bundle has no classes: those are the gallery's.

    Without labels two models are compared by the cosine of their embeddings, image by image. With labels each image is recognized by
    all others (recall@1: Jégou et al. 2011): the share whose nearest other image is of the same class.
    """

    name = "recognition"
    main = EMBEDDING
    optional = ()
    unit = "embedding value"
    decision = "direction"
    quality = "recall@1"
    metrics = {RECALL: "recall@1"}  # noqa: RUF012
    # A float variant's rounding turns no vector further than this; INT8's cosine is the agreement, and has its own floor (`parity`).
    least_agreement = 0.999

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        """One vector an image, and no classes."""
        if classes:
            return "a recognition has no classes of its own"
        return (
            ""
            if len(shapes[EMBEDDING]) == 1
            else f"its {EMBEDDING} has {len(shapes[EMBEDDING])} axes beside the images"
        )

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        """Labels are int64 (n,); two images of a class or more, or nothing can be recognized."""
        if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
            return f"are not {images} whole numbers"
        return "" if _with_company(labels).any() else "name no class that has two images"

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None) -> list[Answer]:
        """The embeddings themselves: naming them takes a gallery."""
        return [Embedded(row) for row in outputs[EMBEDDING]]

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        """`recall1`: among the images that are not alone in their class, the share whose nearest other image is of the same class.

        Of more than 2,048 images, the others are so many of them, at equal distances.
        """
        own = outputs[EMBEDDING]
        right = labels[_nearest(own, own, _spread(len(labels)))] == labels
        return {RECALL: float(right[_with_company(labels)].mean())}

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        """The cosine of both embeddings of each image, 0 where they point apart."""
        return np.clip(cosines(got[EMBEDDING], trained[EMBEDDING]), 0, 1)

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        """Where the variant takes another image for the nearest one, it loses what the trained model gives its own choice and gains what that
        gives the other, by the softmax over the cosines with the other images, of temperature 0.07."""
        own = trained[EMBEDDING]
        rows = _spread(len(own))
        if len(rows) < 2:
            return 0.0
        best, chosen = (_nearest(queries, own, rows) for queries in (own, got[EMBEDDING]))
        lost = 0.0
        unit = _unit(own)
        for start in range(0, len(own), _BLOCK):
            part = slice(start, start + _BLOCK)
            logits = _without_self(unit[part] @ unit[rows].T, start, rows) / TEMPERATURE
            powers = np.exp(logits - logits.max(1, keepdims=True))
            shares, each = powers / powers.sum(1, keepdims=True), np.arange(len(powers))
            lost += float(
                (
                    shares[each, np.searchsorted(rows, best[part])] - shares[each, np.searchsorted(rows, chosen[part])]
                ).sum()
            )
        return lost / len(own)

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        """The classes; without labels, the feature that stands out most from its mean."""
        if labels is not None:
            return labels
        values = outputs[EMBEDDING].astype(np.float64)
        spread = values.std(0)
        return ((values - values.mean(0)) / np.where(spread > 0, spread, 1)).argmax(1)

    def doubts(self, outputs: Outputs, labels: NDArray[Any] | None, classes: Sequence[str]) -> list[str]:
        """One direction for all images: a collapsed or an untrained network."""
        unit = _unit(outputs[EMBEDDING])
        mean = unit.mean(0)
        if len(unit) > 1 and float((unit @ (mean / max(float(np.linalg.norm(mean)), 1e-12))).min()) > _SAME_DIRECTION:
            return [
                f"the trained model gives all {len(unit)} images almost the same direction (cosine above {_SAME_DIRECTION:g}): it tells "
                "nothing apart; check the preprocessing and the training"
            ]
        return []

    def per_class(self, outputs: Outputs, labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
        """Nothing: the classes are not the bundle's."""
        return {}


def _with_company(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which images are not alone in their class."""
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[group] > 1


def _spread(total: int) -> NDArray[np.int64]:
    return np.arange(total) if total <= _MOST else np.linspace(0, total - 1, _MOST).astype(np.int64)


def _nearest(queries: NDArray[np.float32], every: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image's vector in `queries`, which of `rows` of `every` is nearest to it, the image itself left out."""
    unit, others = _unit(queries), _unit(every)[rows]
    found = [
        _without_self(unit[start : start + _BLOCK] @ others.T, start, rows).argmax(1)
        for start in range(0, len(unit), _BLOCK)
    ]
    return rows[np.concatenate(found)]


def _without_self(similarities: NDArray[np.float64], start: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Put images out of their own reach; row i is the image `start` + i, column j the image `rows[j]`."""
    inside = np.flatnonzero((rows >= start) & (rows < start + len(similarities)))
    similarities[rows[inside] - start, inside] = -2
    return similarities


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1)


RECOGNITION = Recognition()
