"""Importer of the anomaly detector of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.anomaly_labels import labels_of_test
from edgekit.data.pasted import pasted
from edgekit.data.pixels import Pixels
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.export.alarms import AlarmRequest, too_few_labeled
from edgekit.export.importers.runs import provenance_of
from edgekit.export.importers.source import ModelSource
from edgekit.models.anomaly.detector import PixelDetector
from edgekit.models.store import load_detector
from edgekit.quantize.selection import CalibrationPool
from edgekit.run import Run
from edgekit.tasks.anomaly import image_labels

STAGE = "anomaly"


def _standing_in(held_out: Pixels) -> tuple[NDArray[np.uint8], None] | None:
    """Images without labels that variants are judged on: held-out normal ones, and the same with a foreign patch; None where there are none.

    Normal images alone have nearly the same score, and their order says little about that of normal and anomalous ones.
    """
    if not len(held_out):
        return None
    images = np.asarray(held_out)
    return np.concatenate([images, pasted(images, 0)]), None


def detector_from_run(run: Run, calibration_images: int, require_current: Callable[..., Any]) -> ModelSource:
    """Import the detector of a run of `task: anomaly`.

    Args:
        run: the run.
        calibration_images: the largest number of calibration images, of the normal ones.
        require_current: see `runs.from_run`.

    Raises:
        RunError: its stage is incomplete or damaged, or was made from another recipe or other images.
        DataError: the recipe's images cannot be read, or are too few for the threshold that it wants.
    """
    recipe = run.recipe
    record = run.require(STAGE)
    splits = load_splits(recipe.data, run)
    require_current(recipe.stages, recipe, splits, run)
    sets = splits.anomaly
    assert sets is not None  # the run has a detector
    detector = load_detector(run.stage_path(STAGE), record.outputs)
    own = detector.encoder.without_conversion()
    if detector.student is not None:
        detector.student.without_conversion()
    images, labels = np.asarray(sets.test.images), labels_of_test(sets)
    if recipe.anomaly.threshold == "labeled" and (fault := too_few_labeled(sets.labels.astype(bool))):
        raise DataError(f"{run.path}: {fault}", "add test images, or set anomaly.threshold to normal")
    both = bool(len(labels)) and image_labels(labels).any() and not image_labels(labels).all()
    notes = [] if both or not len(labels) else ["the test images are all of one kind, so no AUROC can be measured"]
    return ModelSource(
        name=recipe.name,
        model=PixelDetector(detector, *(own or (recipe.data.mean, recipe.data.std))),
        classes=[],
        preprocessing=recipe.data.preprocessing(sets.pixel_range),
        calibration=CalibrationPool(
            total=len(sets.normal),
            read=lambda rows: np.asarray(sets.normal.images[rows]),
            digest=sets.normal.digest,
            count=calibration_images,
        ),
        evaluation=(images, labels) if both else _standing_in(sets.held_out.images),
        output=run.path / "export",
        provenance={**provenance_of(run, "detector", record.outputs), "notes": notes, "method": detector.spec.method},
        alarm=AlarmRequest(
            np.asarray(sets.held_out.images), recipe.anomaly.threshold, recipe.anomaly.false_alarms, recipe.anomaly.trim
        ),
    )
