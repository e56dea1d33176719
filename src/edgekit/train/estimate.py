"""Estimate how long a training will take, from a few real steps of each of its stages."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace

from edgekit.data.images import ImageSet, spread_rows
from edgekit.data.splits import Splits
from edgekit.errors import EdgekitError, RunError
from edgekit.progress import relayed
from edgekit.recipe import Recipe, settled
from edgekit.run import Run
from edgekit.stages import STAGES
from edgekit.temporary import scratch_folder
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.loop.timing import MEASURED, TimedTraining, timing_trainings
from edgekit.train.records.inputs import made_from, stage_inputs
from edgekit.train.stages.pipeline import Report, train, wanted_stages

_SCORED = 64  # number of test and probe images that a measurement scores
# How often each stage evaluates the test and probe sets: pretraining scores the encoder before and after. An image of a forward pass
# takes this share of an image of a training step: a third of the work, but in float32 even if training uses bf16.
_EVALUATIONS = {"pretrain": 2, "finetune": 1, "distill": 1, "supervised": 1}
_FORWARD = 0.5
_AT_START = 1.0  # seconds of each training that are measured before a training, whose bars soon say it better
_WORTH_IT = 60  # a training with fewer steps ends before its duration is known


@dataclass(frozen=True)
class StageTime:
    """The time of a stage.

    Args:
        trainings: its trainings (several if it tries some settings), and what precedes them in steps of its own.
        other: seconds outside of the steps: setup, scoring, storing.
    """

    trainings: list[TimedTraining] = field(default_factory=list)
    other: float = 0.0

    @property
    def seconds(self) -> float:
        """Total seconds."""
        return self.left(0)

    def left(self, done: int) -> float:
        """Return the seconds that are left after a number of steps of the trainings; what is kept of the work before them was not measured."""
        prepared = sum(timed.seconds() for timed in self.trainings if timed.prepares)
        trainings = [timed for timed in self.trainings if not timed.prepares]
        share = done / max(1, sum(training.steps for training in trainings))
        return self.other + prepared + max(0.0, 1 - share) * sum(training.seconds() for training in trainings)


def measure(
    recipe: Recipe,
    splits: Splits,
    until: str = STAGES[-1],
    limit: int | None = None,
    run: Run | None = None,
    seconds: float = MEASURED,
) -> tuple[dict[str, StageTime], float]:
    """Train a few steps of every stage in a scratch folder, with the recipe's networks, batches and device.

    Args:
        recipe: what is to be trained.
        splits: its images; only the number of test and probe images matters, not their content.
        until: the last stage.
        limit: steps of each training; default: as many as take a few seconds.
        seconds: of each training, if `limit` is not given.
        run: that will be trained; features of a teacher that it keeps already count as no work. Nothing is written into it.

    Returns:
        The time of each stage of the real training, and the seconds that the measurement took.

    Raises:
        EdgekitError: a stage cannot be trained.
    """
    few = replace(splits, test=_few(splits.test), probe=_few(splits.probe))
    began, ends = time.perf_counter(), dict[str, float]()

    def note(report: Report) -> None:
        ends[report.stage] = time.perf_counter()

    with (
        scratch_folder("timing") as folder,
        timing_trainings(limit, run.path if run is not None else None, seconds) as trainings,
        relayed(lambda text: None),
        redirect_stderr(io.StringIO()),  # the training prints the same messages again
    ):
        train(recipe, Run(folder / "run"), splits=few, until=until, on_stage=note)
    times, before = dict[str, StageTime](), began
    for stage, end in ends.items():
        own = [training for training in trainings if training.stage == stage]
        spent = sum(training.ends[-1] - training.ends[0] + training.step_seconds for training in own if training.ends)
        times[stage] = StageTime(own, max(0.0, end - before - spent) + _scoring(stage, own, splits))
        before = end
    return times, time.perf_counter() - began


def _few(images: ImageSet) -> ImageSet:
    """Return a few images, spread over the set: in one that is sorted by class, a linear probe needs more than the first class."""
    return images.subset(spread_rows(len(images), _SCORED)) if len(images) > _SCORED else images


def _scoring(stage: str, trainings: list[TimedTraining], splits: Splits) -> float:
    """Return the seconds for scoring the images that the measurement left out."""
    if not trainings or stage not in _EVALUATIONS:
        return 0.0
    more = max(0, len(splits.test) - _SCORED)
    if stage == "pretrain":
        more += max(0, len(splits.probe or splits.labeled) - _SCORED)
    an_image = trainings[-1].step_seconds / max(1, trainings[-1].batch_size)
    return _EVALUATIONS[stage] * more * _FORWARD * an_image


def expected(
    recipe: Recipe, splits: Splits, run: Run, until: str = STAGES[-1], say: Callable[[str], None] = lambda text: None
) -> dict[str, float] | None:
    """Return the remaining seconds of each stage that is not complete; None if a measurement is not worthwhile.

    Args:
        recipe: what is to be trained.
        splits: its images.
        run: the run; complete stages take no time, an interrupted one its remaining time.
        until: the last stage.
        say: called with a text before the measurement, which takes some seconds.
    """
    if world_size() > 1 or recipe.hardware.compile:
        return None  # all processes would have to measure; compilation takes longer than the steps
    recipe = settled(recipe, len(splits.pool), len(splits.labeled))
    missing = _missing(recipe, splits, run, until)
    if recipe.anomaly.method != "stfpm":  # the others train nothing: measuring them is building them
        missing = [stage for stage in missing if stage != "anomaly"]
    try:
        if not missing or _at_least(recipe, splits, missing) < _WORTH_IT:
            return None
        say("measuring some steps of every stage")
        times, _ = measure(recipe, splits, missing[-1], run=run, seconds=_AT_START)
    except EdgekitError:
        return None  # the training itself will report the error
    return {stage: times[stage].left(_steps_done(run, stage)) for stage in missing}


def _missing(recipe: Recipe, splits: Splits, run: Run, until: str) -> list[str]:
    missing: list[str] = []
    for stage in wanted_stages(recipe, splits, until):
        if stage == "data":
            continue
        try:
            record = run.record(stage)
            current = record is not None and made_from(record, stage_inputs(stage, recipe, splits, run))
        except RunError:  # the stage before it is missing
            current = False
        if not current or (stage in {"finetune", "distill"} and _source(stage) in missing):
            missing.append(stage)
    return missing


def _source(stage: str) -> str:
    return {"finetune": "pretrain", "distill": "finetune"}[stage]


def _at_least(recipe: Recipe, splits: Splits, stages: list[str]) -> float:
    """Return a lower bound of the steps of the stages."""
    sizes = {"pretrain": len(splits.pool), "distill": len(splits.pool), "anomaly": len(splits.pool)}
    steps = 0.0
    for stage in stages:
        config = getattr(recipe, stage)
        steps += config.epochs * max(1, sizes.get(stage, len(splits.labeled)) // config.batch_size)
    return steps


def _steps_done(run: Run, stage: str) -> int:
    checkpoint = run.stage_path(stage) / CHECKPOINT
    if not checkpoint.exists():
        return 0
    from edgekit.train.loop.checkpoint import read_checkpoint

    return int(read_checkpoint(checkpoint, "cpu")["global_step"])
