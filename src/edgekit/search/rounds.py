"""Short rounds: the candidates within the budget are distilled for a share of the epochs, the best of them for longer (successive halving).

Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", algorithm 1; the reduction by 3 is
Hyperband's (Li et al. 2018). A round waits for all of its candidates, so who is left does not depend on the number of machines or on the order
in which they trained, as it does where rounds overlap (ASHA). A longer round starts anew: a schedule that ended is comparable, and one that was
cut is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekit.data.splits import Splits
from edgekit.errors import DataError, RecipeError
from edgekit.models.store import load_classifier
from edgekit.recipe import Recipe, TeacherSource, epochs_of, settled
from edgekit.run import Run
from edgekit.search.candidates import Candidate
from edgekit.shares import share_of
from edgekit.sizes import ImageSize
from edgekit.tasks import ANOMALY
from edgekit.text import counted
from edgekit.train.evaluate import apply, device_of, labels_of
from edgekit.train.loop.failures import Diverged, OutOfMemory
from edgekit.train.loop.launch import joined
from edgekit.train.objective import objective_of
from edgekit.train.records.folders import complete, only_one
from edgekit.train.records.inputs import stage_inputs
from edgekit.train.stages.pipeline import Report, Stages, train

SHORT_ROUNDS = 2
REDUCTION = 3


@dataclass(frozen=True)
class Halving:
    """The plan of the rounds.

    Attributes:
        rounds: the number of short rounds.
        reduction: one candidate in so many is kept after each round, and the next one has so many times the epochs.
    """

    rounds: int = SHORT_ROUNDS
    reduction: int = REDUCTION

    def epochs(self, full: int) -> list[int]:
        """Return the epochs of each short round, shorter than the full training; fewer rounds where there are few epochs."""
        wanted = {round(full / self.reduction ** (self.rounds - number)) for number in range(self.rounds)}
        return sorted({max(1, epochs) for epochs in wanted if epochs < full}) or [full]

    def kept(self, count: int) -> int:
        """Return how many of the candidates of a round are kept, at least one."""
        return max(1, math.ceil(count / self.reduction))


@dataclass(frozen=True)
class Scored:
    """What a training gave.

    Attributes:
        right, images: how many of the held-out images are answered rightly, or as the teacher does.
        seconds: of the training.
        error: why it failed; empty if it did not.
    """

    right: int
    images: int
    seconds: float
    error: str = ""

    @property
    def score(self) -> float | None:
        """The share of right answers; None if the training failed."""
        return None if self.error else share_of(self.right, self.images)


class Training:
    """The trainings of a search, all with the same teacher.

    Args:
        recipe: of the search.
        folder: of the search: teachers are trained in FOLDER/teacher, short rounds in FOLDER/rounds.
        splits_of: returns the images at a resolution.
        reuse: runs to copy pretraining and fine-tuning from, if their inputs are the same.
        on_stage: called after each stage of a teacher.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        splits_of: Callable[[ImageSize], Splits],
        reuse: Sequence[Run] = (),
        on_stage: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self.recipe, self.folder, self.splits_of = recipe, folder, splits_of
        self.reuse, self.on_stage = reuse, on_stage

    def epochs(self, candidate: Candidate) -> int:
        """Return the epochs of the full distillation."""
        splits = self.splits_of(candidate.image_size)
        return epochs_of(settled(self.recipe, len(splits.pool), len(splits.labeled)).distill)

    def full_run(self, candidate: Candidate) -> Run:
        """Return the run of a full training."""
        return Run(self.folder / "full" / candidate.name)

    def teacher_run(self, image_size: ImageSize) -> Run:
        """Return the run of the teacher for a resolution."""
        own = image_size == self.recipe.data.image_size
        return Run(self.folder / ("teacher" if own else f"teacher-{image_size}"))

    def teach(self, candidate: Candidate) -> None:
        """Pretrain and fine-tune the teacher for a candidate's resolution, unless that is done.

        Raises:
            EdgekitError: as `edgekit.train.stages.pipeline.train`.
        """
        recipe = candidate.in_recipe(self.recipe).model_copy(update={"distill": self.recipe.distill})
        splits = self.splits_of(candidate.image_size)
        run = self.teacher_run(candidate.image_size)
        train(recipe, run, reuse=self.reuse, splits=splits, until="finetune", on_stage=self.on_stage)

    def teacher_seconds(self, candidate: Candidate) -> float:
        """Return what the teacher for a candidate's resolution cost this search; nothing if it may be another run's."""
        run = self.teacher_run(candidate.image_size)
        return 0.0 if self.reuse else sum(run.require(stage).seconds for stage in ("pretrain", "finetune"))

    def short_run(self, candidate: Candidate, epochs: int) -> Run:
        """Return the run of a short training."""
        return Run(self.folder / "rounds" / str(epochs) / candidate.name)

    def short(self, candidate: Candidate, epochs: int) -> Scored:
        """Distill a candidate for some epochs, and score it; resumes an interrupted training.

        A training that diverges or does not fit into memory is a result, too.

        Raises:
            EdgekitError: as a training.
            TrainingInterrupted: a signal stopped it.
        """
        run = self.short_run(candidate, epochs)
        splits, recipe = self.splits_of(candidate.image_size), self._short_recipe(candidate, epochs)
        began = time.monotonic()
        try:
            with joined(recipe.hardware), only_one(run):
                recipe.write(run.recipe_path)
                inputs = stage_inputs("distill", recipe, splits, run)
                _, record = complete(run, "distill", inputs, Stages(recipe, run, splits).distill, [])
        except (Diverged, OutOfMemory) as error:
            return Scored(0, 0, time.monotonic() - began, error.message)
        right, images = self.score(candidate, run.stage_path("distill"), record.outputs)
        return Scored(right, images, record.seconds)

    def _short_recipe(self, candidate: Candidate, epochs: int) -> Recipe:
        """The recipe of a short round, whose teacher is that of the search instead of the run's own."""
        recipe = candidate.in_recipe(self.recipe)
        splits = self.splits_of(candidate.image_size)
        distill = settled(recipe, len(splits.pool), len(splits.labeled)).distill
        warmup = (distill.optimizer.warmup_epochs or 0.0) * epochs / epochs_of(distill)
        optimizer = distill.optimizer.model_copy(update={"warmup_epochs": round(min(warmup, 0.9 * epochs), 6)})
        own = TeacherSource(model=str(self.teacher_run(candidate.image_size).path.resolve()))
        # The teacher of the pretraining would look at all images again for each candidate: the search's own stands for it, too.
        teachers = list(dict.fromkeys(own if t.of_this_run else t for t in distill.teachers))
        # A round compares networks, each from new weights; and its run has no encoder of its own.
        changed = {"epochs": epochs, "steps": None, "optimizer": optimizer, "teachers": teachers, "start": "new"}
        return recipe.model_copy(update={"distill": distill.model_copy(update=changed)})

    def score(self, candidate: Candidate, stage: Path, outputs: dict[str, str]) -> tuple[int, int]:
        """Return how many held-out images a student answers rightly, and of how many; see `scored_on`. The test labels are not used.

        Args:
            candidate: gives the resolution.
            stage: the folder of the student's stage.
            outputs: of the stage's record.
        """
        splits = self.splits_of(candidate.image_size)
        images = splits.probe if len(splits.probe) else splits.test
        answers = self._answers(stage, outputs, images.images)
        if len(splits.probe):
            truth = labels_of(images)
        else:
            teacher = self.teacher_run(candidate.image_size)
            truth = self._answers(teacher.stage_path("finetune"), teacher.require("finetune").outputs, images.images)
        return int((answers == truth).sum()), len(images)

    def _answers(self, stage: Path, outputs: dict[str, str], images: Any) -> torch.Tensor:
        data = self.recipe.data
        logits = apply(load_classifier(stage, outputs), images, data.mean, data.std, device_of(self.recipe), "")
        return logits.argmax(1).cpu()


