"""Bench from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgekit.bench.bundle_bench import BenchJob, processor_list
from edgekit.bench.profile_all import Profiles
from edgekit.bench.rounds import BenchOutcome
from edgekit.bench.workload import QUERY, Workload
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.result import Result, Scenario


def bench(
    bundle: Bundle | Path | str,
    *,
    variant: str | Sequence[str] = (),
    batch: int | Sequence[int] = (),
    threads: int = 0,
    scenario: Scenario = "single-stream",
    streams: int | None = None,
    query: int = QUERY,
    rate: float | None = None,
    find_rate: float | None = None,
    seed: int = 0,
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "gpu", "npu"] | None = None,
    cpus: str | Sequence[int] | None = None,
    loadgen: bool = False,
    profile: bool = False,
    seconds: float | None = None,
    quick: bool = False,
    output: Path | str | None = None,
) -> list[Result]:
    """Measure the latency of a bundle on this machine, as `edgekit bench` does with the options of these names.

    Every variant is measured in fresh processes, so nothing of this program disturbs it but what it computes meanwhile.

    Args:
        bundle: opened, or the path of a folder or a .zip.
        variant: ids of variants; none: all that were not rejected and run here.
        batch: images a run, one number or several; none: the scenario's own.
        threads: of the inference; 0 leaves it to the runtime.
        scenario: MLPerf's: single-stream, multi-stream, offline or server.
        streams: runs in flight at the same time; None: 1, of offline and server the runtime's own.
        query: multi-stream: images a query.
        rate: server: queries a second.
        find_rate: server: find the highest rate that keeps p99 under so many milliseconds.
        seed: server: of the arrivals.
        provider: what the runtime computes with; None: its CPU.
        cpus: the processors that may be used, `"0,1"`, `"0-3"` or a list of numbers; None: all.
        loadgen: run under MLCommons LoadGen.
        profile: measure where the time goes instead, layer by layer.
        seconds: least time of measuring a variant; None: 10, with `quick` 1.
        quick: a first look: one short round, too short for most percentiles.
        output: the folder for the result files; None: RUN/bench, else ./bench-NAME.

    Returns:
        One result for each variant and batch size; `measurement` is an `edgekit.result.Latency`, or a `Profile`.

    Raises:
        BundleError: the bundle is missing or damaged, or has nothing that could be measured.
        GateFailed: a part of the variants failed; the results of the others are written.
        EdgekitError: options do not go together, or every variant failed.
        KeyboardInterrupt: after Ctrl-C; what was measured is written, and marked as interrupted.
    """
    workload = workload_of(
        scenario, streams, query, rate, find_rate, seed, provider, _processors(cpus), loadgen, profile=profile
    )
    job = BenchJob.of(
        bundle,
        workload,
        names=(variant,) if isinstance(variant, str) else tuple(variant),
        batches=(batch,) if isinstance(batch, int) else tuple(batch),
        threads=threads,
        seconds=seconds,
        quick=quick,
        output=Path(output) if output is not None else None,
    )
    found: BenchOutcome | Profiles = job.profile() if profile else job.measure()
    if found.interrupted:
        raise KeyboardInterrupt(f"interrupted: partial results are in {job.output}")
    reasons = "; ".join(f"{name}: {error}" for name, error in found.failed)
    job.require_measured(found, "profiles" if profile else "measurements", f": {reasons}")
    if isinstance(found, Profiles):
        return [Result.read(path) for _, path in found.results]
    return [result for result, _, _ in found.results]


def workload_of(
    scenario: Scenario, streams: int | None, query: int, rate: float | None, find_rate: float | None, seed: int, provider: str | None,
    cpus: tuple[int, ...], loadgen: bool, *, profile: bool,
) -> Workload:  # fmt: skip
    """The scenario and what it runs on, from the options of the command.

    Raises:
        EdgekitError: they do not go together.
    """
    if profile and (scenario != "single-stream" or loadgen):
        raise EdgekitError("--profile cannot be combined with --scenario or --loadgen", "leave them out")
    if streams is None:
        streams = 0 if scenario in ("offline", "server") else 1
    return Workload(scenario, streams, query, rate, find_rate, seed, provider, cpus, loadgen)


def _processors(cpus: str | Sequence[int] | None) -> tuple[int, ...]:
    return processor_list(cpus) if cpus is None or isinstance(cpus, str) else tuple(sorted(set(cpus)))
