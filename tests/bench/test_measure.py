"""Measuring with a clock that the test turns: how long, how often, and that nothing is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest

from edgekit.bench.measure import WARMUP_RUNS, measure, warm_up
from edgekit.bench.statistics import SAMPLES_NEEDED, drift

MS = 1_000_000


class Machine:
    """A clock, and a call that takes what is planned, in nanoseconds, and the last plan for ever."""

    def __init__(self, *durations: int) -> None:
        self.now = 0
        self.calls = 0
        self.durations: Iterator[int] = chain(durations, repeat(durations[-1]))

    def clock(self) -> int:
        return self.now

    def call(self) -> None:
        self.now += next(self.durations)
        self.calls += 1


def after(machine: Machine, calls: int) -> Callable[[], bool]:
    return lambda: machine.calls >= calls


def test_both_the_time_and_the_number_of_runs_are_reached() -> None:
    fast, slow = Machine(MS), Machine(100 * MS)
    timed = measure(fast.call, 10, 662, clock=fast.clock)
    assert len(timed.samples_ns) == 10_000
    timed = measure(slow.call, 10, 662, clock=slow.clock)
    assert len(timed.samples_ns) == 662
    assert set(timed.samples_ns) == {100 * MS}
    assert not timed.interrupted


def test_warms_up_for_200_ms_and_10_runs() -> None:
    fast, slow = Machine(MS // 10), Machine(300 * MS)
    runs, settled = warm_up(fast.call, clock=fast.clock)
    assert settled
    assert fast.now >= 200 * MS
    assert runs == fast.calls
    runs, settled = warm_up(slow.call, clock=slow.clock)
    assert settled
    assert runs >= WARMUP_RUNS


def test_the_warm_up_goes_on_until_the_time_is_stable() -> None:
    # Clocks that rise: 400 runs from 3 ms down to 1 ms, steady afterwards.
    rising = [3 * MS - 5_000 * i for i in range(400)]
    machine = Machine(*rising, MS)
    timed = measure(machine.call, 1, 100, clock=machine.clock)
    assert timed.settled
    assert timed.warmup_runs > 200
    assert max(timed.samples_ns) / min(timed.samples_ns) < 1.6


def test_a_warm_up_that_never_settles_ends_and_says_so() -> None:
    machine = Machine(*(int(MS * 1.002**i) for i in range(2000)))  # ever slower
    runs, settled = warm_up(machine.call, clock=machine.clock)
    assert not settled
    assert 5e9 <= machine.now < 6e9
    assert runs == machine.calls


def test_planted_slow_runs_are_kept_in_their_order() -> None:
    planned = [MS] * 2000
    planned[1500], planned[1700], planned[1999] = 40 * MS, 90 * MS, 7 * MS
    machine = Machine(*planned)
    timed = measure(machine.call, 0.1, 1700, clock=machine.clock)
    measured = planned[timed.warmup_runs : timed.warmup_runs + len(timed.samples_ns)]
    assert timed.samples_ns == measured + [MS] * (len(timed.samples_ns) - len(measured))
    assert {40 * MS, 90 * MS} <= set(timed.samples_ns)


def test_a_planted_drift_shows() -> None:
    # 400 steady runs, more than the warm-up takes, and then ever slower.
    machine = Machine(*[MS] * 400, *(MS + 500 * i for i in range(3000)))
    timed = measure(machine.call, 0.1, 2000, clock=machine.clock)
    assert timed.settled
    assert drift(timed.samples_ns) > 0.3


@pytest.mark.parametrize("calls", [0, 5, 300, 5000])
def test_stopping_keeps_what_was_measured(calls: int) -> None:
    machine = Machine(MS)
    timed = measure(machine.call, 10, 662, stop=after(machine, calls), clock=machine.clock)
    assert timed.interrupted
    assert machine.calls == calls
    assert len(timed.samples_ns) + timed.warmup_runs == calls


def test_a_call_that_fails_is_not_swallowed() -> None:
    def fails() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure(fails, 1, SAMPLES_NEEDED["p50"])
