"""Two measurements side by side: what changed, whether by more than chance, and whether a gate fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.figures import Measurement, Metric, Unit, read
from edgekit.bench.gate import Gate, check_metrics
from edgekit.errors import EdgekitError
from edgekit.progress import progress
from edgekit.shares import difference

CONFIDENCE = 0.95
# What is shown where no gate asks for more.
USUAL = ("p50", "p90", "p99", "throughput", "energy", "peak_rss", "accuracy", "size")

_Value = TypeVar("_Value", float, NDArray[np.float64])
Verdict = Literal["pass", "fail", "uncertain"]


@dataclass(frozen=True)
class ComparisonRow:
    """One figure on both sides.

    Attributes:
        before, after: None where it was not measured.
        change: relative, or for a share the difference; None where a side is.
        interval: 95 % of the change by bootstrap; None where chance is not known.
        why: there is no change.
    """

    metric: str
    unit: Unit
    before: float | None
    after: float | None
    change: float | None = None
    interval: tuple[float, float] | None = None
    why: str = ""


@dataclass(frozen=True)
class Checked:
    """A gate's verdict on one pair. `uncertain`: the value is beyond the limit, but its interval is not wholly so."""

    gate: Gate
    verdict: Verdict
    value: float
    interval: tuple[float, float] | None


@dataclass
class ComparedPair:
    """The same measurement on both sides."""

    before: Measurement
    after: Measurement
    rows: list[ComparisonRow]
    checked: list[Checked] = field(default_factory=list)

    @property
    def name(self) -> str:
        a, b = self.before.name, self.after.name
        return a if a == b else f"{a} → {b}"

    @property
    def unlike(self) -> list[str]:
        """What differs beside what was measured, a sentence each."""
        other = self.after.circumstances
        return [
            f"{key}: {value} before, {other[key]} after"
            for key, value in self.before.circumstances.items()
            if key in other and other[key] != value
        ]


@dataclass
class Compared:
    """Everything about two sides; `missing` and `new` name what only one of them has."""

    pairs: list[ComparedPair]
    missing: list[str]
    new: list[str]

    @property
    def failed(self) -> list[tuple[ComparedPair, Checked]]:
        return [(pair, c) for pair in self.pairs for c in pair.checked if c.verdict == "fail"]


def compare(before: Path, after: Path, gates: Sequence[Gate] = (), seed: int = 0) -> Compared:
    """Compare two result files, folders of them, or bundles.

    Measurements are paired by variant and how they were run; where each side has a single one, those two are.

    Args:
        before, after: what `edgekit bench`, `edgekit evaluate` or `edgekit export` wrote.
        gates: each is held against every pair that has its figure.
        seed: of the bootstrap.

    Raises:
        EdgekitError: a side cannot be read, nothing can be paired, or a gate asks for a figure that a side does not have.
    """
    a, b = read(before), read(after)
    if len(a) == len(b) == 1 and a[0].key[0] == b[0].key[0]:
        couples = [(a[0], b[0])]
    else:
        by_key = {m.key: m for m in b}
        couples = [(m, by_key[m.key]) for m in a if m.key in by_key]
    if not couples:
        raise EdgekitError(
            f"{before} and {after} have nothing in common: {_names(a)} before, {_names(b)} after",
            "compare measurements of the same variant, batch size, threads and scenario, or two files that hold one each",
        )
    check_metrics(gates, {name for m, _ in couples for name in m.figures})
    paired = {id(m) for couple in couples for m in couple}
    pairs = []
    steps = sum(1 for couple in couples for _ in _metrics(couple[0], couple[1], gates))
    with progress("bootstrap", steps, unit="figures") as advance:
        for couple in couples:
            rows = []
            for metric in _metrics(couple[0], couple[1], gates):
                rows.append(_row(metric, couple[0].figures[metric], couple[1].figures[metric], seed))
                advance()
            pair = ComparedPair(couple[0], couple[1], rows)
            pair.checked = [c for gate in gates if (c := _check(gate, pair, seed)) is not None]
            pairs.append(pair)
    for gate in gates:
        if not any(checked.gate is gate for pair in pairs for checked in pair.checked):
            raise EdgekitError(
                f"--fail-if {gate.text!r}: no {gate.metric} was measured", "export where the variants can run"
            )
    return Compared(pairs, [m.name for m in a if id(m) not in paired], [m.name for m in b if id(m) not in paired])


