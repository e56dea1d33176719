"""The facts for the advice: the histories and records of a run, and a few accuracies that no stage measures.

They are measured on the probe set, so that following the advice does not choose a recipe on the test set; if the probe set is too small,
on the test set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.data.images import ImageSet, spread_rows
from edgekit.data.splits import Splits
from edgekit.foreign import Unreadable, read_csv, understood
from edgekit.models.pixels import normalize
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.recipe import Recipe
from edgekit.run import Run, StageRecord, classifier_stages
from edgekit.stages import MODEL_OF
from edgekit.text import counted
from edgekit.train.advice.views import ViewScores, measure_views
from edgekit.train.analysis.symmetry import FEWEST, mirrored_told_apart
from edgekit.train.distill.teachers import load_teachers
from edgekit.train.evaluate import apply, device_of, labels_of, linear_probe
from edgekit.train.evaluate.few_shot import nearest_centroid

VIEWS_KEEP = 0.35  # smallest share of the probe's accuracy above chance that the views of pretraining must keep
_MIN_PROBES = 100  # images of the probe set; with fewer, the test set is used
_MAX_IMAGES = 2000  # of each set
_MAX_LABELS = 5000  # training images of the probe on the frozen encoder

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class StageFacts:
    """The facts of one stage.

    Args:
        epochs: number of epochs.
        steps: number of steps of the optimizer; None if the record does not hold it.
        losses: mean loss of each epoch.
        top1: training accuracy of the last epoch, on augmented images; for distillation, the agreement with the teacher.
        labels_top1: accuracy on the label budget, without augmentation; None if it was not measured.
    """

    epochs: int
    steps: int | None
    losses: list[float]
    top1: float | None = None
    labels_top1: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """All facts that the rules use.

    Args:
        classes: names.
        held: the images that the accuracies are measured on, in words: `probe set, 180 images`.
        truth: (n,) classes of those images.
        stages: by name; only complete ones.
        predicted: (n,) predicted classes of teacher, student and supervised, and of `linear` and `centroid`: linear probe and nearest
            centroid on the frozen encoder, from the label budget.
        other_teachers: predicted classes of the teachers from other sources, by name.
        knn: pairs of epoch and kNN accuracy of the encoder, in order; empty if it was not monitored.
        knn_before: kNN accuracy with the initial weights.
        knn_after: kNN accuracy of the stored encoder.
        views: whether the classes survive the augmentation of pretraining.
        mirrored: share of the pool's images that a classifier distinguishes from their mirror images (chance: 0.5); None if no stage
            flips images, or there are too few.
        flipping: the stages that flip images.
        in_pool: share of the pool that the teacher assigns to each class.
        pool: number of images for `in_pool`.
        label_counts: images of each class in the label budget.
        fallback: test accuracies of the fine-tuned network and of the linear probe on the frozen encoder, if the probe was stored; else
            None.
        dropped: step, reason (see `edgekit.train.stages.teacher`) and sentence, if fine-tuning dropped its pseudo-labels; else None.
        other_pool: sentence, if the pseudo-labels show that the pool differs from the probe set; else empty.
        knn_images: number of images for each accuracy of `knn`, and for `fallback`; 0 if unknown.
        on_test: accuracy of the student on the test set and number of its images, if `held` is the probe set; else None.
    """

    classes: list[str]
    held: str
    truth: NDArray[np.int64]
    stages: dict[str, StageFacts]
    predicted: dict[str, NDArray[np.int64]]
    other_teachers: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    knn: list[tuple[int, float]] = field(default_factory=list)
    knn_before: float | None = None
    knn_after: float | None = None
    views: ViewScores | None = None
    mirrored: float | None = None
    flipping: list[str] = field(default_factory=list)
    in_pool: NDArray[np.float64] | None = None
    pool: int = 0
    label_counts: list[int] = field(default_factory=list)
    fallback: tuple[float, float] | None = None
    dropped: tuple[int, str, str] | None = None
    other_pool: str = ""
    knn_images: int = 0
    on_test: tuple[float, int] | None = None

    def right(self, model: str) -> Right:
        """Return (n,) whether a model is right on each image."""
        return self.predicted[model] == self.truth

    def top1(self, model: str) -> float:
        """Return the accuracy of a model."""
        return float(self.right(model).mean())

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the most frequent class."""
        return float(np.bincount(self.truth).max() / len(self.truth))


