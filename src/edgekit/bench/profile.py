"""Measure the time of each node with the runtime's own profiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.measure import measure
from edgekit.bench.outcome import ProfileOutcome
from edgekit.bench.process import run_profiler
from edgekit.bench.request import Request
from edgekit.bench.workload import Workload
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError, RuntimeMissing
from edgekit.result import LayerTime, Profile, Result
from edgekit.runtimes import Session
from edgekit.runtimes.session import Profiled, ProfiledNode

RUNS = 100
WARMUP = 20
_SECONDS = 0.5


def profile(
    session: Session, batch: NDArray[np.uint8], runs: int, stop: Callable[[], bool]
) -> tuple[list[int], list[ProfiledNode]]:
    """Return the time of each run without the profiler, in nanoseconds, and the time of each node with the profiler.

    Raises:
        RuntimeMissing: the runtime's session has no profiler.
    """
    if not isinstance(session, Profiled):
        raise RuntimeMissing(f"{session.runtime}: has no profiler for layers", "leave out this variant, or --profile")
    timed = measure(lambda: session.run(batch), _SECONDS, runs, stop=stop)
    layers = session.profile(batch, runs, WARMUP)
    return timed.samples_ns, list(layers)


def layer_times(layers: Sequence[ProfiledNode], runs: int) -> list[LayerTime]:
    """Return each node's time per run, and its share of all nodes' time."""
    total = sum(layer.nanoseconds for layer in layers) or 1
    return [
        LayerTime(
            name=layer.name,
            operator=layer.operator,
            calls=layer.calls,
            ms=layer.nanoseconds / runs / 1e6,
            share=layer.nanoseconds / total,
        )
        for layer in layers
    ]


def profile_of(
    bundle: Bundle, variant: Variant, request: Request, outcome: ProfileOutcome, bundle_path: str
) -> Profile:
    """Build the result's `Profile` from a worker's outcome."""
    layers = layer_times(outcome.layers, request.runs)
    if not layers:
        raise EdgekitError(f"{variant.id}: the runtime's profiler listed no layer", "please report it")
    return Profile(
        bundle=bundle_path,
        bundle_digest=bundle.digest,
        variant=variant.id,
        runtime=variant.runtime,
        runtime_version=outcome.runtime_version,
        precision=variant.precision,
        settings=outcome.settings,
        batch=request.batch,
        threads=request.threads,
        provider=request.provider,
        runs=request.runs,
        run_ms=median(outcome.samples_ns) / 1e6,
        layers_ms=sum(layer.ms for layer in layers),
        layers=layers,
    )


def profile_name(profile: Profile) -> Path:
    """Return the file name for a profile."""
    provider = f"-{profile.provider}" if profile.provider else ""
    threads = f"-t{profile.threads}" if profile.threads else ""
    return Path(f"{profile.variant}-b{profile.batch}{threads}{provider}-profile.json")


def profile_variant(
    bundle: Bundle,
    variant: Variant,
    batch: int,
    threads: int,
    workload: Workload,
    runs: int,
    output: Path,
    bundle_path: str,
) -> tuple[Profile, Path]:
    """Profile one variant in a new process and write its result file.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        batch: images per run.
        threads: of the inference; 0 leaves it to the runtime.
        workload: provider and processors.
        runs: number of profiled runs.
        output: the folder for the result file.
        bundle_path: the bundle's path as the user wrote it.

    Raises:
        EdgekitError: it cannot be profiled.
        BenchInterrupted: the user pressed Ctrl-C.
    """
    request = Request(
        bundle=str(bundle.path.resolve()),
        variant=variant.id,
        runtime=variant.runtime,
        batch=batch,
        threads=threads,
        seconds=0.0,
        runs=runs,
        scenario="profile",
        provider=workload.provider,
        cpus=list(workload.cpus),
        digest=bundle.digest,
    )
    profiled = profile_of(bundle, variant, request, run_profiler(request), bundle_path)
    path = output / profile_name(profiled)
    Result.of(profiled).write(path)
    return profiled, path
