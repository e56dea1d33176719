"""The sensors over the time that a worker measured.

They are sampled by the process that started the worker, which only waits: a thread of the worker's own would now and then hold
the interpreter's lock just when a run returns. Both read the same monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.bench.sensors import Sampler
from edgekit.result import Timeline

_SERIES = ("clock_mhz", "gpu_clock_mhz", "temperature_c", "power_w", "throttled")


def watched(outcome: dict[str, Any], sampler: Sampler) -> dict[str, Any]:
    """A worker's outcome with what the sensors said between its first query and its last: `timeline`, `energy`, and in its
    `conditions` the throttling that came and went in between.

    Args:
        outcome: of a worker, with `began_ns` and `ended_ns`.
        sampler: ran while the worker did, and has ended.
    """
    began, ended = outcome["began_ns"], outcome["ended_ns"]
    line = sampler.timeline
    times = [line.began_ns + round(seconds * 1e9) for seconds in line.seconds]
    inside = [i for i, time in enumerate(times) if began <= time <= ended]
    series = {name: [getattr(line, name)[i] for i in inside] for name in _SERIES}
    energy = sampler.energy(since_ns=began, until_ns=ended)
    conditions = dict(outcome["conditions"])
    if any(series["throttled"]):
        conditions["throttled"] = True
        conditions["throttled_by"] = list(dict.fromkeys([*(conditions["throttled_by"] or []), *line.throttled_by]))
    return {
        **outcome,
        "conditions": conditions,
        "timeline": {
            "seconds": [(times[i] - began) / 1e9 for i in inside],
            "cost_seconds": sum(line.cost_seconds[i] for i in inside),
            **series,
        },
        "power": {"source": line.power_source, "why_not": line.why_no_power},
        "energy": None if energy is None else {"joules": energy.joules, "seconds": energy.seconds},
    }


def timeline(outcomes: Sequence[dict[str, Any]]) -> Timeline | None:
    """The rounds' timelines one after the other; None where the sensors were not watched, or the rounds too short for a sample."""
    watched = [(i, outcome["timeline"]) for i, outcome in enumerate(outcomes) if outcome.get("timeline")]
    rounds = [i for i, line in watched for _ in line["seconds"]]
    if not rounds:
        return None
    power = outcomes[0]["power"]
    return Timeline(
        round=rounds,
        seconds=[second for _, line in watched for second in line["seconds"]],
        power_source=power["source"],
        why_no_power=power["why_not"],
        cost_seconds=sum(line["cost_seconds"] for _, line in watched),
        **{name: [value for _, line in watched for value in line[name]] for name in _SERIES},
    )


def joules(outcomes: Sequence[dict[str, Any]], idle_watts: float = 0.0) -> float | None:
    """Energy of the measured time above a power that is drawn anyway; None where a round's was not measured."""
    energies = [outcome.get("energy") for outcome in outcomes]
    if not all(energies):
        return None
    return float(sum(e["joules"] - idle_watts * e["seconds"] for e in energies if e))
