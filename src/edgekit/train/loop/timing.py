"""Short trainings that record the time of each step, to predict the time of whole trainings.

Inside `timing_trainings`, `edgekit.train.loop.engine.fit` runs only a few real steps of each training, and records their times and the
number of steps of the whole training. So the time of a stage is measured, not modeled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

_WINDOW = 6  # steps, of which the last ends an epoch; the very first warms up
_MOST = 10  # windows
MEASURED = 3.0  # seconds, after which no window begins: quick steps are measured for longer, since each varies more


@dataclass
class TimedTraining:
    """One training of a stage: how long it would be, and when its first steps ended.

    Args:
        stage: its name.
        steps: of the whole training.
        epochs: of the whole training.
        batch_size: images a step.
        window: steps that count as an epoch while it is measured.
        enough: seconds after which the measurement ends with the window.
        ends: seconds at which each measured step ended (`time.perf_counter`).
        processor: the same in processor time of all threads of this process.
        prepares: whether its steps precede the training (a teacher's features that are kept), so that no checkpoint counts them.
    """

    stage: str
    steps: int
    epochs: int
    batch_size: int
    window: int
    enough: float = 0.0
    ends: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    prepares: bool = False

    @property
    def most(self) -> int:
        """The largest number of steps to measure."""
        return min(self.steps, self.window * (_MOST if self.enough else 1))

    def tick(self) -> bool:
        """Record the end of a step; return whether enough steps are measured."""
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())
        return len(self.ends) % self.window == 0 and self.ends[-1] - self.ends[0] >= self.enough

    @property
    def step_seconds(self) -> float:
        """Seconds of a step that ends no epoch: the median of the first window, the mean of all later ones where there are any (a busy
        machine's slow steps belong to it); 0.0 where too few were measured."""
        plain, _ = self._times()
        first, later = plain[: self.window - 2], plain[self.window - 2 :]
        return statistics.fmean(later) if later else statistics.median(first or [0.0])

    @property
    def processor_seconds(self) -> float:
        """Processor time of the cheapest step, which other programs disturbed least; 0.0 where too few were measured."""
        return min(_differences(self.processor) or [0.0])

    @property
    def epoch_seconds(self) -> float:
        """Seconds that the end of an epoch takes beyond its step: logs, the collapse monitor."""
        plain, last = self._times()
        return max(0.0, statistics.median(last) - self.step_seconds) if plain and last else 0.0

    def seconds(self, steps: int | None = None, epochs: int | None = None) -> float:
        """Return the seconds of the whole training, or of a number of steps and epochs."""
        steps = self.steps if steps is None else steps
        epochs = self.epochs if epochs is None else epochs
        return steps * self.step_seconds + epochs * self.epoch_seconds

    def _times(self) -> tuple[list[float], list[float]]:
        """Of the steps after the first: those within an epoch, and those that end one (all count as the former where no other are)."""
        plain, last = list[float](), list[float]()
        for step, seconds in enumerate(_differences(self.ends), start=2):
            (last if step % self.window == 0 else plain).append(seconds)
        return (plain, last) if plain else (last, [])


def _differences(values: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(values)]


@dataclass
class _Timing:
    window: int
    enough: float
    run: Path | None
    trainings: list[TimedTraining] = field(default_factory=list)


_active: ContextVar[_Timing | None] = ContextVar("timing", default=None)


@contextmanager
def timing_trainings(
    steps: int | None = None, run: Path | None = None, seconds: float = MEASURED
) -> Iterator[list[TimedTraining]]:
    """End every training in this block after a few steps, or after `steps`; yield the list of the measured trainings.

    Args:
        steps: of each training; default: as many as take a few seconds.
        run: the folder of the run that will train, whose kept files need not be made again; they are only read.
        seconds: of each training, after which no further steps begin, where `steps` is not given.
    """
    timing = _Timing(_WINDOW, seconds, run) if steps is None else _Timing(steps, 0.0, run)
    token = _active.set(timing)
    try:
        yield timing.trainings
    finally:
        _active.reset(token)


def is_timing() -> bool:
    """Return whether trainings end after a few steps: inside `timing_trainings`."""
    return _active.get() is not None


def timed_run() -> Path | None:
    """Return the folder of the run whose training is predicted; None if there is none yet, or outside `timing_trainings`."""
    timing = _active.get()
    return None if timing is None else timing.run


def timed_training(
    stage: str, steps: int, epochs: int, batch_size: int, *, prepares: bool = False
) -> TimedTraining | None:
    """Return the record for the times of a training that starts now, or of what precedes one; None outside `timing_trainings`."""
    timing = _active.get()
    if timing is None:
        return None
    timing.trainings.append(
        TimedTraining(stage, steps, epochs, batch_size, timing.window, timing.enough, prepares=prepares)
    )
    return timing.trainings[-1]
