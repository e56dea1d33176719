"""Classification: one class of several for each image. All that is its own, on the device side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.abstention import DISTANCE, Rule
from edgekit.confidence import Confidence, Quality
from edgekit.shares import percent
from edgekit.tasks.calibration import scaled_softmax
from edgekit.tasks.task import EMBEDDING, UNKNOWN, Answer, Outputs, Task
from edgekit.tasks.unknown import Geometry, Known, calibrate, measure, rule_of, score_images
from edgekit.text import counted

LOGITS = "logits"
_TOP5_FROM = 6  # classes; with fewer, a top-5 accuracy says nothing
_ENOUGH = 8  # images, before one class for all of them says something


@dataclass(frozen=True)
class Prediction(Answer):
    """What the model says about one image.

    Attributes:
        classes: the likeliest, the likeliest first, each with its probability: calibrated where the bundle has a temperature.
        embedding: float32 (features,), where the bundle's graph has that output; else None.
        unknown: whether the image is unlike what the model was trained on: its score is below the threshold. False where the bundle
            does not say what is, or was asked not to.
        score: how well the model knows such images, higher is better; None where the bundle has no rule for it.
        threshold: below which an image is unknown; None where the bundle has no rule, or was asked not to abstain.
    """

    classes: list[tuple[str, float]]
    embedding: NDArray[np.float32] | None = None
    unknown: bool = False
    score: float | None = None
    threshold: float | None = None

    @property
    def answer(self) -> str | None:
        """`unknown`, or the likeliest class; None where no class is probable enough. A class may be named unknown, too: see `unknown`."""
        return UNKNOWN if self.unknown else self.classes[0][0] if self.classes else None

    def line(self) -> str:
        """`cat 97.1 %  dog 2.0 %`, or `unknown (cat 57.1 %  dog 22.0 %)`."""
        likeliest = "  ".join(f"{name} {percent(p)}" for name, p in self.classes)
        if self.unknown:
            return f"{UNKNOWN} ({likeliest})" if likeliest else UNKNOWN
        return likeliest or "–"

    def as_json(self) -> dict[str, Any]:
        """The classes with their probabilities; where the bundle has a rule for unknown, `answer`, `unknown`, `score` and `threshold`, too."""
        classes = [{"class": name, "probability": round(p, 6)} for name, p in self.classes]
        if self.score is None:
            return {"classes": classes}
        known = {"answer": self.answer, UNKNOWN: self.unknown, "score": self.score, "threshold": self.threshold}
        return {**known, "classes": classes}


class Classification(Task):
    """The graph gives `logits`, float32 (n, classes), and on request `embedding`, what its last linear layer sees, float32 (n, d)."""

    name = "classification"
    main = LOGITS
    optional = (EMBEDDING,)
    unit = "logit"
    decision = "top-1"
    metrics = {"top1": "top-1", "top5": "top-5"}  # noqa: RUF012
    categorical = True
    smallest = 1.0  # logits below 1 make no decision
    abstains = calibrates = explains = True

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        """At least two classes, and a logit for each."""
        return logits_fault(classes, shapes) if len(classes) >= 2 else "a classification needs two classes or more"

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        """Labels are int64 (n,), indices of classes."""
        if labels.shape != (images,) or labels.min() < 0 or labels.max() >= len(classes):
            return f"are not {counted(images, 'index', 'indices')} into {counted(len(classes), 'class', 'classes')}"
        return ""

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None) -> list[Answer]:
        """The `top` likeliest classes of each image, without those less probable than `threshold`."""
        embeddings = outputs.get(EMBEDDING)
        return [
            Prediction(_likeliest(row, classes, top, threshold), None if embeddings is None else embeddings[i])
            for i, row in enumerate(outputs[LOGITS])
        ]

    def geometry(self, outputs: Outputs) -> Geometry | None:
        """In the embedding, or in the logits where there is none; the classes are those that the model chooses."""
        output = EMBEDDING if EMBEDDING in outputs else LOGITS
        return Geometry.of(output, outputs[output], outputs[LOGITS].argmax(1))

    def calibrated(
        self,
        outputs: Outputs,
        labels: NDArray[Any],
        rule: Rule,
        false_abstain: float,
        geometry: Geometry | None,
        are: str,
    ) -> Confidence | None:
        """A temperature, and the threshold of the rule; None where the rule is the distance and there is none to measure."""
        if rule == DISTANCE and geometry is None:
            return None
        values = None if geometry is None else outputs[geometry.output]
        return calibrate(outputs[LOGITS], labels, rule, false_abstain, geometry, values, are)

    def decisions(self, outputs: Outputs, known: Known) -> NDArray[np.int64]:
        """The index of the likeliest class, or -1."""
        unknown = _scores(outputs, known) < rule_of(known).threshold
        return np.where(unknown, -1, outputs[LOGITS].argmax(1)).astype(np.int64)

    def quality_of(
        self, outputs: Outputs, labels: NDArray[Any], known: Known, trained: NDArray[np.int64] | None, are: str
    ) -> Quality:
        """Calibration errors, and what is called unknown."""
        decided = self.decisions(outputs, known)
        agreement = None if trained is None else float((decided == trained).mean())
        return measure(outputs[LOGITS], labels, decided < 0, known.confidence.temperature, are, agreement)

    def answers_knowing(
        self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None, known: Known
    ) -> list[Answer]:
        """The likeliest classes with calibrated probabilities, and which images are unknown."""
        embeddings, scores = outputs.get(EMBEDDING), _scores(outputs, known)
        below = rule_of(known).threshold if known.abstains else None
        return [
            Prediction(
                _likeliest(row, classes, top, threshold, known.confidence.temperature),
                None if embeddings is None else embeddings[i],
                unknown=below is not None and float(scores[i]) < below,
                score=float(scores[i]),
                threshold=below,
            )
            for i, row in enumerate(outputs[LOGITS])
        ]

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        """Accuracies: `top1` and, with more than five classes, `top5`."""
        logits = outputs[LOGITS]
        found = {"top1": float((logits.argmax(1) == labels).mean())}
        if logits.shape[1] >= _TOP5_FROM:
            best = np.argpartition(-logits, 5, axis=1)[:, :5]
            found["top5"] = float((best == labels[:, None]).any(axis=1).mean())
        return found

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        """Whether both choose the same class."""
        return (got[LOGITS].argmax(1) == trained[LOGITS].argmax(1)).astype(np.float64)

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        """Where the variant chooses another class, it loses what the trained model gives its own choice and gains what that gives the other:
        for a calibrated model that is the expected loss of accuracy."""
        probabilities = softmax(trained[LOGITS])
        chosen = got[LOGITS].argmax(1)
        return float((probabilities.max(1) - probabilities[np.arange(len(chosen)), chosen]).mean())

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        """The classes, those that the model chooses where there are no labels."""
        return outputs[LOGITS].argmax(1) if labels is None else labels

    def doubts(self, outputs: Outputs, labels: NDArray[Any] | None, classes: Sequence[str]) -> list[str]:
        """One class for all images, or probabilities that exclude nothing: most often the preprocessing, or another kind of network."""
        logits = outputs[LOGITS]
        decided = logits.argmax(1)
        found = []
        various = labels is None or len(np.unique(labels)) > 1
        if len(logits) >= _ENOUGH and various and len(np.unique(decided)) == 1:
            of = "" if labels is None else "test "
            found.append(
                f"the trained model itself gives one class, {classes[int(decided[0])]}, for all {len(logits)} {of}images: check --mean, "
                "--std, --channels and the weights; that a variant agrees with it means nothing"
            )
        # A column that never moves is the 0 beside the one logit of a network of two classes.
        if logits.min() >= 0 and logits.max() <= 1 and float(np.ptp(logits, axis=0).min()) > 0:
            found.append(
                "everything that the trained model gives lies between 0 and 1: if these are probabilities of classes that do not "
                "exclude each other (a multi-label network), this bundle is not one of it"
            )
        return found

    def per_class(self, outputs: Outputs, labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
        """Accuracy on each class that there are images of."""
        right = outputs[LOGITS].argmax(1) == labels
        return {name: float(right[labels == i].mean()) for i, name in enumerate(classes) if (labels == i).any()}


def logits_fault(classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
    """Why outputs are not a logit for each class and perhaps an embedding, in a clause; empty where they are. See `Task.fault`."""
    logits, embedding = tuple(shapes[LOGITS]), shapes.get(EMBEDDING)
    if logits not in ((len(classes),), (None,)):
        return f"its {LOGITS} have the shape {_shown(logits)} for {counted(len(classes), 'class', 'classes')}"
    if embedding is not None and len(embedding) != 1:
        return f"its {EMBEDDING} has the shape {_shown(embedding)}"
    return ""


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities over the last axis; see `calibration.scaled_softmax`."""
    return scaled_softmax(logits)


def likeliest(logits: NDArray[np.float32], count: int, temperature: float = 1.0) -> list[tuple[int, float]]:
    """Index and probability of the `count` likeliest classes for logits (classes,); of equal ones the first class wins."""
    probabilities = scaled_softmax(logits, temperature)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(i), float(probabilities[i])) for i in order]


def _likeliest(
    row: NDArray[np.float32], classes: Sequence[str], top: int, threshold: float | None, temperature: float = 1.0
) -> list[tuple[str, float]]:
    return [(classes[k], p) for k, p in likeliest(row, top, temperature) if p >= (threshold or 0.0)]


def _scores(outputs: Outputs, known: Known) -> NDArray[np.float64]:
    values = None if known.geometry is None else outputs[known.geometry.output]
    confidence = rule_of(known)
    return score_images(confidence.rule, outputs[LOGITS], confidence.temperature, known.geometry, values)


def _shown(shape: Sequence[int | None]) -> str:
    sides = ", ".join("n" if side is None else str(side) for side in ("n", *shape))
    return f"({sides})"


CLASSIFICATION = Classification()