def _metrics(before: Measurement, after: Measurement, gates: Sequence[Gate]) -> list[str]:
    asked = {gate.metric for gate in gates}
    usual = (
        USUAL
        if before.key[0] != "evaluation"
        else tuple(n for n in before.figures if "-shot" not in n and n != "accuracy")
    )
    shared = [name for name in before.figures if name in after.figures]
    some = {n for n in shared if before.figures[n].value is not None or after.figures[n].value is not None}
    return [name for name in shared if name in asked or (name in usual and name in some)]


def _row(metric: str, before: Metric, after: Metric, seed: int) -> ComparisonRow:
    a, b = before.value, after.value
    if a is None or b is None:
        side, why = ("before", before.why) if a is None else ("after", after.why)
        return ComparisonRow(metric, before.unit, a, b, why=f"{side}: {why}")
    if a == 0 and before.unit != "share":
        return ComparisonRow(metric, before.unit, a, b, why="it was 0 before")
    change = difference(b, a) if before.unit == "share" else _change(before.unit, a, b)
    interval = None
    if before.draw is not None and after.draw is not None:
        count = min(before.draws, after.draws)
        changes = _change(before.unit, _drawn(before, 2 * seed, count), _drawn(after, 2 * seed + 1, count))
        interval = _interval(changes)
    return ComparisonRow(metric, before.unit, a, b, change, interval)


def _check(gate: Gate, pair: ComparedPair, seed: int) -> Checked | None:
    """A gate's verdict on a pair; None where the pair has no such figure at all."""
    if gate.metric not in pair.before.figures or gate.metric not in pair.after.figures:
        return None
    row = next(row for row in pair.rows if row.metric == gate.metric)
    gate.check_unit(row.unit)
    if row.before is None and row.after is None and pair.before.key[0] == "variant":
        return None  # of a bundle: run on neither side, for instance for want of a GPU
    if row.after is None or (row.change is None and gate.change != "absolute"):
        raise EdgekitError(
            f"--fail-if {gate.text!r}: {pair.name} has no {gate.metric} ({row.why})",
            "measure longer, or take another figure",
        )
    if gate.change == "absolute":
        value, figure = row.after, pair.after.figures[gate.metric]
        interval = None if figure.draw is None else _interval(_drawn(figure, 2 * seed + 1, figure.draws))
    elif gate.change == "relative" and row.unit == "share":
        assert row.before is not None
        if row.before == 0:
            raise EdgekitError(f"--fail-if {gate.text!r}: {gate.metric} was 0 before", "use points: pt")
        value = row.after / row.before - 1
        interval = None if row.interval is None else (row.interval[0] / row.before, row.interval[1] / row.before)
    else:
        assert row.change is not None
        value, interval = row.change, row.interval
    if not gate.beyond(value):
        verdict: Verdict = "pass"
    elif interval is None or all(gate.beyond(end) for end in interval):
        verdict = "fail"
    else:
        verdict = "uncertain"
    return Checked(gate, verdict, value, interval)


def _drawn(figure: Metric, seed: int, count: int) -> NDArray[np.float64]:
    assert figure.draw is not None
    return figure.draw(seed, count)


def _change(unit: Unit, before: _Value, after: _Value) -> _Value:
    return after - before if unit == "share" else after / before - 1


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _names(measured: Sequence[Measurement]) -> str:
    return ", ".join(m.name for m in measured)
