"""Profile several variants of a bundle, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bench.lock import bench_lock
from edgekit.bench.process import BenchInterrupted
from edgekit.bench.profile import RUNS, profile_variant
from edgekit.bench.workload import Workload
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError
from edgekit.progress import progress
from edgekit.result import Profile


@dataclass
class Profiles:
    """The results of profiling.

    Attributes:
        results: each profile and its result file.
        failed: variants that could not be profiled, and why.
        interrupted: whether Ctrl-C ended it; `results` has the profiles until then.
    """

    results: list[tuple[Profile, Path]] = field(default_factory=list)
    failed: list[tuple[str, EdgekitError]] = field(default_factory=list)
    interrupted: bool = False


def profile_all(
    bundle: Bundle, variants: Sequence[Variant], output: Path, *,
    bundle_path: str, batches: Sequence[int], threads: int, workload: Workload, quick: bool,
) -> Profiles:  # fmt: skip
    """Profile each variant at each batch size, and write a result file for each into `output`.

    Args:
        bundle: an opened bundle.
        variants: which of its variants.
        output: the folder for the result files.
        bundle_path: the bundle's path as the user wrote it.
        batches: the batch sizes.
        threads: of the inference; 0 leaves it to the runtime.
        workload: provider and processors.
        quick: a fifth of the runs.
    """
    profiles = Profiles()
    jobs = [(variant, batch) for batch in batches for variant in variants]
    runs = RUNS // 5 if quick else RUNS
    with bench_lock(), progress("profile", len(jobs), unit="variants") as advance:
        for variant, batch in jobs:
            try:
                profiles.results.append(
                    profile_variant(bundle, variant, batch, threads, workload, runs, output, bundle_path)
                )
            except (BenchInterrupted, KeyboardInterrupt):
                profiles.interrupted = True
                break
            except EdgekitError as error:
                profiles.failed.append((variant.id, error))
            advance(1, variant.id)
    return profiles
