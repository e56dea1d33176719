"""Merge the rounds of a measurement: the figures, and warnings about them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from edgekit.bench import statistics
from edgekit.bench.golden import worst
from edgekit.bench.measure import FLOOR_RUNS, FLOOR_SECONDS
from edgekit.bench.outcome import RoundOutcome
from edgekit.bench.request import Request
from edgekit.bench.watch import joules, timeline
from edgekit.bundle import Bundle, Variant
from edgekit.machine import emulated
from edgekit.result import Latency, RateProbe
from edgekit.shares import percent

_OTHERS_LIMIT = 0.1
_SENSORS_LIMIT = 0.01


def latency_of(
    bundle: Bundle,
    variant: Variant,
    request: Request,
    outcomes: Sequence[RoundOutcome],
    *,
    bundle_path: str,
    complete: bool,
    other_bench: bool,
    bound_ms: float | None = None,
    probes: Sequence[RateProbe] = (),
    idle_watts: float | None = None,
) -> Latency:
    """Merge the outcomes of a measurement's rounds.

    Args:
        bundle: an opened bundle.
        variant: which of its variants was measured.
        request: the request of a round.
        outcomes: of the rounds that have samples, in order.
        bundle_path: the bundle's path as the user wrote it.
        complete: whether all planned rounds took place.
        other_bench: whether another bench ran at the same time.
        bound_ms: server: the upper bound of p99.
        probes: server: the rates that were tried.
        idle_watts: the machine's power at rest.
    """
    samples = [sample for o in outcomes for sample in o.samples_ns]
    milliseconds = np.asarray(samples) / 1e6
    elapsed = sum(o.elapsed_ns for o in outcomes) / 1e9
    query = request.query or request.batch
    above_idle = None if idle_watts is None else joules(outcomes, idle_watts)
    open_ended = request.scenario in ("offline", "server")
    throughput = len(samples) * query / elapsed if open_ended else query / float(milliseconds.mean()) * 1e3
    runs = 0 if request.scenario == "offline" else FLOOR_RUNS  # an offline run's figure is its throughput
    proof = worst([o.golden for o in outcomes])
    latency = Latency(
        bundle=bundle_path,
        bundle_digest=bundle.digest,
        variant=variant.id,
        runtime=variant.runtime,
        runtime_version=outcomes[0].runtime_version,
        precision=variant.precision,
        settings=outcomes[0].settings,
        scenario=request.scenario,
        batch=request.batch,
        threads=request.threads,
        provider=request.provider,
        streams=outcomes[0].streams,
        query=query if query != request.batch else None,
        rate=request.rate or None,
        bound_ms=bound_ms,
        probes=list(probes),
        affinity=outcomes[0].affinity,
        quick=elapsed < FLOOR_SECONDS * 0.95 or len(samples) < runs,
        interrupted=not complete or outcomes[-1].interrupted,
        warmup_runs=sum(o.warmup_runs for o in outcomes),
        samples_ns=samples,
        rounds=[len(o.samples_ns) for o in outcomes],
        percentiles_ms=statistics.percentiles(milliseconds),
        mean_ms=float(milliseconds.mean()),
        cv=statistics.coefficient_of_variation(milliseconds),
        drift=statistics.drift(milliseconds),
        throughput=throughput,
        stages_ms=_stages(outcomes, float(np.median(milliseconds)) if request.scenario == "single-stream" else None),
        peak_rss_bytes=max((o.peak_rss_bytes for o in outcomes if o.peak_rss_bytes), default=None),
        device_memory_bytes=max((o.device_memory_bytes for o in outcomes if o.device_memory_bytes), default=None),
        energy_joules=joules(outcomes),
        energy_joules_per_inference=None if above_idle is None else above_idle / (len(samples) * query),
        idle_watts=idle_watts,
        timeline=timeline(outcomes),
        loadgen=outcomes[0].loadgen,
        golden_max_abs_diff=proof.max_abs_diff,
        golden_agreement=proof.agreement,
        golden_figures=proof.figures,
        accuracy=variant.accuracy.value if variant.accuracy else None,
        accuracy_metric=variant.accuracy.metric if variant.accuracy else None,
        accuracy_samples=variant.accuracy.samples if variant.accuracy and bundle.task.counted else None,
        conditions=_conditions(outcomes),
        warnings=[],
    )
    latency.warnings = [proof.warning] if proof.warning else []
    latency.warnings += _warnings(latency, outcomes, elapsed, other_bench)
    return latency


def _stages(outcomes: Sequence[RoundOutcome], run: float | None) -> dict[str, float | None]:
    """Return the stages' times in their order; each is the median over the rounds."""
    names = (
        "import", "load", "first_run", "preprocess", "host_to_device", "compute", "device_to_host", "run", "postprocess",
        "end_to_end",
    )  # fmt: skip
    stages: dict[str, float | None] = {}
    for name in names:
        values = [o.stages_ms[name] for o in outcomes if name in o.stages_ms]
        stages[name] = median(values) if values else None
    stages["run"] = run
    return stages


