"""How long a training will take: a few real steps of each of its stages, and what they say about all."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace

from edgekit.data.images import ImageSet
from edgekit.data.splits import Splits
from edgekit.errors import EdgekitError, RunError
from edgekit.progress import relayed
from edgekit.recipe import Recipe, settled
from edgekit.run import Run
from edgekit.stages import STAGES
from edgekit.temporary import scratch_folder
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.engine import CHECKPOINT, read_checkpoint
from edgekit.train.loop.timing import TimedTraining, timing_trainings
from edgekit.train.records.inputs import made_from, stage_inputs
from edgekit.train.stages.pipeline import Report, train, wanted_stages

_SCORED = 64  # test and probe images that a measurement scores
# Evaluations of each stage by (images seen an image of a training step's, and how often test and probe sets are seen): the encoder
# is scored before and after. A forward pass is a third of a step's work, in float32 also where training has bf16.
_EVALUATIONS = {"pretrain": 2, "finetune": 1, "distill": 1, "supervised": 1}
_FORWARD = 0.5
_WORTH_IT = 60  # steps, in all, below which a training is over before its end is known


@dataclass(frozen=True)
class StageTime:
    """What a stage takes.

    Args:
        trainings: its trainings (one, or several where it tries some settings).
        other: seconds beside the steps: setting up, scoring, storing.
    """

    trainings: list[TimedTraining] = field(default_factory=list)
    other: float = 0.0

    @property
    def seconds(self) -> float:
        """All in all."""
        return self.other + sum(training.seconds() for training in self.trainings)


def measure(
    recipe: Recipe, splits: Splits, until: str = STAGES[-1], limit: int | None = None
) -> tuple[dict[str, StageTime], float]:
    """Train a few steps of every stage in a scratch folder, with the recipe's networks, batches and device.

    Args:
        recipe: what is to be trained.
        splits: its images; those of the test and probe sets may be stand-ins, the numbers of all count.
        until: the last stage.
        limit: steps of each training; default as many as take some seconds.

    Returns:
        What each stage of the real training takes, and the seconds that the measurement took.

    Raises:
        EdgekitError: a stage cannot be trained.
    """
    few = replace(splits, test=_few(splits.test), probe=_few(splits.probe))
    began, ends = time.perf_counter(), dict[str, float]()

    def note(report: Report) -> None:
        ends[report.stage] = time.perf_counter()

    with (
        scratch_folder("timing") as folder,
        timing_trainings(limit) as trainings,
        relayed(lambda text: None),
        redirect_stderr(io.StringIO()),  # what it has to say, the training says again
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
    return images.subset(range(_SCORED)) if len(images) > _SCORED else images


def _scoring(stage: str, trainings: list[TimedTraining], splits: Splits) -> float:
    """Seconds of scoring the images that the measurement did not."""
    if not trainings or stage not in _EVALUATIONS:
        return 0.0
    more = max(0, len(splits.test) - _SCORED)
    if stage == "pretrain":
        more += max(0, len(splits.probe or splits.labeled) - _SCORED)
    an_image = trainings[-1].step_seconds / max(1, trainings[-1].batch_size)
    return _EVALUATIONS[stage] * more * _FORWARD * an_image


def expected(recipe: Recipe, splits: Splits, run: Run, until: str = STAGES[-1]) -> dict[str, float] | None:
    """Seconds that each stage which is not complete will still take; None where it is not worth the measurement.

    Args:
        recipe: what is to be trained.
        splits: its images.
        run: where; complete stages cost nothing, one that was interrupted what is left of it.
        until: the last stage.
    """
    if world_size() > 1 or recipe.hardware.compile:
        return None  # every process would have to measure; compiling takes longer than the steps
    recipe = settled(recipe, len(splits.pool), len(splits.labeled))
    missing = _missing(recipe, splits, run, until)
    try:
        if not missing or _at_least(recipe, splits, missing) < _WORTH_IT:
            return None
        times, _ = measure(recipe, splits, missing[-1])
    except EdgekitError:
        return None  # the training itself will say what is wrong
    seconds = {}
    for stage in missing:
        done = _steps_done(run, stage)
        whole = times[stage]
        steps = sum(training.steps for training in whole.trainings) or 1
        seconds[stage] = whole.other + (whole.seconds - whole.other) * max(0.0, 1 - done / steps)
    return seconds


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
    """Steps of the stages, or fewer."""
    sizes = {"pretrain": len(splits.pool), "distill": len(splits.pool)}
    found = 0.0
    for stage in stages:
        config = getattr(recipe, stage)
        found += config.epochs * max(1, sizes.get(stage, len(splits.labeled)) // config.batch_size)
    return found


def _steps_done(run: Run, stage: str) -> int:
    checkpoint = run.stage_path(stage) / CHECKPOINT
    return int(read_checkpoint(checkpoint, "cpu")["global_step"]) if checkpoint.exists() else 0