def scored_on(splits: Splits) -> str:
    """Return what the short rounds are scored on, in words."""
    if len(splits.probe):
        return f"top-1 on the probe set of {counted(len(splits.probe), 'image')}"
    return f"agreement with the teacher on the {len(splits.test)} test images, without their labels"


def check_trainable(recipe: Recipe, splits: Splits) -> None:
    """Refuse early what the rounds cannot do.

    Raises:
        RecipeError: the recipe trains on several devices.
        DataError: nothing is labeled, or there are no images to score on.
    """
    if recipe.hardware.devices * recipe.hardware.nodes > 1:
        raise RecipeError(
            "hardware: a search trains each candidate on one device; several machines share it by --storage",
            "set hardware.devices and hardware.nodes to 1",
        )
    if recipe.task == ANOMALY:
        raise RecipeError(
            f"task: {recipe.task}: a search distills a student from a teacher, and a detector has neither",
            "choose its encoder by hand (anomaly.encoder), and compare runs with `edgekit compare`",
        )
    if not objective_of(recipe).one_class:
        raise RecipeError(
            f"task: {recipe.task}: a search ranks its students by the share of images that they answer rightly, and here an image has any "
            "number of answers",
            "choose the student by hand (distill.student), and compare runs with `edgekit compare`",
        )
    if not len(splits.labeled):
        raise DataError(
            "data.labels: a search needs labels, because its teacher is fine-tuned", "label some images first"
        )
    if not len(splits.probe) and not len(splits.test):
        raise DataError("data: there are neither probe nor test images to score students on", "set data.probe to 0.1")


def ranked(scores: dict[str, Scored], latency: dict[str, float]) -> list[str]:
    """Return the candidates of a round, the best first; of equal scores, the faster one. Failed ones are left out."""
    found = [name for name, scored in scores.items() if scored.score is not None]
    return sorted(found, key=lambda name: (-(scores[name].score or 0.0), latency[name], name))


def not_faster(candidates: Sequence[Candidate], latency: dict[str, float]) -> dict[str, str]:
    """Return the candidates that need no training, each with the reason: the same network with more channels is at least as fast.

    Args:
        candidates: within the budget.
        latency: of their fastest variants within the budget, ms.
    """
    found = {}
    for one in candidates:
        wider = [
            other
            for other in candidates
            if other.family == one.family
            and other.architecture.width > one.architecture.width
            and latency[other.name] <= latency[one.name]
        ]
        if wider:
            best = max(wider, key=lambda other: other.architecture.width)
            found[one.name] = (
                f"no faster than {best.name}, the same network with more channels "
                f"({latency[one.name]:.3g} against {latency[best.name]:.3g} ms)"
            )
    return found