def gather(run: Run, recipe: Recipe, splits: Splits) -> RunFacts:
    """Collect and measure the facts of a run, on at most a few thousand images of each set.

    Args:
        run: a complete run.
        recipe: its recipe.
        splits: its images; the test set must not be empty.

    Raises:
        EdgekitError: a model of the run cannot be read.
    """
    device = device_of(recipe)
    name, held_set = ("probe set", splits.probe) if len(splits.probe) >= _MIN_PROBES else ("test set", splits.test)
    held = held_set.subset(spread_rows(len(held_set), _MAX_IMAGES))
    labeled = _plain(splits.labeled, recipe, _MAX_LABELS)
    stages = classifier_stages(recipe)
    records = {stage: run.require(stage) for stage in ("pretrain", *stages)}
    models = {MODEL_OF[stage]: load_classifier(run.stage_path(stage), records[stage].outputs) for stage in stages}
    predicted = {model: _choices(network, held, recipe, device) for model, network in models.items()}
    encoder = load_pretrained(run.stage_path("pretrain"), records["pretrain"].outputs).encoder
    predicted |= _frozen(encoder, labeled, held, recipe, device)
    stage_facts = {stage: _stage(run, record) for stage, record in records.items()}
    few = labeled.subset(spread_rows(len(labeled), _MAX_IMAGES))
    assert few.labels is not None
    for stage in stages:
        right = float((_choices(models[MODEL_OF[stage]], few, recipe, device) == few.labels).mean())
        stage_facts[stage] = replace(stage_facts[stage], labels_top1=right)
    pool = _plain(splits.pool, recipe, _MAX_IMAGES)
    counts = np.bincount(_choices(models["teacher"], pool, recipe, device), minlength=len(splits.classes))
    flipping = [stage for stage in ("pretrain", *stages) if getattr(recipe, stage).augmentation.flip]
    metrics = records["pretrain"].metrics
    before = metrics.get("knn_random_weights", metrics.get("knn_starting_weights"))
    assert splits.labeled.labels is not None
    return RunFacts(
        classes=splits.classes,
        held=f"{name}, {counted(len(held), 'image')}",
        truth=labels_of(held).numpy(),
        stages=stage_facts,
        predicted=predicted,
        other_teachers=_other_teachers(run, recipe, splits, held),
        knn=_column(run, "pretrain", "knn"),
        knn_before=before if isinstance(before, float) else None,
        knn_after=metrics["knn"] if isinstance(metrics.get("knn"), float) else None,
        views=measure_views(models["teacher"], splits.labeled, held, recipe, device, VIEWS_KEEP),
        mirrored=mirrored_told_apart(pool.images) if flipping and len(pool) >= FEWEST else None,
        flipping=flipping,
        in_pool=counts / len(pool),
        pool=len(pool),
        label_counts=np.bincount(splits.labeled.labels, minlength=len(splits.classes)).tolist(),
        fallback=_fallback(records["finetune"]),
        dropped=_dropped(records["finetune"]),
        other_pool=_other_pool(records["finetune"]),
        knn_images=len(splits.test),
        on_test=_on_test(records["distill"], splits) if held_set is splits.probe else None,
    )


def _dropped(record: StageRecord) -> tuple[int, str, str] | None:
    found = record.metrics.get("consistency")
    if not isinstance(found, dict) or found.get("stopped_at") is None:
        return None
    return int(found["stopped_at"]), str(found.get("reason", "")), str(found.get("why", ""))


def _other_pool(record: StageRecord) -> str:
    found = record.metrics.get("consistency")
    return str(found.get("other_pool") or "") if isinstance(found, dict) else ""


def _on_test(record: StageRecord, splits: Splits) -> tuple[float, int] | None:
    """Return the accuracy that the stage measured and the number of images; None if they were other images."""
    measured = record.metrics.get("measured_on")
    if not isinstance(measured, dict) or measured.get("test") != splits.test.digest:
        return None
    return float(record.metrics["test_top1"]), len(splits.test)


def _fallback(record: StageRecord) -> tuple[float, float] | None:
    test = record.metrics["choice"].get("test") if record.stored_probe else None
    if not isinstance(test, dict) or not {"finetuned", "frozen"} <= set(test):
        return None
    return float(test["finetuned"]), float(test["frozen"])


def _plain(images: ImageSet, recipe: Recipe, most: int) -> ImageSet:
    """Return at most `most` training images, with evaluation preprocessing."""
    return images.subset(spread_rows(len(images), most)).center_crop(recipe.data.preprocessing().image_size)


def _choices(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> NDArray[np.int64]:
    logits = apply(model, images.images, recipe.data.mean, recipe.data.std, device, "advice")
    return logits.argmax(1).numpy()


def _frozen(
    encoder: nn.Module, labeled: ImageSet, held: ImageSet, recipe: Recipe, device: torch.device
) -> dict[str, NDArray[np.int64]]:
    """Return the predictions of a linear probe and of the nearest centroid, both from the label budget."""
    known, queries = (
        apply(encoder, images.images, recipe.data.mean, recipe.data.std, device, "advice") for images in (labeled, held)
    )
    labels = labels_of(labeled)
    present = torch.unique(labels)  # a class without a label has no centroid
    of_present = nearest_centroid(known, torch.searchsorted(present, labels), queries, len(present))
    found = {"centroid": present[of_present].numpy()}
    if len(present) > 1:
        found["linear"] = linear_probe(known, labels, queries).numpy()
    return found


def _other_teachers(run: Run, recipe: Recipe, splits: Splits, held: ImageSet) -> dict[str, NDArray[np.int64]]:
    """Return the predictions of each teacher from another source, as distillation uses it."""
    sources = [source for source in recipe.distill.teachers if not source.of_this_run]
    teachers = load_teachers(recipe.distill.teachers, run, recipe.data, splits.classes, own=False)
    pixels = torch.from_numpy(np.array(held.images))
    return {
        source.model: torch.cat(
            [teacher(normalize(part, recipe.data.mean, recipe.data.std))[0].argmax(1) for part in pixels.split(100)]
        ).numpy()
        for source, teacher in zip(sources, teachers, strict=True)
    }


def _stage(run: Run, record: StageRecord) -> StageFacts:
    stage = record.stage
    losses = _column(run, stage, "loss")
    top1 = _column(run, stage, "agreement" if stage == "distill" else "train_top1")
    steps = record.metrics.get("steps")
    return StageFacts(
        epochs=losses[-1][0] if losses else 0,
        steps=steps if isinstance(steps, int) else None,
        losses=[loss for _, loss in losses],
        top1=top1[-1][1] if top1 else None,
    )


def _column(run: Run, stage: str, name: str) -> list[tuple[int, float]]:
    """Return (epoch, value) of each row of a column in a stage's history; empty if there is none."""
    path: Path = run.stage_path(stage) / "history.csv"
    try:
        with understood(path, "a history of training"):
            rows = [(int(float(row["epoch"])), float(row[name])) for _, row in read_csv(path)[1] if row.get(name)]
    except Unreadable:
        return []
    return [(epoch, value) for epoch, value in rows if math.isfinite(value)]
