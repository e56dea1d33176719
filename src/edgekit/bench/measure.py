"""Time one call: with a warm-up, long enough, and with every sample kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

# The minimum for a measurement that prints percentiles (see docs/bench.md).
FLOOR_SECONDS = 10.0
FLOOR_RUNS = 662
WARMUP_SECONDS = 0.2
WARMUP_RUNS = 10
WARMUP_LIMIT_SECONDS = 5.0
_SETTLED = 0.02


@dataclass(frozen=True)
class Timed:
    """The times that a scenario measured.

    Attributes:
        samples_ns: the latency of every query, in order.
        warmup_runs: queries before the first sample.
        settled: whether the times became stable in the warm-up.
        interrupted: whether it ended before it was complete.
        began_ns, ended_ns: clock times before the first query and after the last.
    """

    samples_ns: list[int]
    warmup_runs: int
    settled: bool
    interrupted: bool
    began_ns: int
    ended_ns: int


def measure(
    call: Callable[[], object],
    seconds: float,
    runs: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timed:
    """Time `call` for at least `seconds` and at least `runs` times after a warm-up. No sample is dropped.

    Args:
        call: must return when its work is finished.
        seconds: minimum measuring time, without the warm-up.
        runs: minimum number of samples.
        stop: called between two runs; the measurement ends early if it returns True.
        clock: monotonic time in nanoseconds.
    """
    warmup_runs, settled = warm_up(call, stop=stop, clock=clock)
    samples: list[int] = []
    start = ended = clock()
    end = start + int(seconds * 1e9)
    while True:
        if stop():
            return Timed(samples, warmup_runs, settled, True, start, ended)
        began = clock()
        call()
        ended = clock()
        samples.append(ended - began)
        if ended >= end and len(samples) >= runs:
            return Timed(samples, warmup_runs, settled, False, start, ended)


def warm_up(
    call: Callable[[], object],
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[int, bool]:
    """Run `call` for at least 200 ms and 10 runs, until the medians of two consecutive windows differ by less than 2 %.

    Returns:
        The number of runs, and whether the times became stable within 5 s.
    """
    began = clock()
    total = 0
    previous: float | None = None
    while not stop():
        window: list[int] = []
        window_began = clock()
        while len(window) < WARMUP_RUNS or clock() - window_began < WARMUP_SECONDS / 4 * 1e9:
            before = clock()
            call()
            window.append(clock() - before)
            if stop():
                break
        total += len(window)
        now = median(window)
        elapsed = (clock() - began) / 1e9
        if elapsed >= WARMUP_SECONDS and previous is not None and abs(now - previous) <= _SETTLED * previous:
            return total, True
        if elapsed >= WARMUP_LIMIT_SECONDS:
            return total, False
        previous = now
    return total, False
