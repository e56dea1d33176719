"""What the sensors said while a worker measured: cut to its window, its energy above rest, its throttling."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.bench.golden import Proof
from edgekit.bench.outcome import RoundOutcome
from edgekit.bench.sensors import Sampler, SensorTimeline
from edgekit.bench.watch import joules, timeline, watched

S = 1_000_000_000


def sampled(watts: float, *, throttled_at: int | None = None, source: str = "RAPL package-0") -> Sampler:
    """A sampler that ran for ten seconds, once a second, from second 100 of the clock."""
    sampler = Sampler()
    seconds = [float(i) for i in range(11)]
    sampler.timeline = SensorTimeline(
        began_ns=100 * S,
        seconds=seconds,
        clock_mhz=[1000.0 + i for i in range(11)],
        gpu_clock_mhz=[None] * 11,
        temperature_c=[40.0 + i for i in range(11)],
        power_w=[watts if source else None] * 11,
        joules=[watts * s if source else None for s in seconds],
        throttled=[i == throttled_at for i in range(11)],
        cost_seconds=[0.002] * 11,
        throttled_by=[] if throttled_at is None else ["over-current"],
        power_source=source,
        why_no_power="" if source else "no RAPL counter",
    )
    return sampler


def outcome() -> RoundOutcome:
    """A worker that measured from second 103 to second 107."""
    return RoundOutcome(
        runtime_version="1", settings={}, affinity=[0], golden=Proof(0.0, 1.0, ""), samples_ns=[4 * S], warmup_runs=1, settled=True,
        interrupted=False, began_ns=103 * S, ended_ns=107 * S, streams=1, stages_ms={}, peak_rss_bytes=None, device_memory_bytes=None,
        conditions={"throttled": False, "throttled_by": None},
    )  # fmt: skip


def test_loading_and_warming_up_are_not_in_the_timeline_nor_in_the_energy() -> None:
    got = watched(outcome(), sampled(9.0))
    line = timeline([got, watched(outcome(), sampled(9.0))])
    assert line is not None
    assert line.round == [0] * 5 + [1] * 5
    assert line.seconds == [0, 1, 2, 3, 4] * 2
    assert line.cost_seconds == pytest.approx(10 * 0.002)
    assert line.clock_mhz[:5] == [1003, 1004, 1005, 1006, 1007]
    assert line.power_source == "RAPL package-0"
    assert got.watch is not None
    assert (got.watch.joules, got.watch.seconds) == pytest.approx((36, 4))
    assert joules([got, got]) == pytest.approx(72)
    assert joules([got, got], idle_watts=4.0) == pytest.approx(72 - 4 * 8)


def test_throttling_in_the_window_counts_and_before_it_does_not() -> None:
    during = watched(outcome(), sampled(9.0, throttled_at=5)).conditions
    assert during == {"throttled": True, "throttled_by": ["over-current"]}
    before = watched(outcome(), sampled(9.0, throttled_at=1)).conditions
    assert before["throttled"] is False


def test_a_machine_without_a_power_sensor_has_no_energy_and_says_why() -> None:
    got = watched(outcome(), sampled(0.0, source=""))
    assert got.watch is not None
    assert got.watch.joules is None
    assert joules([got]) is None
    line = timeline([got])
    assert line is not None
    assert (line.power_w, line.why_no_power) == ([None] * 5, "no RAPL counter")
    assert joules([watched(outcome(), sampled(9.0)), got]) is None, "a part of it would be too little"


def test_a_window_too_short_for_a_sample_has_no_timeline() -> None:
    short = replace(outcome(), began_ns=103 * S + 1, ended_ns=103 * S + 2)
    assert timeline([watched(short, sampled(9.0))]) is None
    assert timeline([outcome()]) is None, "nobody watched"
