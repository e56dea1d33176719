"""Measuring several variants side by side: in turns, each turn in a fresh process, so that what the machine does meanwhile
(heating up, another process) meets all of them alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.bench import statistics
from edgekit.bench.lock import presence
from edgekit.bench.measure import FLOOR_RUNS, FLOOR_SECONDS
from edgekit.bench.output import file_name
from edgekit.bench.process import Interrupted, run_worker
from edgekit.bench.worker import Request
from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, EdgekitError
from edgekit.result import Latency, Result
from edgekit.runtimes import why_not

_OTHERS_LIMIT = 0.1


@dataclass(frozen=True)
class Plan:
    """How long and how often to measure each variant.

    Attributes:
        seconds: least time of measuring, over all rounds together.
        runs: least number of samples, over all rounds together.
        rounds: in how many turns.
    """

    seconds: float = FLOOR_SECONDS
    runs: int = FLOOR_RUNS
    rounds: int = 3

    @classmethod
    def quick(cls, seconds: float = 1.0) -> Plan:
        """A first look: too short for most percentiles, and the result says so."""
        return cls(seconds, statistics.SAMPLES_NEEDED["p50"], rounds=1)


@dataclass
class Outcome:
    """What a bench brought."""

    results: list[tuple[Result, Latency, Path]] = field(default_factory=list)
    failed: list[tuple[str, EdgekitError]] = field(default_factory=list)
    interrupted: bool = False


@dataclass
class _Job:
    """One variant at one batch size, and what its rounds brought so far."""

    variant: Variant
    batch: int
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    error: EdgekitError | None = None


def choose(bundle: Bundle, names: Sequence[str] = ()) -> tuple[list[Variant], list[tuple[Variant, str]]]:
    """The variants to measure on this machine, and those left out, each with the reason.

    Args:
        bundle: an opened bundle.
        names: ids of variants; none means all that were not rejected.

    Raises:
        BundleError: a name is unknown, or nothing is left to measure.
        RuntimeMissing: a variant that was named cannot run on this machine.
    """
    chosen: list[Variant] = []
    left_out: list[tuple[Variant, str]] = []
    for variant in [bundle.variant(name) for name in dict.fromkeys(names)] or bundle.manifest.variants:
        missing = why_not(variant.runtime)
        if missing is not None and names:
            raise missing
        if missing is not None:
            left_out.append((variant, str(missing)))
        elif variant.status == "rejected" and not names:
            left_out.append((variant, f"rejected at export{': ' + variant.note if variant.note else ''}"))
        else:
            chosen.append(variant)
    if not chosen:
        reasons = "; ".join(f"{variant.id}: {reason}" for variant, reason in left_out)
        raise BundleError(f"{bundle.path}: no variant to measure on this machine ({reasons or 'it has none'})")
    return chosen, left_out


def bench(
    bundle: Bundle,
    variants: Sequence[Variant],
    output: Path,
    *,
    given: str = "",
    batches: Sequence[int] = (1,),
    threads: int = 0,
    plan: Plan | None = None,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Outcome:
    """Measure variants in turns and write one result file for each variant and batch size into `output`.

    A variant that fails is reported in the outcome, the others go on. After Ctrl-C what was measured is written, marked as
    interrupted.

    Args:
        bundle: an opened bundle.
        variants: which of its variants.
        output: the folder for the result files.
        given: the bundle's path as the user gave it.
        batches: the batch sizes.
        threads: threads inside an operator; 0 leaves it to the runtime.
        plan: how long; the floor for percentiles if not given.
        advance: called after each turn with 1 and the variant's id.

    Raises:
        EdgekitError: `output` cannot be written.
    """
    plan = plan or Plan()
    jobs = [_Job(variant, batch) for batch in batches for variant in variants]
    crowded = interrupted = False
    with presence() as alone:
        for job in _turns(jobs, plan.rounds):
            request = Request(
                bundle=str(bundle.path.resolve()),
                variant=job.variant.id,
                runtime=job.variant.runtime,
                batch=job.batch,
                threads=threads,
                seconds=plan.seconds / plan.rounds,
                runs=math.ceil(plan.runs / plan.rounds),
            )
            crowded = crowded or not alone()
            try:
                job.outcomes.append(run_worker(request))
            except Interrupted as stop:
                if stop.outcome is not None and "error" not in stop.outcome:
                    job.outcomes.append(stop.outcome)
                interrupted = True
                break
            except EdgekitError as error:
                job.error = error
            crowded = crowded or not alone()
            advance(1, job.variant.id)
    outcome = Outcome(interrupted=interrupted)
    for job in jobs:
        if job.error is not None:
            outcome.failed.append((job.variant.id, job.error))
        elif any(o["samples_ns"] for o in job.outcomes):
            latency = _latency(bundle, job, given or str(bundle.path), threads, plan, interrupted, crowded)
            path = output / file_name(latency)
            result = Result.of(latency)
            result.write(path)
            outcome.results.append((result, latency, path))
    return outcome


def _turns(jobs: Sequence[_Job], rounds: int) -> Iterator[_Job]:
    """A, B, C, A, B, C, … without those that have failed."""
    for _ in range(rounds):
        yield from (job for job in jobs if job.error is None)


def _latency(
    bundle: Bundle, job: _Job, given: str, threads: int, plan: Plan, interrupted: bool, crowded: bool
) -> Latency:
    """One measurement from the outcomes of its rounds."""
    outcomes = [o for o in job.outcomes if o["samples_ns"]]
    samples = [sample for o in outcomes for sample in o["samples_ns"]]
    milliseconds = np.asarray(samples) / 1e6
    percentiles = statistics.percentiles(milliseconds)
    conditions = _conditions(outcomes)
    incomplete = interrupted and (len(outcomes) < plan.rounds or outcomes[-1]["interrupted"])
    quick = sum(samples) < FLOOR_SECONDS * 0.95e9 or len(samples) < FLOOR_RUNS
    latency = Latency(
        bundle=given,
        bundle_digest=bundle.digest,
        variant=job.variant.id,
        runtime=job.variant.runtime,
        runtime_version=outcomes[0]["runtime_version"],
        precision=job.variant.precision,
        settings=outcomes[0]["settings"],
        batch=job.batch,
        threads=threads,
        affinity=outcomes[0]["affinity"],
        quick=quick,
        interrupted=incomplete,
        warmup_runs=sum(o["warmup_runs"] for o in outcomes),
        samples_ns=samples,
        rounds=[len(o["samples_ns"]) for o in outcomes],
        percentiles_ms=percentiles,
        mean_ms=float(milliseconds.mean()),
        cv=statistics.coefficient_of_variation(milliseconds),
        drift=statistics.drift(milliseconds),
        throughput=job.batch / float(milliseconds.mean()) * 1e3,
        stages_ms=_stages(outcomes, float(np.median(milliseconds))),
        peak_rss_bytes=max((o["peak_rss_bytes"] for o in outcomes if o["peak_rss_bytes"]), default=None),
        golden_max_abs_diff=max(o["golden"]["max_abs_diff"] for o in outcomes),
        golden_top1_agreement=min(o["golden"]["top1_agreement"] for o in outcomes),
        conditions=conditions,
        warnings=[],
    )
    latency.warnings = [o["golden"]["warning"] for o in outcomes[:1] if o["golden"]["warning"]]
    latency.warnings += _warnings(latency, all(o["settled"] for o in outcomes), crowded)
    return latency


def _stages(outcomes: Sequence[dict[str, Any]], run: float) -> dict[str, float | None]:
    """The stages' times in the order that they happen in; the median over the rounds."""
    names = ("import", "load", "first_run", "preprocess", "run", "postprocess", "end_to_end")
    stages: dict[str, float | None] = {}
    for name in names:
        values = [o["stages_ms"][name] for o in outcomes if name in o["stages_ms"]]
        stages[name] = median(values) if values else None
    stages["run"] = run
    return stages


