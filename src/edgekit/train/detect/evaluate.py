"""Score a run's detector on its test set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.data.anomaly_labels import labels_of_test
from edgekit.data.anomaly_sets import AnomalySets
from edgekit.data.pixels import Pixels
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.models.anomaly.detector import Detector
from edgekit.models.store import load_detector
from edgekit.recipe import Recipe
from edgekit.result import Evaluation, Score
from edgekit.run import Run, scored_digests
from edgekit.tasks import ANOMALY
from edgekit.tasks.alarms import alarm_quality, set_alarm
from edgekit.tasks.anomaly import ANOMALY_DETECTION, MAP, SCORE, image_labels
from edgekit.tasks.anomaly_answers import FILE, AnomalyAnswers
from edgekit.tasks.task import Outputs
from edgekit.train.evaluate import device_of, several_outputs
from edgekit.train.records.inputs import require_current

MODEL = "detector"
_HOW = {
    "auroc": "the probability that an anomalous image scores above a normal one",
    "pixel_auroc": "the same of pixels, at the size that the model sees",
    "pro": "per-region overlap, area up to 30 % false positives (Bergmann et al. 2021)",
}


def evaluate_detector(run: Run) -> Evaluation:
    """Score the detector of a run; what it says of each test image is written to `RUN/evaluate/anomaly.npz`.

    Raises:
        RunError: a stage is not complete, damaged, or made from another recipe or other images.
        DataError: the test set lacks normal or anomalous images.
    """
    recipe = run.recipe
    splits = load_splits(recipe.data, run)
    records = require_current(recipe.stages, recipe, splits, run)
    sets = splits.anomaly
    assert sets is not None  # the run has a detector
    labels = labels_of_test(sets)
    anomalous = image_labels(labels) if len(labels) else np.zeros(0, bool)
    if not anomalous.any() or anomalous.all():
        raise DataError(
            f"{run.path}: the test set has {int((~anomalous).sum())} normal and {int(anomalous.sum())} anomalous images, and a score needs both",
            "add images to test/good and test/DEFECT",
        )
    detector = load_detector(run.stage_path(ANOMALY), records[ANOMALY].outputs)
    held_out, tested = (
        _outputs(detector, s.images, recipe, title) for s, title in ((sets.held_out, "held out"), (sets.test, "test"))
    )
    scores = [
        Score(model=MODEL, metric=metric, value=value, samples=len(labels), protocol=_HOW[metric])
        for metric, value in ANOMALY_DETECTION.score(tested, labels).items()
    ]
    threshold = map_threshold = None
    if len(sets.held_out):
        config = recipe.anomaly
        alarm = set_alarm(
            held_out,
            np.zeros(len(sets.held_out), bool),
            "normal",
            config.false_alarms,
            config.trim,
            "held-out normal images",
        )
        threshold, map_threshold = alarm.threshold, alarm.map_threshold
        scores.append(_decided(tested[SCORE], anomalous, sets, threshold, alarm.images))
    answers = AnomalyAnswers.of(
        sets.test.names,
        sets.defects,
        tested[SCORE],
        tested[MAP],
        np.asarray(sets.test.images),
        held_out[SCORE],
        threshold,
        map_threshold,
    )
    answers.write(run.path / "evaluate" / FILE)
    return Evaluation(
        task=ANOMALY,
        run=str(run.path),
        data=f"{recipe.data.normal}: test set of {int((~anomalous).sum())} normal and {int(anomalous.sum())} anomalous images",
        scores=scores,
        digests=scored_digests(records),
    )


def _decided(
    scores: NDArray[np.float32], anomalous: NDArray[np.bool_], sets: AnomalySets, threshold: float, images: int
) -> Score:
    """F1 at the threshold, and for each kind of defect (and for good images) the share that is decided rightly."""
    quality = alarm_quality(scores, anomalous, threshold, "test images")
    right, defects = (scores > threshold) == anomalous, np.array(sets.defects)
    return Score(
        model=MODEL,
        metric="f1",
        value=quality.f1 or 0.0,
        samples=len(scores),
        protocol=f"of the anomalous images, at the threshold from {images} held-out normal images",
        per_class={kind: float(right[defects == kind].mean()) for kind in dict.fromkeys(sets.defects)},
    )


def _outputs(detector: Detector, images: Pixels, recipe: Recipe, title: str) -> Outputs:
    """Score (n,) and map (n, h, w) of uint8 images (n, h, w, 3), in float32."""
    data = recipe.data
    if not len(images):
        return {SCORE: np.zeros(0, np.float32), MAP: np.zeros((0, *data.image_size), np.float32)}
    scores, maps = several_outputs(
        detector, images, data.mean, data.std, device_of(recipe), title, size=ANOMALY_DETECTION.batch,
        kept_on=torch.device("cpu"),
    )  # fmt: skip
    return {SCORE: scores.numpy(), MAP: maps.numpy()}
