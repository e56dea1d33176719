"""Set for each variant of a bundle the score above which an image is anomalous, and measure what that does.

The scores of a variant differ from the trained model's: INT8 noise makes all patches a little farther from the bank. With a threshold of its
own, a variant keeps the share of false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.alarms import Alarm, AlarmRule
from edgekit.bundle import Variant
from edgekit.conformal import fewest_samples
from edgekit.errors import EdgekitError
from edgekit.export.running import Run, running, running_variant
from edgekit.export.verify import class_spread
from edgekit.progress import progress
from edgekit.quantize.selection import digest_of_arrays
from edgekit.runtimes import why_not
from edgekit.tasks import Task
from edgekit.tasks.alarms import alarm_quality, set_alarm
from edgekit.tasks.anomaly import SCORE, image_labels
from edgekit.tasks.anomaly_metrics import FEWEST_OF_EACH

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class AlarmRequest:
    """How thresholds are set.

    Attributes:
        normal: normal images that no model learned from, uint8 (n, h, w, 3); may be empty.
        rule: on these images, or on one half of the labeled ones.
        false_alarms: of the first rule, the share of normal images that may be called anomalous.
        trim: share of the normal images that may be anomalous: so many with the largest scores do not count.
    """

    normal: Images
    rule: AlarmRule = "normal"
    false_alarms: float = 0.05
    trim: float = 0.0

    def digest(self, labeled: tuple[Images, NDArray[Any]] | None) -> str:
        """A digest of everything beside the variants that the thresholds depend on."""
        arrays = [self.normal, *(labeled or ())]
        return f"{self.rule} {self.false_alarms!r} {self.trim!r} {digest_of_arrays(*arrays)}"


@dataclass(frozen=True)
class Alarms:
    """What a bundle says of its thresholds.

    Attributes:
        variants: all of them; those that run here with a threshold of their own.
        trained: the trained model's.
        notes: for the user, one sentence each.
    """

    variants: list[Variant]
    trained: Alarm | None = None
    notes: tuple[str, ...] = ()


def with_alarms(
    variants: list[Variant],
    folder: Path,
    float_onnx: Path,
    request: AlarmRequest | None,
    labeled: tuple[Images, NDArray[Any]] | None,
    task: Task,
) -> Alarms:
    """Give the variants of a bundle their thresholds.

    Args:
        variants: their files are in `folder`.
        folder: of the bundle.
        float_onnx: the float graph: the trained model.
        request: how; None: there are none.
        labeled: test images and their labels; None where there are none.
        task: what the model answers.
    """
    bare = [v.model_copy(update={"alarm": None}) for v in variants]
    if request is None or not task.alarms:
        return Alarms(bare)
    setting, testing, fault = _chosen(request, labeled)
    if fault:
        return Alarms(bare, notes=(fault,))
    with running("onnxruntime", float_onnx, task, task.batch) as run:
        trained, decided = _alarm(run, request, setting, testing, None)
    found = []
    with progress("thresholds", len(bare), unit="variants") as advance:
        for variant in bare:
            found.append(_of_variant(variant, folder, request, setting, testing, decided, task))
            advance()
    return Alarms(found, trained, _notes(request, trained))


@dataclass(frozen=True)
class _Set:
    images: Images
    labels: NDArray[np.bool_]
    are: str


def _chosen(request: AlarmRequest, labeled: tuple[Images, NDArray[Any]] | None) -> tuple[_Set, _Set | None, str]:
    """The images that the threshold is set on, those that show what it does, and why there can be no threshold."""
    normal = _Set(request.normal, np.zeros(len(request.normal), bool), "held-out normal images")
    test = None if labeled is None else _Set(labeled[0], image_labels(labeled[1]), "test images")
    if request.rule == "normal":
        fault = (
            ""
            if len(normal.images)
            else "no threshold, so no image is called anomalous: no normal image was held out (data.probe)"
        )
        return normal, test, fault
    labels = np.zeros(0, bool) if test is None else test.labels
    if fault := too_few_labeled(labels):
        return normal, test, f"no threshold, so no image is called anomalous: {fault}"
    assert test is not None
    spread = class_spread(labels.astype(np.int64), len(labels))
    halves = [
        np.sort(
            np.concatenate(
                [of_kind[start::2] for kind in (False, True) for of_kind in [spread[labels[spread] == kind]]]
            )
        )
        for start in (0, 1)
    ]
    first, second = (
        _Set(np.ascontiguousarray(test.images[rows]), labels[rows], f"{which} half of the test images")
        for rows, which in zip(halves, ("one", "the other"), strict=True)
    )
    return first, second, ""


def too_few_labeled(anomalous: NDArray[np.bool_]) -> str:
    """Why no threshold can be set on one half of such test images and measured on the other; empty where it can."""
    found, fewest = int(anomalous.sum()), 2 * FEWEST_OF_EACH
    if min(found, len(anomalous) - found) >= fewest:
        return ""
    return f"anomaly.threshold labeled needs {fewest} normal and as many anomalous test images, and there are {len(anomalous) - found} and {found}"


def _of_variant(
    variant: Variant, folder: Path, request: AlarmRequest, setting: _Set, testing: _Set | None,
    decided: NDArray[np.bool_] | None, task: Task,
) -> Variant:  # fmt: skip
    if variant.parity is None or why_not(variant.runtime):
        return variant
    try:
        with running_variant(variant, folder, task, task.batch) as run:
            alarm, _ = _alarm(run, request, setting, testing, decided)
    except (EdgekitError, ValueError) as error:  # of scores that are not finite, which the verification rejects
        return variant.noted(f"no threshold of its own: {error}")
    return variant.model_copy(update={"alarm": alarm})


def _alarm(
    run: Run, request: AlarmRequest, setting: _Set, testing: _Set | None, trained: NDArray[np.bool_] | None
) -> tuple[Alarm, NDArray[np.bool_] | None]:
    """The threshold of a model, and its decisions on the images that show what it does."""
    outputs = run(setting.images)
    alarm = set_alarm(outputs, setting.labels, request.rule, request.false_alarms, request.trim, setting.are)
    if testing is None:
        return alarm, None
    scores = run(testing.images)[SCORE]
    quality = alarm_quality(scores, testing.labels, alarm.threshold, testing.are, trained)
    return alarm.model_copy(update={"quality": quality}), scores > alarm.threshold


def _notes(request: AlarmRequest, trained: Alarm) -> tuple[str, ...]:
    fewest = fewest_samples(request.false_alarms)
    if request.rule != "normal" or trained.images >= fewest:
        return ()
    return (
        f"the threshold is the largest score of only {trained.images} held-out normal images, so about {trained.false_alarms or 0:.0%} of further "
        f"ones will be called anomalous; {request.false_alarms:g} needs {fewest} of them (data.probe)",
    )
