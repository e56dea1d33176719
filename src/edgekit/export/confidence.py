"""Calibrate the confidence of each variant of a bundle on labeled images that no model learned from, and set when it answers unknown.

Every variant gets a temperature and a threshold of its own, from its own outputs for the same images. The alternative, to let the accuracy
search count a changed `unknown` as a disagreement, would choose another INT8 file for a border that can simply be moved: the scores near
the threshold are the densest ones, and any quantization reorders them. With a threshold of its own, a variant keeps the false-abstain rate,
and what it does to images that neither was set on is measured and written down (`Quality.unknown`, `Quality.agreement`).

The classes of a run's probe images, or of half of the evaluation images of a model from elsewhere, set them; the evaluation images, or the
other half, show what they do. Where known images lie is estimated from unlabeled images of the calibration pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.abstention import DISTANCE, FALSE_ABSTAIN, Rule, fewest_images
from edgekit.bundle import BundleFile, Variant
from edgekit.confidence import AnyConfidence
from edgekit.errors import EdgekitError
from edgekit.export.judged import Evaluation, Judged
from edgekit.export.running import Run, running, running_variant
from edgekit.export.verify import class_spread
from edgekit.files import atomic_write
from edgekit.progress import progress
from edgekit.quantize.selection import digest_of_arrays
from edgekit.runtimes import why_not
from edgekit.tasks import Task
from edgekit.tasks.unknown import MEANS, WHITENING, Geometry, Known

GEOMETRY_FILE = "geometry.npz"
MOST = 1000  # images of each kind: a threshold from so many leaves a share of 5 % between 3.7 and 6.4 %
_BATCH = 64


@dataclass(frozen=True)
class ConfidenceRequest:
    """What confidence a bundle shall have.

    Attributes:
        held_out: labeled images from which no model learned, uint8 (n, h, w, 3) and labels (n,); None takes half of the evaluation images.
        rule: what the answer unknown goes by.
        false_abstain: the share of known images that may be called unknown.
    """

    held_out: Evaluation | None = None
    rule: Rule = DISTANCE
    false_abstain: float = FALSE_ABSTAIN


@dataclass(frozen=True)
class ConfidenceImages:
    """Images with labels to set a confidence on, others to measure it on, and unlabeled ones.

    Attributes:
        setting: images and labels that temperature and threshold are set on, and what they are.
        testing: images and labels that show what they do, and what they are.
        unlabeled: images of the pool.
    """

    setting: tuple[NDArray[np.uint8], NDArray[Any], str]
    testing: tuple[NDArray[np.uint8], NDArray[Any], str]
    unlabeled: NDArray[np.uint8]

    @classmethod
    def of(cls, request: ConfidenceRequest, judged: Judged, task: Task) -> ConfidenceImages | None:
        """Choose them; None where no image has a label."""
        if judged.labels is None:
            return None
        images, labels = judged.images, judged.labels
        if request.held_out is not None:
            setting = (*_some(*request.held_out), "probe images")
            testing = (*_some(images, labels), "test images")
        else:
            spread = class_spread(
                task.groups({}, labels), len(labels)
            )  # neighbors are of different classes: each half has all of them
            first, second = np.sort(spread[::2]), np.sort(spread[1::2])
            setting = (*_some(images[first], labels[first]), "one half of the test images")
            testing = (*_some(images[second], labels[second]), "the other half of the test images")
        total = judged.calibration.total
        rows = np.linspace(0, total - 1, min(MOST, total)).round().astype(np.int64)
        return cls(setting, testing, judged.calibration.read(rows))

    def digest(self, request: ConfidenceRequest) -> str:
        """A digest of everything beside the variants that a confidence depends on."""
        arrays = [*self.setting[:2], *self.testing[:2], self.unlabeled]
        return f"{request.rule} {request.false_abstain!r} {digest_of_arrays(*arrays)}"


def _some(images: NDArray[np.uint8], labels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """At most `MOST` of the images, evenly."""
    if not len(images):
        return images, labels
    rows = np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(np.int64)
    return np.ascontiguousarray(images[rows]), labels[rows]


@dataclass(frozen=True)
class Calibrated:
    """What a bundle says of its confidence.

    Attributes:
        variants: all of them; those that run here with a confidence of their own.
        trained: the trained model's.
        geometry: the file of where known images lie, for the rule of the distance.
        notes: for the user, one sentence each.
    """

    variants: list[Variant]
    trained: AnyConfidence | None = None
    geometry: BundleFile | None = None
    notes: Sequence[str] = ()


def images_for(
    request: ConfidenceRequest | None, judged: Judged, task: Task
) -> tuple[ConfidenceImages | None, str | None]:
    """The images for a confidence, None where none has a label; and a digest of all that it depends on, None where none is asked for."""
    if request is None:
        return None, None
    images = ConfidenceImages.of(request, judged, task)
    return images, "no labels" if images is None else images.digest(request)


def with_confidence(
    variants: list[Variant],
    folder: Path,
    float_onnx: Path,
    images: ConfidenceImages | None,
    request: ConfidenceRequest | None,
    task: Task,
) -> Calibrated:
    """Give the variants of a bundle their confidence; without enough labeled images none, and a note that says so.

    Args:
        variants: their files are in `folder`.
        folder: of the bundle; the geometry is written into it.
        float_onnx: the float graph, with the outputs of the bundle's graphs: the trained model.
        images: None where no image has a label.
        request: the user's; None: no confidence.
        task: what the model answers.
    """
    bare = [v.model_copy(update={"confidence": None}) for v in variants]
    if request is None:
        return Calibrated(bare)
    fewest = fewest_images(request.false_abstain)
    count, are = (0, "labeled images") if images is None else (len(images.setting[0]), images.setting[2])
    if images is None or count < fewest or not len(images.testing[0]):
        return Calibrated(bare, notes=[_too_few(task, count, are, fewest)])
    with running("onnxruntime", float_onnx, task, _BATCH) as run:
        measures = task.abstains and request.rule == DISTANCE
        geometry = task.geometry(run(images.unlabeled)) if measures else None
        trained, decided = _calibrated(run, images, request, geometry, task, None)
    if trained is None:
        why = "the outputs are the same for all calibration images" if task.abstains else f"no class is in the {are}"
        return Calibrated(bare, notes=[f"{'no answer unknown' if task.abstains else task.uncalibrated}: {why}"])
    found = []
    with progress("confidence", len(bare), unit="variants") as advance:
        for variant in bare:
            found.append(_of_variant(variant, folder, images, request, geometry, task, decided))
            advance()
    return Calibrated(found, trained, None if geometry is None else write_geometry(folder, geometry))


def write_geometry(folder: Path, geometry: Geometry) -> BundleFile:
    """Write where known images lie into a bundle's folder."""
    with atomic_write(folder / GEOMETRY_FILE) as stream:
        np.savez(stream, **{MEANS: geometry.means, WHITENING: geometry.whitening})  # type: ignore[arg-type]
    return BundleFile.of(folder, GEOMETRY_FILE)


