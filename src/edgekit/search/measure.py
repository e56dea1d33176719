"""Measure every candidate on the device, in turns: A, B, C, A, B, C, … so that what changes on the device meets all of them alike.

A turn is one short bench of one bundle, each variant in a fresh process; its files stay in the search's folder, so that an interrupted search
measures none twice. A variant that the first turn shows to be far over the budget is not measured further.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit.bench.statistics import SAMPLES_NEEDED, percentiles
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError, RemoteError
from edgekit.files import write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.result import Latency, Result
from edgekit.search.budget import Limit, broken
from edgekit.search.devices import Device

TURNS = 3
TURN_SECONDS = 1.0
_FAR_OVER = 1.5  # times the limit: not even the fastest run of the first turn is near it
_RECORD = "turn.json"


@dataclass(frozen=True)
class MeasuredVariant:
    """What was measured of one variant.

    Attributes:
        id, runtime, precision, bytes: of the variant.
        percentiles_ms: p50, p90, …, over the samples of all turns; None where there are too few, empty where it was not measured.
        energy_mj: per image; None without a sensor.
        samples, turns: how many.
        spread: largest median of a turn divided by the smallest, minus 1.
        golden_agreement: share of the golden images on which the device decides as PyTorch does (of random weights a matter of chance).
        error: why it could not be measured; empty if it was.
    """

    id: str
    runtime: str
    precision: str
    bytes: int
    percentiles_ms: dict[str, float | None] = field(default_factory=dict)
    energy_mj: float | None = None
    samples: int = 0
    turns: int = 0
    spread: float | None = None
    golden_agreement: float | None = None
    error: str = ""

    @property
    def p50(self) -> float | None:
        """Median latency, ms."""
        return self.percentiles_ms.get("p50")

    def values(self) -> dict[str, float | None]:
        """The values by the metrics of a budget."""
        return {**self.percentiles_ms, "size": float(self.bytes), "energy": self.energy_mj}


@dataclass(frozen=True)
class MeasuredBundle:
    """What was measured of a bundle.

    Attributes:
        variants: of the bundle.
        seconds: that it took.
        error: why nothing of it could be exported or measured; empty if something was.
        machine: the processor of the device.
    """

    variants: list[MeasuredVariant]
    seconds: float = 0.0
    error: str = ""
    machine: str = ""

    def within(self, limits: Sequence[Limit]) -> list[MeasuredVariant]:
        """Return the variants within a budget, the fastest first."""
        found = [v for v in self.variants if not v.error and not broken(limits, v.values())]
        return sorted(found, key=lambda v: v.p50 or 0.0)

    def content(self) -> dict[str, Any]:
        """Return the fields, for the storage."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> MeasuredBundle:
        """Read the fields."""
        return cls(**{**content, "variants": [MeasuredVariant(**one) for one in content["variants"]]})


def turn_seconds(limits: Iterable[Limit], turns: int = TURNS) -> float:
    """Return the seconds of a turn, so that a model at its limit has the samples that the percentiles of the budget need."""
    needed = [1.2 * SAMPLES_NEEDED[limit.percentile] * limit.most / 1e3 / turns for limit in limits if limit.percentile]
    return round(max([TURN_SECONDS, *needed]), 3)


