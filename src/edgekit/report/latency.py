"""The report's tables of latency: percentiles, steps, and measurement conditions."""

from __future__ import annotations

from typing import Any

from edgekit import targets
from edgekit.bench.statistics import SAMPLES_NEEDED, Speedup, fp32_of, speedup
from edgekit.report import format as show
from edgekit.report.facts import LatencyFacts, ReportFacts
from edgekit.report.tables import Column, Table, TableCell

_AGAINST = (
    "how many times faster than FP32 in the same runtime: the median over the rounds, and the lowest and highest round. Each round is "
    "a process of its own; with one round, as in a quick measurement, there is no range, because nothing shows how much processes differ"
)


def latencies(facts: ReportFacts) -> Table | None:
    """Return a table of the percentiles of every measurement, with the number of samples."""
    if not facts.measured:
        return None
    columns = [
        Column("Variant", number=False),
        Column("Samples"),
        *(Column(name, title=f"needs {needed:,} samples") for name, needed in SAMPLES_NEEDED.items()),
        Column("CV", title="coefficient of variation: standard deviation over mean"),
        Column("Images/s", title="batch over mean latency"),
        Column("Against FP32", title=_AGAINST),
    ]
    return Table("Latency", columns, [_latency_row(m, facts) for m in facts.measured])


def _latency_row(m: LatencyFacts, facts: ReportFacts) -> list[TableCell]:
    latency = m.latency
    warnings = [] if m.current else ["measured on another export of this run: not in the headline and the plots"]
    warnings += latency.warnings
    base = fp32_of(latency, [other.latency for other in facts.measured if other.device == m.device])
    ratio = speedup(base, latency) if base is not None and base.variant != latency.variant else None
    cells = [
        TableCell(latency.variant, latency.variant, note=setting(m, facts), warnings=warnings),
        TableCell(show.count(len(latency.samples_ns)), len(latency.samples_ns)),
    ]
    for name, needed in SAMPLES_NEEDED.items():
        value = latency.percentiles_ms.get(name)
        why = f"{len(latency.samples_ns):,} samples, but {needed:,} are needed" if value is None else ""
        cells.append(TableCell(show.milliseconds(value), value, title=why))
    return [
        *cells,
        TableCell(show.percent(latency.cv), latency.cv),
        TableCell(show.significant(latency.throughput), latency.throughput),
        _ratio_cell(ratio),
    ]


def _ratio_cell(ratio: Speedup | None) -> TableCell:
    if ratio is None:
        return TableCell("–")
    if ratio.low is None or ratio.high is None:
        why = "measured in one process each: no range"
        return TableCell(f"{ratio.median:.2f}×", ratio.median, title=why)
    return TableCell(f"{ratio.median:.2f}×", ratio.median, note=f"{ratio.low:.2f} to {ratio.high:.2f}")


def scenarios(facts: ReportFacts) -> Table | None:
    """Return a table of measurements under load: several streams, maximum throughput, requests that arrive at a rate."""
    if not facts.scenarios:
        return None
    columns = [
        Column("Variant", number=False),
        Column("Scenario", number=False),
        Column("Streams"),
        Column(
            "Offered, queries/s",
            title="server: rate of a Poisson process; if there is a bound, the highest rate that keeps it",
        ),
        Column("Bound on p99", title="server: the latency bound for which the rate was searched"),
        *(Column(name) for name in ("p50", "p90", "p99")),
        Column("Images/s"),
        Column("Samples"),
    ]
    rows = []
    for m in facts.scenarios:
        latency = m.latency
        warnings = [] if m.current else ["measured on another export of this run"]
        rows.append(
            [
                TableCell(latency.variant, latency.variant, note=setting(m, facts), warnings=[*warnings, *latency.warnings]),
                TableCell(latency.scenario, latency.scenario),
                TableCell(str(latency.streams), latency.streams),
                TableCell(show.significant(latency.rate), latency.rate) if latency.rate else TableCell("–"),
                TableCell(show.milliseconds(latency.bound_ms), latency.bound_ms) if latency.bound_ms else TableCell("–"),
                *(TableCell(show.milliseconds(latency.percentiles_ms.get(n)), latency.percentiles_ms.get(n)) for n in ("p50", "p90", "p99")),
                TableCell(show.significant(latency.throughput), latency.throughput),
                TableCell(show.count(len(latency.samples_ns)), len(latency.samples_ns)),
            ]
        )  # fmt: skip
    return Table("Under load", columns, rows)


def setting(m: LatencyFacts, facts: ReportFacts) -> str:
    """Describe a measurement's setting: runtime, batch, threads, and the machine if there are several."""
    latency = m.latency
    release = latency.runtime_version.partition("-")[0]  # OpenVINO's version ends with its commit
    threads = {0: "default threads", 1: "1\u00a0thread"}.get(latency.threads, f"{latency.threads}\u00a0threads")
    parts = [f"{targets.title(latency.runtime)} {release}", f"batch\u00a0{latency.batch}", threads]
    if m.device:
        parts.append(f"{m.device} ({m.result.machine.cpu})")
    elif len({other.result.machine.cpu for other in facts.measured}) > 1:
        parts.append(m.result.machine.cpu)
    return ", ".join(parts)


def steps(facts: ReportFacts) -> Table | None:
    """Return a table of the median time of each step, from importing the runtime to the answer for a JPEG file."""
    names = list(
        dict.fromkeys(name for m in facts.measured for name, v in m.latency.stages_ms.items() if v is not None)
    )
    if not names:
        return None
    columns = [Column("Variant", number=False), *(Column(name.replace("_", " ")) for name in names)]
    rows = []
    for m in facts.measured:
        values = [m.latency.stages_ms.get(name) for name in names]
        head = TableCell(m.latency.variant, m.latency.variant, note=setting(m, facts))
        rows.append([head, *(TableCell(show.milliseconds(v), v) for v in values)])
    return Table("Time of each step (medians)", columns, rows)


def conditions(facts: ReportFacts) -> Table | None:
    """Return a table of the runtimes' settings, and the state of the machine before and after."""
    if not facts.measured:
        return None
    names = ("Variant", "Settings", "Conditions", "Golden tensors", "Mean and peak memory", "Measured")
    columns = [Column(name, number=False, long=name in {"Settings", "Conditions"}) for name in names]
    rows = []
    for m in facts.measured:
        latency = m.latency
        agreement = latency.golden_agreement
        golden = f"{show.percent(agreement)} agreement, max |Δ {facts.task.unit}| {show.difference(latency.golden_max_abs_diff)}"
        rows.append(
            [
                TableCell(latency.variant, latency.variant, note=setting(m, facts)),
                TableCell(
                    "; ".join(
                        [f"version {latency.runtime_version}", *(f"{k} {v}" for k, v in latency.settings.items())]
                    )
                ),
                TableCell("; ".join(_flat(latency.conditions)) or "–"),
                TableCell(golden if agreement is not None else show.NONE),
                TableCell(show.milliseconds(latency.mean_ms), latency.mean_ms, note=show.size(latency.peak_rss_bytes)),
                TableCell(show.day(m.result.created), m.result.created, note=m.file),
            ]
        )
    return Table("Conditions of each measurement", columns, rows)


def _flat(content: dict[str, Any], prefix: str = "") -> list[str]:
    """Return `name value` for every leaf with a value in a nested dictionary."""
    found = []
    for key, value in content.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            found += _flat(value, f"{name} ")
        elif value is not None:
            found.append(f"{name} {show.plain(value) if isinstance(value, float) else value}")
    return found
