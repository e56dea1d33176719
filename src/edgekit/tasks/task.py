"""What a task is: a model's outputs, the answers that they become, and how answers are scored and compared. NumPy alone.

The export, the doctor, the bench and the report ask a bundle's task; none of them knows the outputs or the metrics of any one of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.abstention import Rule
from edgekit.confidence import AnyConfidence, Quality, ThresholdQuality
from edgekit.parity import (
    AGREEMENT_LOSS,
    COSINE_FLOOR,
    COSINE_LOSS,
    OTHER_VECTOR,
    TOLERANCE,
    OutputParity,
    compare_outputs,
    direction_fault,
    finite_fault,
    values_fault,
)
from edgekit.shares import difference, percent
from edgekit.tasks.occlusion import log_odds
from edgekit.tasks.unknown import Geometry, Known

Outputs = Mapping[str, NDArray[np.float32]]  # by name; the first axis is the images
UNKNOWN = "unknown"  # the answer of a task about an image unlike all that it knows, wherever one is printed
EMBEDDING = "embedding"  # a vector for each image, float32 (n, d): what any network can give beside its answer


class Answer(ABC):
    """What a model says about one image; each task has a subclass of its own.

    Attributes:
        embedding: float32 (features,), where the model gives one; else None.
        unknown: whether the image is unlike all that the model knows; False for a task that does not tell.
        anomalous: whether the image is unlike normal ones; None for a task that does not tell, and without a threshold.
        heat: float32 (height, width), how anomalous each place of the image is, as the model sees it; None for a task without one.
    """

    embedding: NDArray[np.float32] | None
    unknown: bool = False

    @property
    def anomalous(self) -> bool | None:
        return None

    @property
    def heat(self) -> NDArray[np.float32] | None:
        return None

    @abstractmethod
    def line(self) -> str:
        """The answer in a few words, for a terminal."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """The answer as JSON types, without the embedding."""


@dataclass(frozen=True)
class Likeness:
    """A variant's outputs beside the trained model's, for the same images.

    Attributes:
        agreement: share of the images on which both decide alike, see `Task.agreement`; 0 where an output is not finite.
        outputs: how near each of them comes, by name.
    """

    agreement: float
    outputs: Mapping[str, OutputParity]


class Task(ABC):
    """A task. It holds no state, so that one object serves every model; make one and name it in `edgekit.tasks`.

    A further task overrides the abstract methods, and what is not as usual among the others.

    Attributes:
        name: as in `bundle.json`.
        main: the output that tells most; a session's `run` gives it.
        others: outputs that every model of the task gives besides.
        optional: outputs that a model gives where its export was asked for them.
        unit: what one value of the main output is called.
        decision: what two models may agree on, in a word.
        quality: what the metrics measure, in a word.
        metrics: what answers are scored by, with the name in tables; each a share, 1 being best. The first one decides whether a variant
            passes.
        counted: whether the metrics are shares of the images, so that chance gives them a binomial interval.
        features_counted: likewise of the scores that are read from an encoder's features.
        categorical: whether the main output holds logits of one choice among its axis 1.
        smallest: where the main output's values are smaller, a float variant may differ from it as if they were this large.
        directions: outputs of which a quantized variant must keep the direction.
        least_agreement: that a float variant must have with the trained model on the golden images.
        kept: the metrics of which a variant may lose no more than is allowed; none: the one that counts.
        of_class: what the metric is called on one class; empty: as on all.
        calibrates: whether labeled images calibrate its answers: `calibrated`, `decisions`, `quality_of`.
        abstains: whether some of these answers are then unknown.
        uncalibrated: what is missing where there are too few labeled images for that.
        alarms: whether its main output is a score, one an image, above a threshold of which the image is anomalous. Scores of normal images
            set it for each variant, and `answers` gets it as its `threshold`.
        explains: whether the main output has a score for each class, (n, classes), so that `log_odds` tells how strongly it speaks for one.
        float_tail: whether everything behind the last convolution stays in float32 where the rest is quantized or in half precision.
        batch: images that are run at once where nothing is timed, at most.
    """

    name: ClassVar[str]
    main: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = (EMBEDDING,)
    unit: ClassVar[str]
    decision: ClassVar[str] = "decision"
    quality: ClassVar[str] = "accuracy"
    metrics: ClassVar[Mapping[str, str]]
    counted: ClassVar[bool] = True
    features_counted: ClassVar[bool] = True
    categorical: ClassVar[bool] = False
    smallest: ClassVar[float] = 0.0
    directions: ClassVar[frozenset[str]] = frozenset({EMBEDDING})
    least_agreement: ClassVar[float] = 1.0
    kept: ClassVar[tuple[str, ...]] = ()
    of_class: ClassVar[str] = ""
    calibrates: ClassVar[bool] = False
    abstains: ClassVar[bool] = False
    uncalibrated: ClassVar[str] = "no calibrated probabilities and no answer unknown"
    alarms: ClassVar[bool] = False
    explains: ClassVar[bool] = False
    float_tail: ClassVar[bool] = False
    batch: ClassVar[int] = 256

    @property
    def required(self) -> tuple[str, ...]:
        """The outputs that every model of the task gives, the main one first."""
        return (self.main, *self.others)

    @property
    def metric(self) -> str:
        """The one that counts."""
        return next(iter(self.metrics))

    # What a bundle may hold

    @abstractmethod
    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        """Why a bundle cannot be one of this task, in a clause; empty where it can.

        Args:
            classes: its names.
            shapes: of its outputs, by name, without the batch axis; None is a free axis. All required outputs are among them.
        """

    @abstractmethod
    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        """Why labels are not those of so many images, in a clause; empty where they are. Their first axis is the images."""

    # Answers

    @abstractmethod
    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None) -> list[Answer]:
        """What outputs mean, image by image.

        Args:
            outputs: finite, the required ones and maybe others.
            classes: of the bundle.
            top: how much to say of each image, at most, where there is a choice.
            threshold: leave out what is less certain, from 0 to 1; None: nothing was given, so that the task decides.
        """

    def log_odds(self, scores: NDArray[np.floating[Any]], chosen: int) -> NDArray[np.float64]:
        """How strongly scores of the classes speak for one of them, (n,). Asked only where the task `explains`; as of one choice among all classes.

        Args:
            scores: (n, classes).
            chosen: index of the class.
        """
        return log_odds(scores, chosen)

    # Known and unknown: what a task that can tell them apart overrides; the others have none of it

    def geometry(self, outputs: Outputs) -> Geometry | None:
        """Where the images of known classes lie, from unlabeled ones; None where the task has no use for it.

        Args:
            outputs: the trained model's, with the optional ones that the bundle's graphs give.
        """
        return None

    def calibrated(
        self,
        outputs: Outputs,
        labels: NDArray[Any],
        rule: Rule,
        false_abstain: float,
        geometry: Geometry | None,
        are: str,
    ) -> AnyConfidence | None:
        """Set the confidence of answers, and when they are unknown, on labeled images; None where the task has neither.

        Args:
            outputs: of images of known classes from which no model learned.
            labels: theirs.
            rule: what the answer unknown goes by.
            false_abstain: the share of known images that may be called unknown.
            geometry: what `geometry` gave.
            are: what the images are, for the record.
        """
        return None

    def decisions(self, outputs: Outputs, known: Known) -> NDArray[np.int64]:
        """The decision on each image, (n,), -1 being unknown, or (n, k) where there are several. Asked only where `calibrated` gives something."""
        raise NotImplementedError

    def quality_of(
        self, outputs: Outputs, labels: NDArray[Any], known: Known, trained: NDArray[np.int64] | None, are: str
    ) -> Quality | ThresholdQuality:
        """What a confidence does to labeled images that it was not set on. Asked only where `calibrated` gives something.

        Args:
            outputs, labels: of these images.
            known: the confidence.
            trained: the trained model's `decisions` on them; None for the trained model itself.
            are: what the images are, for the record.
        """
        raise NotImplementedError

    def answers_knowing(
        self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float | None, known: Known
    ) -> list[Answer]:
        """`answers` of a bundle that has a confidence."""
        return self.answers(outputs, classes, top, threshold)

    # With labels

    @abstractmethod
    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        """Those of `metrics` that can be said, the one that counts among them."""

    def dropped(self, trained: Mapping[str, float], got: Mapping[str, float]) -> float:
        """What scores lose against the trained model's, as a share: the largest loss of those in `kept`. A negative one is a gain."""
        return max(difference(trained[name], got[name]) for name in self.kept or (self.metric,))

    # Without labels

    @abstractmethod
    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        """How far both decide alike on each image, (n,) from 0 to 1."""

    @abstractmethod
    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        """What the metric is expected to lose, as a share, judged by the trained model alone: its answers stand for the labels."""

    @abstractmethod
    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        """A group for each image, (n,): images that are chosen among many are spread evenly over these."""

    def doubts(self, outputs: Outputs, labels: NDArray[Any] | None, classes: Sequence[str]) -> list[str]:
        """What looks wrong about the trained model's own outputs, a sentence each."""
        return []

    def per_class(self, outputs: Outputs, labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
        """The metric on each class that there are images of; empty where it is not of classes."""
        return {}

    # The golden rule: what an export, a doctor and a bench ask of a variant's outputs

    def compare(self, got: Outputs, trained: Outputs) -> Likeness:
        """Hold outputs against the trained model's, which have the same names and shapes."""
        near = {name: compare_outputs(got[name], trained[name]) for name in trained}
        finite = all(near[name].finite for name in self.required if name in near)
        return Likeness(float(self.agreement(got, trained).mean()) if finite else 0.0, near)

    def figures(self, found: Likeness) -> dict[str, float]:
        """What a bundle records beside the agreement and the main output's values: `NAME_max_abs_diff` and `NAME_cosine` of the other outputs,
        and the cosine of the main one where its direction counts."""
        figures: dict[str, float] = {}
        for name, near in found.outputs.items():
            if near.finite and name != self.main:
                figures[f"{name}_max_abs_diff"] = near.max_abs_diff
            if near.finite and (name != self.main or name in self.directions):
                figures[f"{name}_cosine"] = near.cosine
        return figures

    def golden_fault(self, found: Likeness, precision: str, *, exporting: bool = False) -> list[str]:
        """Why outputs are not those of the trained model, a clause each; empty where they may be.

        A float variant decides alike, and its values differ by rounding alone. Of a quantized one nothing but finite numbers is asked where
        the metric says whether its values are good enough, and the direction of outputs in `directions`.

        Args:
            found: how near they come.
            precision: of the variant.
            exporting: on the machine where it was made: elsewhere a direction may turn further, see `edgekit.parity`.
        """
        faults = []
        for name, near in found.outputs.items():
            if not near.finite:
                faults.append(finite_fault(name))
            elif name in self.directions:
                faults.append(direction_fault(name, near, precision, COSINE_FLOOR if exporting else OTHER_VECTOR))
            else:
                faults.append(self._values_fault(name, near, found, precision))
        return [fault for fault in faults if fault]

    def _values_fault(self, name: str, near: OutputParity, found: Likeness, precision: str) -> str:
        if name != self.main:
            return values_fault(f"{name} value", near, precision)
        if precision in TOLERANCE and found.agreement < self.least_agreement:  # whatever the tolerance
            otherwise = percent(difference(1, found.agreement), 0)
            return f"it decides otherwise on {otherwise} of the golden images, a golden {self.unit} differs by {near.max_abs_diff:.3g}"
        return values_fault(self.unit, near, precision, self.smallest)

    def golden_warning(self, found: Likeness, agreement: float, figures: Mapping[str, float]) -> str:
        """What to know where outputs come less near than they did at export; empty where they do not.

        Args:
            found: how near they come here.
            agreement, figures: what the bundle records of the export.
        """
        warnings = []
        if found.agreement < agreement - AGREEMENT_LOSS:
            warnings.append(
                f"{self.decision} agrees with the trained model on {percent(found.agreement)} of the golden images here, on "
                f"{percent(agreement)} where it was exported: its recorded {self.quality} does not hold on this machine"
            )
        for name in found.outputs:
            exported = figures.get(f"{name}_cosine")
            if name in self.directions and exported is not None and found.outputs[name].cosine < exported - COSINE_LOSS:
                here = found.outputs[name].cosine
                warnings.append(
                    f"its {name}'s cosine with the trained one is {here:.3f} here, {exported:.3f} at export"
                )
        return "; ".join(warnings)


def rows(outputs: Outputs, which: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """The outputs of some of the images."""
    return {name: values[which] for name, values in outputs.items()}


def is_finite(outputs: Outputs) -> bool:
    """Whether all numbers are finite."""
    return all(bool(np.isfinite(values).all()) for values in outputs.values())
