"""Compare two measurements: what changed, whether by more than chance, and whether a gate fails."""

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
# The metrics that are shown, besides those of gates.
USUAL = ("p50", "p90", "p99", "throughput", "energy", "peak_rss", "accuracy", "size")

_Value = TypeVar("_Value", float, NDArray[np.float64])
Verdict = Literal["pass", "fail", "uncertain"]


@dataclass(frozen=True)
class ComparisonRow:
    """One figure on both sides.

    Attributes:
        before, after: None where it was not measured.
        change: relative, or for a share the difference; None if a side is None.
        interval: 95 % interval of the change, by bootstrap; None if the spread is not known.
        why: why there is no change.
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
    """A gate's verdict on one pair. `uncertain`: the value is beyond the limit, but a part of its interval is not."""

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
        """One sentence for each circumstance that differs between the two measurements."""
        other = self.after.circumstances
        return [
            f"{key}: {value} before, {other[key]} after"
            for key, value in self.before.circumstances.items()
            if key in other and other[key] != value
        ]


@dataclass
class Comparison:
    """The comparison of two sides; `missing` and `new` name the measurements that only one side has."""

    pairs: list[ComparedPair]
    missing: list[str]
    new: list[str]

    @property
    def failed(self) -> list[tuple[ComparedPair, Checked]]:
        return [(pair, c) for pair in self.pairs for c in pair.checked if c.verdict == "fail"]


def compare(before: Path, after: Path, gates: Sequence[Gate] = (), seed: int = 0) -> Comparison:
    """Compare two result files, folders of them, or bundles.

    Measurements are paired by variant and by how they were run; if each side has only one, those two are paired.

    Args:
        before, after: what `edgekit bench`, `edgekit evaluate` or `edgekit export` wrote.
        gates: each is checked on every pair that has its metric.
        seed: of the bootstrap.

    Raises:
        EdgekitError: a side cannot be read, no measurements can be paired, or a side lacks a gate's metric.
    """
    a, b = read(before), read(after)
    if len(a) == len(b) == 1 and a[0].key[0] == b[0].key[0]:
        couples = [(a[0], b[0])]
    else:
        by_key = {m.key: m for m in b}
        couples = [(m, by_key[m.key]) for m in a if m.key in by_key]
    if not couples:
        raise EdgekitError(
            f"{before} and {after} have no measurement in common: {_names(a)} before, {_names(b)} after",
            "compare measurements of the same variant, batch size, threads and scenario, or two files with one measurement each",
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
                f"--fail-if {gate.text!r}: no {gate.metric} was measured",
                "export on a machine where the variants can run",
            )
    return Comparison(pairs, [m.name for m in a if id(m) not in paired], [m.name for m in b if id(m) not in paired])


def _metrics(before: Measurement, after: Measurement, gates: Sequence[Gate]) -> list[str]:
    gated = {gate.metric for gate in gates}
    usual = (
        USUAL
        if before.key[0] != "evaluation"
        else tuple(n for n in before.figures if "-shot" not in n and n != "accuracy")
    )
    shared = [name for name in before.figures if name in after.figures]
    measured = {n for n in shared if before.figures[n].value is not None or after.figures[n].value is not None}
    return [name for name in shared if name in gated or (name in usual and name in measured)]


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
    """Return a gate's verdict on a pair; None if the pair does not have the gate's metric."""
    if gate.metric not in pair.before.figures or gate.metric not in pair.after.figures:
        return None
    row = next(row for row in pair.rows if row.metric == gate.metric)
    gate.check_unit(row.unit)
    if row.before is None and row.after is None and pair.before.key[0] == "variant":
        return None  # a bundle's variant that ran on neither side, for example because there was no GPU
    if row.after is None or (row.change is None and gate.change != "absolute"):
        raise EdgekitError(
            f"--fail-if {gate.text!r}: {pair.name} has no {gate.metric} ({row.why})",
            "measure longer, or use another metric",
        )
    if gate.change == "absolute":
        value, figure = row.after, pair.after.figures[gate.metric]
        interval = None if figure.draw is None else _interval(_drawn(figure, 2 * seed + 1, figure.draws))
    elif gate.change == "relative" and row.unit == "share":
        assert row.before is not None
        if row.before == 0:
            raise EdgekitError(
                f"--fail-if {gate.text!r}: {gate.metric} was 0 before, so it has no relative change", "use points (pt)"
            )
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