def _too_few(task: Task, count: int, are: str, fewest: int) -> str:
    what = f"only {count} {are}" if count else f"no {are}"
    return (
        f"{task.uncalibrated}: {what}, of at least {fewest} (for a run, set data.probe of its recipe higher; for a model of your own, give "
        f"--evaluate {2 * fewest} images or more)"
    )


def _of_variant(
    variant: Variant, folder: Path, images: ConfidenceImages, request: ConfidenceRequest, geometry: Geometry | None, task: Task,
    decided: NDArray[np.int64],
) -> Variant:  # fmt: skip
    """The variant with its own confidence; without one where it cannot run here, or its outputs are not finite."""
    if variant.parity is None or why_not(variant.runtime):
        return variant
    try:
        with running_variant(variant, folder, task, _BATCH) as run:
            confidence, _ = _calibrated(run, images, request, geometry, task, decided)
    except EdgekitError as error:
        return variant.noted(f"no confidence of its own: {error.message}")
    return variant.model_copy(update={"confidence": confidence})


def _calibrated(
    run: Run, images: ConfidenceImages, request: ConfidenceRequest, geometry: Geometry | None, task: Task,
    trained: NDArray[np.int64] | None,
) -> tuple[AnyConfidence | None, NDArray[np.int64]]:  # fmt: skip
    """The confidence of a model, and its decisions on the images that show what it does."""
    (setting, labels, are), (testing, truth, tested) = images.setting, images.testing
    confidence = task.calibrated(run(setting), labels, request.rule, request.false_abstain, geometry, are)
    if confidence is None:
        return None, np.zeros(0, np.int64)
    known, outputs = Known(confidence, geometry), run(testing)
    quality = task.quality_of(outputs, truth, known, trained, tested)
    return confidence.model_copy(update={"quality": quality}), task.decisions(outputs, known)