class Turns:
    """The turns of one bundle, in a folder.

    Args:
        bundle: what is measured.
        folder: for the result files.
        device: where.
        limits: the budget: variants that cannot meet it are not measured (further).
        seconds: of a turn.
        threads: of the inference.
        everything: measure every variant in every turn, whatever the budget says.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        device: Device,
        limits: Sequence[Limit],
        seconds: float,
        threads: int = 0,
        *,
        everything: bool = False,
    ) -> None:
        self.bundle, self.folder, self.device = bundle, folder, device
        self.limits, self.seconds, self.everything = limits, seconds, everything
        self._key = {"bundle": bundle.digest, "device": device.name, "seconds": seconds, "threads": threads}
        self._turns: list[dict[str, Result]] = []
        self._failed: dict[str, str] = {}
        self._seconds = 0.0
        self._missing: EdgekitError | None = None

    def next(self) -> bool:
        """Measure one more turn, or read it if it was measured before; return whether there was anything to measure.

        Raises:
            RemoteError: the device cannot be reached any more.
            KeyboardInterrupt: after Ctrl-C.
        """
        wanted = self._wanted()
        if not wanted:
            return False
        folder = self.folder / f"turn-{len(self._turns) + 1}"
        found = self._kept(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            named = wanted if self._turns or len(wanted) < len(self.bundle.manifest.variants) else []
            began = time.monotonic()
            try:
                measured = self.device.turn(self.bundle, named, self.seconds, folder)
            except RemoteError:
                raise
            except EdgekitError as error:
                self._failed |= dict.fromkeys(wanted, error.message)
                return True
            took = time.monotonic() - began
            files = {variant: path.name for variant, path in measured.results.items()}
            record = {**self._key, "results": files, "failed": measured.failed, "took": round(took, 3)}
            write_json(folder / _RECORD, record)
            found = self._kept(folder)
        if found is None:
            raise EdgekitError(
                f"{folder}: its results cannot be read back", "check the disk, and run the command again"
            )
        results, failed, took = found
        self._turns.append(results)
        self._failed |= failed
        self._seconds += took
        return True

    def _kept(self, folder: Path) -> tuple[dict[str, Result], dict[str, str], float] | None:
        """Return what a turn measured that is complete and of the same bundle on the same device; else None."""
        try:
            record = read_json(folder / _RECORD)
            if any(record.get(key) != value for key, value in self._key.items()):
                return None
            results = {str(name): Result.read(folder / Path(file).name) for name, file in record["results"].items()}
            return results, dict(record["failed"]), float(record["took"])
        except (Unreadable, EdgekitError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def _wanted(self) -> list[str]:
        """Return the variants that are worth a turn."""
        wanted = [v for v in self.bundle.manifest.variants if v.id not in self._failed]
        if not self.everything:
            wanted = [v for v in wanted if not self._hopeless(v)]
        return [v.id for v in wanted]

    def _hopeless(self, variant: Variant) -> bool:
        sizes = [limit for limit in self.limits if limit.metric == "size"]
        if any(not limit.allows(variant.bytes) for limit in sizes):
            return True
        most = min((limit.most for limit in self.limits if limit.percentile), default=None)
        samples = self._samples(variant.id)
        return bool(most is not None and samples and min(samples) / 1e6 > _FAR_OVER * most)

    def complete(self, count: int) -> bool:
        """Whether nothing is left to measure: no variant is worth a turn, or all had so many and none is `undecided`."""
        return not self._wanted() or (len(self._turns) >= count and not self.undecided())

    def undecided(self) -> bool:
        """Whether the median of a variant is over its limit, but not in every turn: then something may have disturbed the others."""
        limit = next((limit for limit in self.limits if limit.metric == "p50"), None)
        if limit is None:
            return False
        for variant in self.bundle.manifest.variants:
            medians, all_together = self.medians(variant.id), percentiles(self._samples(variant.id))["p50"]
            over = all_together is not None and not limit.allows(all_together / 1e6)
            if over and medians and limit.allows(min(medians)):
                return True
        return False

    def _latencies(self, variant: str) -> list[Latency]:
        found = [turn[variant].measurement for turn in self._turns if variant in turn]
        return [latency for latency in found if isinstance(latency, Latency)]

    def _samples(self, variant: str) -> list[int]:
        return [sample for latency in self._latencies(variant) for sample in latency.samples_ns]

    def why_no_energy(self) -> str:
        """Return why the device did not report its energy; empty if it did, or nothing was measured."""
        measured = [one for variant in self.bundle.manifest.variants for one in self._latencies(variant.id)]
        if not measured or any(one.energy_joules_per_inference is not None for one in measured):
            return ""
        timeline = measured[0].timeline
        return (timeline.why_no_power if timeline is not None else "") or "it has no power sensor"

    def result(self, exporting_seconds: float = 0.0) -> MeasuredBundle:
        """Return what all turns measured."""
        machines = [result.machine.cpu for turn in self._turns for result in turn.values()]
        variants = [self._variant(variant) for variant in self.bundle.manifest.variants]
        errors = [v.error for v in variants if v.error]
        error = errors[0] if errors and len(errors) == len(variants) else ""
        seconds = round(self._seconds + exporting_seconds, 3)
        return MeasuredBundle(variants, seconds, error, machines[0] if machines else "")

    def _variant(self, variant: Variant) -> MeasuredVariant:
        about = (variant.id, variant.runtime, variant.precision, variant.bytes)
        latencies = self._latencies(variant.id)
        if not latencies:
            return MeasuredVariant(*about, error=self._failed.get(variant.id, ""))
        samples = np.asarray(self._samples(variant.id)) / 1e6
        medians = [float(np.median(latency.samples_ns)) for latency in latencies]
        energies = [e for one in latencies if (e := one.energy_joules_per_inference) is not None]
        agreements = [a for one in latencies if (a := one.golden_agreement) is not None]
        return MeasuredVariant(
            *about,
            percentiles_ms=percentiles(samples),
            energy_mj=1e3 * median(energies) if energies else None,
            samples=len(samples),
            turns=len(latencies),
            spread=max(medians) / min(medians) - 1,
            golden_agreement=min(agreements) if agreements else None,
            error=self._failed.get(variant.id, ""),
        )

    def medians(self, variant: str) -> list[float]:
        """Return the median latency of each turn, ms."""
        return [float(np.median(latency.samples_ns)) / 1e6 for latency in self._latencies(variant)]


def in_turns(
    all_turns: Sequence[Turns],
    count: int = TURNS,
    advance: Callable[[Turns], None] = lambda turns: None,
    *,
    further: int = 0,
) -> None:
    """Measure several bundles in turns; see `Turns.next` for what it raises.

    Args:
        all_turns: of the bundles.
        count: turns of each.
        advance: called after every one of these turns.
        further: turns that a bundle may have in addition while it is `undecided`.
    """
    for _ in range(count):
        for turns in all_turns:
            turns.next()
            advance(turns)
    for _ in range(further):
        for turns in all_turns:
            if turns.undecided():
                turns.next()
