"""Measuring several variants side by side: in turns, each turn in a fresh process, so that what the machine does meanwhile
(heating up, another process) meets all of them alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.bench import sensors, statistics
from edgekit.bench.find_rate import find_rate
from edgekit.bench.lock import bench_lock
from edgekit.bench.measure import FLOOR_RUNS, FLOOR_SECONDS
from edgekit.bench.outcome import RoundOutcome
from edgekit.bench.output import file_name, loadgen_folder
from edgekit.bench.process import BenchInterrupted, run_worker
from edgekit.bench.request import Request
from edgekit.bench.summary import latency_of
from edgekit.bench.workload import Workload
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError
from edgekit.result import Latency, RateProbe, Result


@dataclass(frozen=True)
class BenchPlan:
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
    def quick(cls, seconds: float = 1.0) -> BenchPlan:
        """A first look: too short for most percentiles, and the result says so."""
        return cls(seconds, statistics.SAMPLES_NEEDED["p50"], rounds=1)


@dataclass
class BenchOutcome:
    """What a bench brought."""

    results: list[tuple[Result, Latency, Path]] = field(default_factory=list)
    failed: list[tuple[str, EdgekitError]] = field(default_factory=list)
    interrupted: bool = False


@dataclass
class _RoundJob:
    """One variant at one batch size, and what its rounds brought so far."""

    variant: Variant
    request: Request
    outcomes: list[RoundOutcome] = field(default_factory=list)
    probes: list[RateProbe] = field(default_factory=list)
    error: EdgekitError | None = None


def bench(
    bundle: Bundle,
    variants: Sequence[Variant],
    output: Path,
    *,
    given: str = "",
    batches: Sequence[int] = (1,),
    threads: int = 0,
    plan: BenchPlan | None = None,
    load: Workload | None = None,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> BenchOutcome:
    """Measure variants in turns and write one result file for each variant and batch size into `output`.

    A variant that fails is reported in the outcome, the others go on. After Ctrl-C what was measured is written, marked as
    interrupted.

    Args:
        bundle: an opened bundle.
        variants: which of its variants.
        output: the folder for the result files.
        given: the bundle's path as the user gave it.
        batches: the batch sizes.
        threads: of the inference; 0 leaves it to the runtime.
        plan: how long; the floor for percentiles if not given.
        load: the scenario and where it runs; a single stream on the CPU if not given.
        advance: called after each turn with 1 and the variant's id, and during a search for a rate with 0 and what it found.

    Raises:
        EdgekitError: `output` cannot be written, or the golden tensors can prove nothing.
    """
    bundle.golden_outputs()
    plan, load = plan or BenchPlan(), load or Workload()
    if load.loadgen:
        plan = replace(plan, rounds=1)  # LoadGen's own rules are about one run
    jobs = [
        _RoundJob(v, _request(bundle, v, batch, threads, plan, load, output)) for batch in batches for v in variants
    ]
    outcome = BenchOutcome()
    crowded, idle = False, None
    with bench_lock() as alone:
        try:
            idle = sensors.idle()
            if load.bound_ms is not None:
                for job in jobs:
                    _find_rate(job, load.bound_ms, plan, advance)
            for job in _turns(jobs, plan.rounds):
                crowded = crowded or not alone()
                _measure(job)
                crowded = crowded or not alone()
                advance(1, job.variant.id)
        except KeyboardInterrupt:
            outcome.interrupted = True
    for job in jobs:
        outcomes = [o for o in job.outcomes if o.samples_ns]
        if job.error is not None:
            outcome.failed.append((job.variant.id, job.error))
        elif outcomes:
            latency = latency_of(
                bundle,
                job.variant,
                job.request,
                outcomes,
                given=given or str(bundle.path),
                complete=len(outcomes) == plan.rounds,
                crowded=crowded,
                bound_ms=load.bound_ms,
                probes=job.probes,
                idle_watts=idle.watts if idle else None,
            )
            path = output / file_name(latency)
            result = Result.of(latency, seed=load.seed if load.scenario == "server" else None)
            result.write(path)
            outcome.results.append((result, latency, path))
    return outcome


def _request(
    bundle: Bundle, variant: Variant, batch: int, threads: int, plan: BenchPlan, load: Workload, output: Path
) -> Request:
    """What every round of a variant is asked."""
    return Request(
        bundle=str(bundle.path.resolve()),
        variant=variant.id,
        runtime=variant.runtime,
        batch=batch,
        threads=threads,
        seconds=plan.seconds / plan.rounds,
        runs=math.ceil(
            (min(plan.runs, statistics.SAMPLES_NEEDED["p90"]) if load.scenario == "offline" else plan.runs)
            / plan.rounds
        ),
        scenario=load.scenario,
        query=load.query if load.scenario == "multi-stream" else 0,
        streams=load.streams,
        rate=load.rate or 0.0,
        seed=load.seed,
        provider=load.provider,
        cpus=list(load.cpus),
        loadgen=str(loadgen_folder(output.resolve(), variant.id, batch, load.scenario)) if load.loadgen else None,
        bound_ms=load.bound_ms,
        digest=bundle.digest,
    )


def _measure(job: _RoundJob) -> None:
    """One round."""
    try:
        # Every round has arrivals of its own, and they are the same for all variants.
        job.outcomes.append(run_worker(replace(job.request, seed=job.request.seed + len(job.outcomes))))
    except BenchInterrupted as stop:
        if stop.outcome is not None:
            job.outcomes.append(stop.outcome)
        raise KeyboardInterrupt from None
    except EdgekitError as error:
        job.error = error


def _find_rate(job: _RoundJob, bound_ms: float, plan: BenchPlan, advance: Callable[[int, str], None]) -> None:
    """Find the rate that a job is then measured at."""
    quick = plan.rounds == 1  # rougher, and shorter
    try:
        rate, job.probes = find_rate(
            run_worker,
            job.request,
            bound_ms,
            seconds=plan.seconds / 4,
            resolution=0.2 if quick else 0.03,
            advance=lambda note: advance(0, note),
        )
        job.request = replace(job.request, rate=rate)
    except BenchInterrupted:
        raise KeyboardInterrupt from None
    except EdgekitError as error:
        job.error = error


def _turns(jobs: Sequence[_RoundJob], rounds: int) -> Iterator[_RoundJob]:
    """A, B, C, A, B, C, … without those that have failed."""
    for _ in range(rounds):
        yield from (job for job in jobs if job.error is None)
