"""Timing one call: warmed up, long enough, every sample kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

# The floor for a run that prints percentiles (see docs/bench.md).
FLOOR_SECONDS = 10.0
FLOOR_RUNS = 662
WARMUP_SECONDS = 0.2
WARMUP_RUNS = 10
WARMUP_LIMIT_SECONDS = 5.0
_SETTLED = 0.02


@dataclass(frozen=True)
class Timed:
    """What a scenario saw.

    Attributes:
        samples_ns: the latency of every query, in order.
        warmup_runs: queries before the first sample.
        settled: whether the warm-up became stable.
        interrupted: ended before it was complete.
        began_ns, ended_ns: the clock before the first query and after the last.
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
    """Time `call` for at least `seconds` and at least `runs` times, after a warm-up. No sample is dropped.

    Args:
        call: returns when its work is finished.
        seconds: least time of measuring, without the warm-up.
        runs: least number of samples.
        stop: asked between two runs; measuring ends early where it says so.
        clock: nanoseconds, monotonic.
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
    """Run `call` for at least 200 ms and 10 runs, and until the medians of two windows in a row differ by less than 2 %.

    Returns:
        The number of runs, and whether it settled within 5 s.
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
