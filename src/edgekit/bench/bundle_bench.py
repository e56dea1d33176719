"""The whole bench of a bundle: which variants, how much, where to, and then measuring them in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.choose import choose
from edgekit.bench.output import check_output, default_output
from edgekit.bench.profile_all import Profiles, profile_all
from edgekit.bench.rounds import BenchOutcome, BenchPlan, bench
from edgekit.bench.workload import Workload, batch_sizes, check_parallel
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError, GateFailed
from edgekit.progress import progress


@dataclass(frozen=True)
class BenchJob:
    """What a bench is to do, checked.

    Attributes:
        bundle: the opened bundle.
        given: its path as the user gave it.
        variants: what is measured.
        left_out: what is not, each with the reason.
        batches: the batch sizes.
        threads: of the inference; 0 leaves it to the runtime.
        load: the scenario and where it runs.
        plan: how long.
        quick: whether it is a first look.
        output: the folder for the result files.
    """

    bundle: Bundle
    given: str
    variants: list[Variant]
    left_out: list[tuple[Variant, str]]
    batches: tuple[int, ...]
    threads: int
    load: Workload
    plan: BenchPlan
    quick: bool
    output: Path

    @classmethod
    def of(
        cls, bundle: Bundle | Path | str, load: Workload, *, names: Sequence[str] = (), batches: Sequence[int] = (), threads: int = 0,
        seconds: float | None = None, quick: bool = False, output: Path | None = None,
    ) -> BenchJob:  # fmt: skip
        """Check what can be checked before minutes are spent.

        Args:
            bundle: opened, or its path.
            load: the scenario and where it runs.
            names: ids of variants; none means all that were not rejected.
            batches: the batch sizes; none means the scenario's.
            threads: of the inference; 0 leaves it to the runtime.
            seconds: least time of measuring a variant; None: 10, with `quick` 1.
            quick: one short round.
            output: the folder for the result files; None: RUN/bench, else ./bench-NAME.

        Raises:
            EdgekitError: the bundle is damaged, a variant is unknown or cannot run here, the options do not go together, or
                `output` cannot be written.
        """
        check_parallel(threads, load)
        if load.loadgen:
            from edgekit.bench.loadgen import check_installed

            check_installed()
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        variants, left_out = choose(opened, names, load.provider)
        sizes = batch_sizes(opened, load, batches)
        plan = BenchPlan.quick(seconds or 1.0) if quick else BenchPlan(seconds) if seconds else BenchPlan()
        folder = output or default_output(opened)
        check_output(folder)
        given = str(bundle.path if isinstance(bundle, Bundle) else bundle)
        return cls(opened, given, variants, left_out, sizes, threads, load, plan, quick, folder)

    def measure(self) -> BenchOutcome:
        """Measure, and write a result file for each variant and batch size; see `edgekit.bench.rounds.bench`."""
        rounds = 1 if self.load.loadgen else self.plan.rounds
        with progress("bench", len(self.variants) * len(self.batches) * rounds, unit="rounds") as advance:
            return bench(
                self.bundle, self.variants, self.output, given=self.given, batches=self.batches, threads=self.threads,
                plan=self.plan, load=self.load, advance=advance,
            )  # fmt: skip

    def profile(self) -> Profiles:
        """Measure where the time goes instead, layer by layer; see `edgekit.bench.profile_all`."""
        return profile_all(
            self.bundle, self.variants, self.output, given=self.given, batches=self.batches, threads=self.threads,
            load=self.load, quick=self.quick,
        )  # fmt: skip

    def require_measured(self, found: BenchOutcome | Profiles, what: str, reasons: str) -> None:
        """Fail where something failed.

        Args:
            found: what it brought.
            what: measurements or profiles.
            reasons: where the reader finds them.

        Raises:
            EdgekitError: everything failed: the first reason.
            GateFailed: a part failed.
        """
        if not found.failed:
            return
        if not found.results:
            raise found.failed[0][1]
        count = len(self.variants) * len(self.batches)
        raise GateFailed(f"{len(found.failed)} of {count} {what} failed{reasons}")


def processor_list(text: str | None) -> tuple[int, ...]:
    """The processors that `0,2` or `0-3` lists; none for None.

    Raises:
        EdgekitError: it is not such a list.
    """
    import re

    found: set[int] = set()
    for part in (text or "").split(",") if text is not None else []:
        ends = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise EdgekitError(f"--cpus {text}: {part!r} is no processor", "give numbers, for instance 0,1 or 0-3")
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(found))
