"""Trainings that end after a few steps and note how long each took: what predicts the time of the whole.

Inside `timing_trainings`, `edgekit.train.engine.fit` trains so few steps of whatever it is asked to train, real ones, and notes
their times beside the number of steps that the whole training would have. So whatever a stage does is measured, not modelled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise

_LIMIT = 6  # steps: the first warms up, the last ends an epoch, of the others the median counts


@dataclass
class TimedTraining:
    """One training of a stage: how long it would be, and when its first steps ended.

    Args:
        stage: its name.
        steps: of the whole training.
        epochs: of the whole training.
        batch_size: images a step.
        limit: steps that are measured.
        ends: seconds at which each measured step ended (`time.perf_counter`).
        processor: the like of the processor time of all threads of this process.
    """

    stage: str
    steps: int
    epochs: int
    batch_size: int
    limit: int
    ends: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())

    @property
    def step_seconds(self) -> float:
        """Seconds of a step that ends no epoch: the median without the first, 0.0 where too few were measured."""
        times = _differences(self.ends)
        return statistics.median(times[:-1] or times or [0.0])

    @property
    def processor_seconds(self) -> float:
        """Processor time of the cheapest step, which other programs disturbed least; 0.0 where too few were measured."""
        return min(_differences(self.processor) or [0.0])

    @property
    def epoch_seconds(self) -> float:
        """Seconds that the end of an epoch takes beyond its step: logs, the collapse monitor."""
        times = _differences(self.ends)
        return max(0.0, times[-1] - self.step_seconds) if len(times) > 1 else 0.0

    def seconds(self, steps: int | None = None, epochs: int | None = None) -> float:
        """Of the whole training, or of so many steps and epochs of it."""
        steps = self.steps if steps is None else steps
        epochs = self.epochs if epochs is None else epochs
        return steps * self.step_seconds + epochs * self.epoch_seconds


def _differences(values: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(values)]


@dataclass
class _Timing:
    limit: int
    trainings: list[TimedTraining] = field(default_factory=list)


_active: ContextVar[_Timing | None] = ContextVar("timing", default=None)


@contextmanager
def timing_trainings(limit: int = _LIMIT) -> Iterator[list[TimedTraining]]:
    """Let every training end after `limit` steps; gives the list to which each is added."""
    timing = _Timing(limit)
    token = _active.set(timing)
    try:
        yield timing.trainings
    finally:
        _active.reset(token)


def timed_training(stage: str, steps: int, epochs: int, batch_size: int) -> TimedTraining | None:
    """Where a training that begins now is to note its times; None outside `timing_trainings`."""
    timing = _active.get()
    if timing is None:
        return None
    timing.trainings.append(TimedTraining(stage, steps, epochs, batch_size, timing.limit))
    return timing.trainings[-1]
