"""What advice is drawn from: a run's histories and records, and a few accuracies that no stage needs for itself.

Measured on the probe set, so that following advice does not choose a recipe on the test set; on the test set where the probe set
is too small to say anything.
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
from edgekit.train.advice.views import ViewScores, measure_views
from edgekit.train.analysis.symmetry import FEWEST, mirrored_told_apart
from edgekit.train.distill.teachers import load_teachers
from edgekit.train.evaluate import apply, device_of, labels_of, linear_probe
from edgekit.train.evaluate.few_shot import nearest_centroid

KEEP_AT_LEAST = 0.35  # of what plain images show of the classes, in the views of the pretraining
_FEWEST_PROBES = 100
_MOST = 2000  # images of each set
_MOST_LABELS = 5000  # that the probe on the frozen encoder learns from

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class StageFacts:
    """What a training looked like.

    Args:
        epochs: that it had.
        steps: of the optimizer; None where the record does not say.
        losses: the mean of each epoch.
        top1: training accuracy of the last epoch, on augmented images; of a distillation, the agreement with the teacher.
        labels_top1: accuracy on the label budget, plain images; None where it was not measured.
    """

    epochs: int
    steps: int | None
    losses: list[float]
    top1: float | None = None
    labels_top1: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """Everything that the rules look at.

    Args:
        classes: names.
        held: what the accuracies are of, in words: `probe set, 180 images`.
        truth: (n,) classes of those images.
        stages: by name; those that are complete.
        predicted: (n,) first choices of teacher, student, supervised, and of `linear` and `centroid`: probe and nearest centroid of
            the frozen encoder, learned from the label budget.
        other_teachers: of the teachers that are not the run's own, their names and first choices.
        knn: the encoder's accuracy after so many epochs, in order; empty where it was not monitored.
        knn_before: that of the weights that the pretraining started from.
        knn_after: that of the encoder.
        views: whether the classes survive the pretraining's augmentation.
        mirrored: how often images of the pool are told from their mirror images (chance: 0.5); None where no stage flips, or they are few.
        flipping: the stages that flip images.
        in_pool: share of the pool that the teacher takes for each class.
        pool: how many images that was measured on.
        label_counts: images of each class in the label budget.
        fallback: test accuracies of the fine-tuned model and of the probe on the frozen encoder that was kept instead; None where the
            fine-tuned model was kept.
        dropped: step, reason (see `edgekit.train.stages.held_out`) and sentence where fine-tuning dropped its pseudo-labels; else None.
        knn_images: that each accuracy of `knn` was measured on; 0 where that is not known.
        on_test: the student's accuracy on the test set and its size, where `held` is the probe set; else None.
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
    knn_images: int = 0
    on_test: tuple[float, int] | None = None

    def right(self, model: str) -> Right:
        """(n,) whether a model is right."""
        return self.predicted[model] == self.truth

    def top1(self, model: str) -> float:
        """Accuracy of a model."""
        return float(self.right(model).mean())

    @property
    def chance(self) -> float:
        """Accuracy of always answering the most frequent class."""
        return float(np.bincount(self.truth).max() / len(self.truth))