def _conditions(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Before the first round, after the last, and the worst of all rounds for what disturbs."""
    every = [o["conditions"] for o in outcomes]
    merged = dict(every[-1])
    for name in ("clock_mhz", "temperature_c", "load"):
        merged[name] = {"before": every[0][name]["before"], "after": every[-1][name]["after"]}
    for name in ("throttled", "other_cores_busy"):
        known = [c[name] for c in every if c[name] is not None]
        merged[name] = max(known) if known else None
    return merged


def _warnings(latency: Latency, settled: bool, crowded: bool) -> list[str]:
    """Why a figure of this measurement is not to be trusted, one sentence each."""
    others = latency.conditions["other_cores_busy"]
    checks = [
        (latency.interrupted, "interrupted before it was complete"),
        (
            latency.quick and not latency.interrupted,
            f"short: less than {FLOOR_SECONDS:.0f} s or {FLOOR_RUNS} samples is a first look, not a measurement",
        ),
        (
            latency.cv > statistics.CV_LIMIT,
            f"varies by {latency.cv:.1%} (coefficient of variation; above {statistics.CV_LIMIT:.1%} something disturbs it)",
        ),
        (
            abs(latency.drift) > statistics.DRIFT_LIMIT,
            f"drifts: the last tenth of the samples is {abs(latency.drift):.1%} {'slower' if latency.drift > 0 else 'faster'} than the first",
        ),
        (not settled, "the warm-up did not settle within 5 s"),
        (others is not None and others > _OTHERS_LIMIT, f"other processes kept {others or 0:.1f} cores busy meanwhile"),
        (latency.conditions["throttled"] is True, "the processor was throttled (heat or power)"),
        (crowded, "another `edgekit bench` ran on this machine at the same time"),
    ]
    return [sentence for applies, sentence in checks if applies]