def _conditions(outcomes: Sequence[RoundOutcome]) -> dict[str, Any]:
    """Merge the conditions: values before the first round and after the last; of disturbances, the worst of all rounds."""
    every = [o.conditions for o in outcomes]
    merged = dict(every[-1])
    for name in ("clock_mhz", "gpu_clock_mhz", "temperature_c", "load"):
        merged[name] = {"before": every[0][name]["before"], "after": every[-1][name]["after"]}
    for name in ("throttled", "other_cores_busy"):
        known = [c[name] for c in every if c[name] is not None]
        merged[name] = max(known) if known else None
    merged["throttled_by"] = list(dict.fromkeys(name for c in every for name in c["throttled_by"] or []))
    return merged


def _warnings(latency: Latency, outcomes: Sequence[RoundOutcome], elapsed: float, other_bench: bool) -> list[str]:
    """Return one sentence for each reason not to trust this measurement."""
    others = latency.conditions["other_cores_busy"]
    by = ", ".join(latency.conditions["throttled_by"] or []) or "heat or power"
    server = latency.scenario == "server"
    p99 = latency.percentiles_ms["p99"]
    sensors = (latency.timeline.cost_seconds or 0) / elapsed if latency.timeline else 0.0
    least = (
        f"{FLOOR_SECONDS:.0f} s" if latency.scenario == "offline" else f"{FLOOR_SECONDS:.0f} s or {FLOOR_RUNS} samples"
    )
    checks = [
        (latency.interrupted, "interrupted before it was complete"),
        (
            latency.quick and not latency.interrupted,
            f"short: less than {least}, a first look and not a measurement",
        ),
        (
            not server and latency.streams == 1 and latency.cv > statistics.CV_LIMIT,
            f"varies by {percent(latency.cv)} (coefficient of variation; more than {percent(statistics.CV_LIMIT)} means a disturbance)",
        ),
        (
            not server and abs(latency.drift) > statistics.DRIFT_LIMIT,
            f"drifts: the last tenth of the samples is {percent(abs(latency.drift))} {'slower' if latency.drift > 0 else 'faster'} than the first",
        ),
        (
            server and _queue_grows(outcomes),
            f"the queue grows: {latency.rate or 0:.4g} queries per second are more than it can serve, and the latencies only "
            "show how long it was measured",
        ),
        (
            latency.bound_ms is not None and p99 is not None and p99 > latency.bound_ms,
            f"p99 is above the bound of {latency.bound_ms or 0:g} ms, at a rate that kept it in the search",
        ),
        (not all(o.settled for o in outcomes), "the times did not become stable in 5 s of warm-up"),
        (others is not None and others > _OTHERS_LIMIT, f"other processes kept {others or 0:.1f} cores busy meanwhile"),
        (sensors > _SENSORS_LIMIT, f"reading the sensors kept {percent(sensors)} of a processor busy meanwhile"),
        (latency.conditions["throttled"] is True, f"the processor was throttled ({by})"),
        (emulated(), "the processor is emulated: times that are measured here do not hold for a device"),
        (other_bench, "another `edgekit bench` ran on this machine at the same time"),
    ]
    return [sentence for applies, sentence in checks if applies]


def _queue_grows(outcomes: Sequence[RoundOutcome]) -> bool:
    """Whether the latency kept growing in every round: the last tenth is more than three times the first tenth, and the last
    latency more than a twentieth of the whole time."""
    return all(statistics.drift(o.samples_ns) > 2 and o.samples_ns[-1] > o.elapsed_ns / 20 for o in outcomes)
