"""Measure several variants in turns, each turn in a new process, so that changes of the machine (heat, another process) affect
all variants alike."""

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
        seconds: minimum measuring time, over all rounds.
        runs: minimum number of samples, over all rounds.
        rounds: number of turns.
    """

    seconds: float = FLOOR_SECONDS
    runs: int = FLOOR_RUNS
    rounds: int = 3

    @classmethod
    def quick(cls, seconds: float = 1.0) -> BenchPlan:
        """Return a plan for a first look. A percentile that needs more samples than it gives is missing, which the result notes."""
        return cls(seconds, statistics.SAMPLES_NEEDED["p50"], rounds=1)


@dataclass
class BenchOutcome:
    """The results of a bench, the variants that failed, and whether it was interrupted."""

    results: list[tuple[Result, Latency, Path]] = field(default_factory=list)
    failed: list[tuple[str, EdgekitError]] = field(default_factory=list)
    interrupted: bool = False


@dataclass
class _RoundJob:
    """One variant at one batch size, and the outcomes of its rounds so far."""

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
    bundle_path: str = "",
    batches: Sequence[int] = (1,),
    threads: int = 0,
    plan: BenchPlan | None = None,
    workload: Workload | None = None,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> BenchOutcome:
    """Measure variants in turns, and write one result file for each variant and batch size into `output`.

    A variant that fails is listed in the outcome, and the others go on. After Ctrl-C, partial results are written and marked as
    interrupted.

    Args:
        bundle: an opened bundle.
        variants: which of its variants.
        output: the folder for the result files.
        bundle_path: the bundle's path as the user wrote it; empty: its current path.
        batches: the batch sizes.
        threads: of the inference; 0 leaves it to the runtime.
        plan: how long; None: the minimum for percentiles.
        workload: the scenario and what it runs on; None: a single stream on the CPU.
        advance: called after each turn with 1 and the variant's id, and after each probe of a rate search with 0 and a note.

    Raises:
        EdgekitError: `output` cannot be written, or the golden tensors are unusable.
    """
    bundle.golden_outputs()
    plan, workload = plan or BenchPlan(), workload or Workload()
    if workload.loadgen:
        plan = replace(plan, rounds=1)  # LoadGen's rules apply to one run
    jobs = [
        _RoundJob(v, _request(bundle, v, batch, threads, plan, workload, output)) for batch in batches for v in variants
    ]
    outcome = BenchOutcome()
    other_bench, idle = False, None
    with bench_lock() as is_alone:
        try:
            idle = sensors.idle()
            if workload.bound_ms is not None:
                for job in jobs:
                    _find_rate(job, workload.bound_ms, plan, advance)
            for job in _turns(jobs, plan.rounds):
                other_bench = other_bench or not is_alone()
                _measure(job)
                other_bench = other_bench or not is_alone()
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
                bundle_path=bundle_path or str(bundle.path),
                complete=len(outcomes) == plan.rounds,
                other_bench=other_bench,
                bound_ms=workload.bound_ms,
                probes=job.probes,
                idle_watts=idle.watts if idle else None,
            )
            path = output / file_name(latency)
            result = Result.of(latency, seed=workload.seed if workload.scenario == "server" else None)
            result.write(path)
            outcome.results.append((result, latency, path))
    return outcome


def _request(
    bundle: Bundle, variant: Variant, batch: int, threads: int, plan: BenchPlan, workload: Workload, output: Path
) -> Request:
    """Build the request for every round of a variant."""
    return Request(
        bundle=str(bundle.path.resolve()),
        variant=variant.id,
        runtime=variant.runtime,
        batch=batch,
        threads=threads,
        seconds=plan.seconds / plan.rounds,
        runs=math.ceil(
            (min(plan.runs, statistics.SAMPLES_NEEDED["p90"]) if workload.scenario == "offline" else plan.runs)
            / plan.rounds
        ),
        scenario=workload.scenario,
        query=workload.query if workload.scenario == "multi-stream" else 0,
        streams=workload.streams,
        rate=workload.rate or 0.0,
        seed=workload.seed,
        provider=workload.provider,
        cpus=list(workload.cpus),
        loadgen=str(loadgen_folder(output.resolve(), variant.id, batch, workload.scenario))
        if workload.loadgen
        else None,
        bound_ms=workload.bound_ms,
        digest=bundle.digest,
    )


def _measure(job: _RoundJob) -> None:
    """Measure one round."""
    try:
        # Every round has its own arrival times; they are the same for all variants.
        job.outcomes.append(run_worker(replace(job.request, seed=job.request.seed + len(job.outcomes))))
    except BenchInterrupted as stop:
        if stop.outcome is not None:
            job.outcomes.append(stop.outcome)
        raise KeyboardInterrupt from None
    except EdgekitError as error:
        job.error = error


def _find_rate(job: _RoundJob, bound_ms: float, plan: BenchPlan, advance: Callable[[int, str], None]) -> None:
    """Find the rate for measuring a job, and set it in the job's request."""
    quick = plan.rounds == 1  # coarser and shorter
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
    """Yield A, B, C, A, B, C, …, without jobs that have failed."""
    for _ in range(rounds):
        yield from (job for job in jobs if job.error is None)
