"""The bench of a whole bundle: choose the variants, the plan and the output folder, then measure in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.choose import choose
from edgekit.bench.output import default_output
from edgekit.bench.profile_all import Profiles, profile_all
from edgekit.bench.rounds import BenchOutcome, BenchPlan, bench
from edgekit.bench.workload import Workload, batch_sizes, check_parallel
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError, GateFailed
from edgekit.files import check_writable_folder
from edgekit.progress import progress


@dataclass(frozen=True)
class BenchJob:
    """A bench that was checked and can run.

    Attributes:
        bundle: the opened bundle.
        bundle_path: its path as the user wrote it.
        variants: the variants to measure.
        left_out: the other variants, each with the reason.
        batches: the batch sizes.
        threads: of the inference; 0 leaves it to the runtime.
        workload: the scenario and what it runs on.
        plan: how long and how often to measure.
        quick: whether it is a first look.
        output: the folder for the result files.
    """

    bundle: Bundle
    bundle_path: str
    variants: list[Variant]
    left_out: list[tuple[Variant, str]]
    batches: tuple[int, ...]
    threads: int
    workload: Workload
    plan: BenchPlan
    quick: bool
    output: Path

    @classmethod
    def of(
        cls, bundle: Bundle | Path | str, workload: Workload, *, names: Sequence[str] = (), batches: Sequence[int] = (), threads: int = 0,
        seconds: float | None = None, quick: bool = False, output: Path | None = None,
    ) -> BenchJob:  # fmt: skip
        """Check everything that can be checked before the measurement, which takes minutes.

        Args:
            bundle: opened, or its path.
            workload: the scenario and what it runs on.
            names: ids of variants; empty means all that were not rejected.
            batches: the batch sizes; empty means the scenario's default.
            threads: of the inference; 0 leaves it to the runtime.
            seconds: minimum measuring time per variant; None: 10, with `quick` 1.
            quick: one short round.
            output: the folder for the result files; None: RUN/bench, otherwise ./bench-NAME.

        Raises:
            EdgekitError: the bundle is damaged, a variant is unknown or cannot run here, the options contradict each other, or
                `output` cannot be written.
        """
        check_parallel(threads, workload)
        if workload.loadgen:
            from edgekit.bench.loadgen import check_installed

            check_installed()
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        variants, left_out = choose(opened, names, workload.provider)
        sizes = batch_sizes(opened, workload, batches)
        plan = BenchPlan.quick(seconds or 1.0) if quick else BenchPlan(seconds) if seconds else BenchPlan()
        folder = output or default_output(opened)
        check_writable_folder(folder)
        bundle_path = str(bundle.path if isinstance(bundle, Bundle) else bundle)
        return cls(opened, bundle_path, variants, left_out, sizes, threads, workload, plan, quick, folder)

    def measure(self) -> BenchOutcome:
        """Measure, and write a result file for each variant and batch size; see `edgekit.bench.rounds.bench`."""
        rounds = 1 if self.workload.loadgen else self.plan.rounds
        with progress("bench", len(self.variants) * len(self.batches) * rounds, unit="rounds") as advance:
            return bench(
                self.bundle, self.variants, self.output, bundle_path=self.bundle_path, batches=self.batches, threads=self.threads,
                plan=self.plan, workload=self.workload, advance=advance,
            )  # fmt: skip

    def profile(self) -> Profiles:
        """Measure the time of each layer instead; see `edgekit.bench.profile_all`."""
        return profile_all(
            self.bundle, self.variants, self.output, bundle_path=self.bundle_path, batches=self.batches, threads=self.threads,
            workload=self.workload, quick=self.quick,
        )  # fmt: skip

    def require_measured(self, outcome: BenchOutcome | Profiles, what: str, reasons: str) -> None:
        """Raise an error if a measurement failed.

        Args:
            outcome: of the bench.
            what: `measurements` or `profiles`.
            reasons: where the reader finds the reasons, as an end of the message.

        Raises:
            EdgekitError: all failed; this is the first one's error.
            GateFailed: some failed.
        """
        if not outcome.failed:
            return
        if not outcome.results:
            raise outcome.failed[0][1]
        count = len(self.variants) * len(self.batches)
        raise GateFailed(f"{len(outcome.failed)} of {count} {what} failed{reasons}")


def processor_list(text: str | None) -> tuple[int, ...]:
    """Return the processor numbers of a list such as `0,2` or `0-3`; empty for None.

    Raises:
        EdgekitError: the text is not such a list.
    """
    import re

    processors: set[int] = set()
    for part in (text or "").split(",") if text is not None else []:
        ends = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise EdgekitError(
                f"--cpus {text}: {part!r} is not a processor number", "give numbers, for example 0,1 or 0-3"
            )
        processors.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(processors))