def gather(run: Run, recipe: Recipe, splits: Splits) -> RunFacts:
    """Measure, at most some thousand images of each set with each model.

    Args:
        run: complete.
        recipe: its recipe.
        splits: its images; the test set is not empty.

    Raises:
        EdgekitError: a model of the run cannot be read.
    """
    device = device_of(recipe)
    name, held_set = ("probe set", splits.probe) if len(splits.probe) >= _FEWEST_PROBES else ("test set", splits.test)
    held = held_set.subset(spread_rows(len(held_set), _MOST))
    labeled = _plain(splits.labeled, recipe, _MOST_LABELS)
    stages = classifier_stages(recipe)
    records = {stage: run.require(stage) for stage in ("pretrain", *stages)}
    models = {MODEL_OF[stage]: load_classifier(run.stage_path(stage), records[stage].outputs) for stage in stages}
    predicted = {model: _choices(network, held, recipe, device) for model, network in models.items()}
    encoder = load_pretrained(run.stage_path("pretrain"), records["pretrain"].outputs).encoder
    predicted |= _frozen(encoder, labeled, held, recipe, device)
    stage_facts = {stage: _stage(run, record) for stage, record in records.items()}
    few = labeled.subset(spread_rows(len(labeled), _MOST))
    assert few.labels is not None
    for stage in stages:
        right = float((_choices(models[MODEL_OF[stage]], few, recipe, device) == few.labels).mean())
        stage_facts[stage] = replace(stage_facts[stage], labels_top1=right)
    pool = _plain(splits.pool, recipe, _MOST)
    counts = np.bincount(_choices(models["teacher"], pool, recipe, device), minlength=len(splits.classes))
    flipping = [stage for stage in ("pretrain", *stages) if getattr(recipe, stage).augmentation.flip]
    metrics = records["pretrain"].metrics
    before = metrics.get("knn_random_weights", metrics.get("knn_starting_weights"))
    assert splits.labeled.labels is not None
    return RunFacts(
        classes=splits.classes,
        held=f"{name}, {len(held):,} images",
        truth=labels_of(held).numpy(),
        stages=stage_facts,
        predicted=predicted,
        other_teachers=_other_teachers(run, recipe, splits, held),
        knn=_column(run, "pretrain", "knn"),
        knn_before=before if isinstance(before, float) else None,
        knn_after=metrics["knn"] if isinstance(metrics.get("knn"), float) else None,
        views=measure_views(models["teacher"], splits.labeled, held, recipe, device, KEEP_AT_LEAST),
        mirrored=mirrored_told_apart(pool.images) if flipping and len(pool) >= FEWEST else None,
        flipping=flipping,
        in_pool=counts / len(pool),
        pool=len(pool),
        label_counts=np.bincount(splits.labeled.labels, minlength=len(splits.classes)).tolist(),
        fallback=_fallback(records["finetune"]),
        dropped=_dropped(records["finetune"]),
        knn_images=len(splits.test),
        on_test=_on_test(records["distill"], splits) if held_set is splits.probe else None,
    )


def _dropped(record: StageRecord) -> tuple[int, str, str] | None:
    found = record.metrics.get("consistency")
    if not isinstance(found, dict) or found.get("stopped_at") is None:
        return None
    return int(found["stopped_at"]), str(found.get("reason", "")), str(found.get("why", ""))


def _on_test(record: StageRecord, splits: Splits) -> tuple[float, int] | None:
    """As the stage measured it; None where that was on other images."""
    measured = record.metrics.get("measured_on")
    if not isinstance(measured, dict) or measured.get("test") != splits.test.digest:
        return None
    return float(record.metrics["test_top1"]), len(splits.test)


def _fallback(record: StageRecord) -> tuple[float, float] | None:
    choice = record.metrics.get("choice")
    if not isinstance(choice, dict) or choice.get("left") != "frozen":
        return None
    test = choice.get("test")
    if not isinstance(test, dict) or not {"finetuned", "frozen"} <= set(test):
        return None
    return float(test["finetuned"]), float(test["frozen"])


def _plain(images: ImageSet, recipe: Recipe, most: int) -> ImageSet:
    """At most so many training images as evaluation sees them."""
    return images.subset(spread_rows(len(images), most)).center_crop(recipe.data.preprocessing().image_size)


def _choices(model: nn.Module, images: ImageSet, recipe: Recipe, device: torch.device) -> NDArray[np.int64]:
    logits = apply(model, images.images, recipe.data.mean, recipe.data.std, device, "advice")
    return logits.argmax(1).numpy()


def _frozen(
    encoder: nn.Module, labeled: ImageSet, held: ImageSet, recipe: Recipe, device: torch.device
) -> dict[str, NDArray[np.int64]]:
    """First choices of a linear probe and of the nearest centroid, both learned from the label budget."""
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
    """First choices of each teacher that is not the run's own, as the distillation hears it."""
    sources = [source for source in recipe.distill.teachers if source.model != "own"]
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
    """(epoch, value) of a column of a stage's history, where it has one."""
    path: Path = run.stage_path(stage) / "history.csv"
    try:
        with understood(path, "a history of training"):
            rows = [(int(float(row["epoch"])), float(row[name])) for _, row in read_csv(path)[1] if row.get(name)]
    except Unreadable:
        return []
    return [(epoch, value) for epoch, value in rows if math.isfinite(value)]
