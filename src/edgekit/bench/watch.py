"""The sensors during a worker's measurement.

The worker's parent process samples them while it waits: a thread in the worker would sometimes hold the interpreter's lock just
when a run returns. Both processes read the same monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit.bench.outcome import RoundOutcome, RoundTimeline, Watch
from edgekit.bench.sensors import Sampler
from edgekit.result import Timeline

_SERIES = ("clock_mhz", "gpu_clock_mhz", "temperature_c", "power_w", "throttled")


def watched(outcome: RoundOutcome, sampler: Sampler) -> RoundOutcome:
    """Return a worker's outcome with the sensors between its first and last query in `watch`, and with throttling in between
    added to its `conditions`.

    Args:
        outcome: a worker's.
        sampler: ran during the worker and has ended.
    """
    began, ended = outcome.began_ns, outcome.ended_ns
    line = sampler.timeline
    times = [line.began_ns + round(seconds * 1e9) for seconds in line.seconds]
    inside = [i for i, time in enumerate(times) if began <= time <= ended]
    series = {name: [getattr(line, name)[i] for i in inside] for name in _SERIES}
    energy = sampler.energy(since_ns=began, until_ns=ended)
    conditions = dict(outcome.conditions)
    if any(series["throttled"]):
        conditions["throttled"] = True
        conditions["throttled_by"] = list(dict.fromkeys([*(conditions["throttled_by"] or []), *line.throttled_by]))
    watch = Watch(
        timeline=RoundTimeline(
            seconds=[(times[i] - began) / 1e9 for i in inside],
            cost_seconds=sum(line.cost_seconds[i] for i in inside),
            **series,
        ),
        power_source=line.power_source,
        why_no_power=line.why_no_power,
        joules=None if energy is None else energy.joules,
        seconds=0.0 if energy is None else energy.seconds,
    )
    return replace(outcome, conditions=conditions, watch=watch)


def timeline(outcomes: Sequence[RoundOutcome]) -> Timeline | None:
    """Return the rounds' timelines, concatenated; None if there are no sensor samples."""
    watches = [(i, outcome.watch) for i, outcome in enumerate(outcomes) if outcome.watch is not None]
    rounds = [i for i, watch in watches for _ in watch.timeline.seconds]
    if not rounds:
        return None
    lines = [watch.timeline for _, watch in watches]
    return Timeline(
        round=rounds,
        seconds=[second for line in lines for second in line.seconds],
        power_source=watches[0][1].power_source,
        why_no_power=watches[0][1].why_no_power,
        cost_seconds=sum(line.cost_seconds for line in lines),
        **{name: [value for line in lines for value in getattr(line, name)] for name in _SERIES},
    )


def joules(outcomes: Sequence[RoundOutcome], idle_watts: float = 0.0) -> float | None:
    """Return the energy of the measured time, in joules, above `idle_watts`; None if a round's energy was not measured."""
    total = 0.0
    for outcome in outcomes:
        if outcome.watch is None or outcome.watch.joules is None:
            return None
        total += outcome.watch.joules - idle_watts * outcome.watch.seconds
    return total
