"""Divide the time of a training among its stages, from the measured time of their steps."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from edgekit.data.splits import Splits
from edgekit.errors import EdgekitError
from edgekit.progress import duration
from edgekit.recipe import Recipe, auto_epochs, epochs_of
from edgekit.train.estimate import StageTime
from edgekit.train.stages.scratch import tried_epochs

MOST = {"pretrain": 800, "distill": 300}  # epochs: more only repeat the images
DISTILLED = (
    0.22  # share of the time of pretraining and distillation: a step takes half as long, and fewer steps suffice
)
LABELS_SHARE = 0.25  # largest share of the time for fine-tuning and the network from scratch together


@dataclass(frozen=True)
class TimeDivision:
    """How the time is divided.

    Attributes:
        pretrain_epochs: of pretraining.
        distill_epochs: of distillation; 0 where it cannot be measured.
        steps: of fine-tuning and of the baseline if `auto` takes too long, else empty.
        of_labels: seconds of both.
        trained: epochs that the baseline trains with all its settings, as a multiple of those of the first.
    """

    pretrain_epochs: int
    distill_epochs: int
    steps: dict[str, int]
    of_labels: float
    trained: int


def epoch_seconds(stage: StageTime) -> float:
    """Return the seconds of an epoch of a stage's last training."""
    training = stage.trainings[-1]
    return max(1e-6, training.seconds(training.steps // training.epochs, 1))


def divide_time(
    seconds: float, fixed: float, recipe: Recipe, splits: Splits, times: dict[str, StageTime]
) -> TimeDivision:
    """Choose the epochs or steps of each stage.

    Args:
        seconds: for the whole training.
        fixed: seconds of them outside of the steps.
        recipe: the settled recipe that was measured.
        splits: its images, or stand-ins in the same numbers.
        times: of each stage; without labels, of pretraining alone.

    Raises:
        EdgekitError: the time is too short for one epoch of each stage.
    """
    # More pretraining lets the baseline try more settings, which leave less for pretraining: the first number of settings that is not
    # exceeded.
    most = _most_trained(recipe, splits)
    tries = (_divide(seconds, fixed, recipe, splits, times, trained) for trained in range(1, most + 1))
    return next(division for trained, division in enumerate(tries, 1) if division.trained <= trained)


def _most_trained(recipe: Recipe, splits: Splits) -> int:
    """Return how many times the epochs of its own settings the baseline may train at most."""
    searches = recipe.supervised.search and len(splits.probe)
    return tried_epochs(recipe.supervised, 1, 0, 0) if searches else 1


def _divide(
    seconds: float, fixed: float, recipe: Recipe, splits: Splits, times: dict[str, StageTime], trained: int
) -> TimeDivision:
    """Divide the time if the baseline trains `trained` times the epochs of its own settings."""
    labels = _label_seconds(times, trained)
    share = min(1.0, LABELS_SHARE * max(0.0, seconds - fixed) / max(1e-9, sum(labels.values())))
    steps = {stage: max(1, math.floor(share * times[stage].trainings[0].steps)) for stage in labels if share < 1.0}
    of_labels = share * sum(labels.values())
    pretrain = epoch_seconds(times["pretrain"])
    distill = epoch_seconds(times["distill"]) if "distill" in times else 0.0
    free = seconds - fixed - of_labels
    # Without labels, the later stages cannot be measured: their share of the time is reserved.
    distill_epochs = min(MOST["distill"], math.floor(free * DISTILLED / distill)) if distill else 0
    left = free - max(1, distill_epochs) * distill if distill else free * (1 - LABELS_SHARE) * (1 - DISTILLED)
    pretrain_epochs = min(MOST["pretrain"], math.floor(left / pretrain))
    if (distill and distill_epochs < 1) or pretrain_epochs < 1:
        least = fixed + of_labels + (pretrain + distill) / (1 - DISTILLED) / (1 - LABELS_SHARE)
        raise EdgekitError(
            f"--time {duration(seconds)} is too short on this machine: one epoch of pretraining takes {duration(pretrain)}",
            f"give at least {math.ceil(1.2 * least / 60)}m, or fewer or smaller images",
        )
    if "supervised" not in labels:
        return TimeDivision(pretrain_epochs, distill_epochs, steps, of_labels, 1)
    really = _really_trained(recipe, splits, steps.get("supervised"), pretrain_epochs)
    if really < trained:  # the rest goes to distillation, whose epochs the baseline's settings do not depend on
        unspent = share * labels["supervised"] * (1 - really / trained)
        of_labels -= unspent
        distill_epochs = min(MOST["distill"], distill_epochs + math.floor(unspent / distill))
    return TimeDivision(pretrain_epochs, distill_epochs, steps, of_labels, really)


def _label_seconds(times: dict[str, StageTime], trained: int) -> dict[str, float]:
    """Return the seconds of the stages that train on labels, if the baseline trains `trained` times the epochs of its own settings."""
    seconds = dict[str, float]()
    for stage, repeated in (("finetune", 1), ("supervised", trained)):
        if stage in times:
            trainings, first = times[stage].trainings, times[stage].trainings[0]
            seconds[stage] = repeated * statistics.fmean(t.seconds(first.steps, first.epochs) for t in trainings)
    return seconds


def _really_trained(recipe: Recipe, splits: Splits, steps: int | None, pretrain_epochs: int) -> int:
    """Return how many times the epochs of its own settings the baseline trains, for which it may see as many images as pretraining."""
    if _most_trained(recipe, splits) == 1:
        return 1
    config, images = recipe.supervised, len(splits.labeled)
    epochs = epochs_of(config) if steps is None else auto_epochs("supervised", images, config.batch_size, steps)
    return tried_epochs(config, epochs, images, pretrain_epochs * len(splits.pool)) // epochs
