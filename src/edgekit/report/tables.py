"""The report's tables as rows of cells: what is printed, what it sorts by, and what stands small below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.bench.statistics import SAMPLES_NEEDED, fp32_of, speedup
from edgekit.bundle import Accuracy, Variant
from edgekit.report import format as show
from edgekit.report.facts import Facts, Measured
from edgekit.report.headline import interval, measured_here, p50, size_of
from edgekit.result import Score

METRICS = {"top1": "top-1", "top5": "top-5", "knn": "kNN", "linear": "linear probe"}
MODELS = {"encoder": "Encoder", "teacher": "Teacher", "student": "Student", "supervised": "Supervised from scratch"}
RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}


@dataclass(frozen=True)
class Cell:
    """One cell. `sort` is a number or a lower-case text; `bar` draws a bar of that share behind the number."""

    text: str
    sort: float | str | None = None
    note: str = ""
    warnings: Sequence[str] = ()
    badge: str = ""
    bar: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head; `title` explains it."""

    name: str
    number: bool = True
    title: str = ""
    long: bool = False  # of sentences: wide enough to be read on a phone, where the table scrolls


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    tall: bool = False


def stages(facts: Facts) -> Table | None:
    """Every score with its interval, sample count and protocol."""
    if facts.evaluation is None:
        return None
    columns = [
        Column("Model", number=False),
        Column("Metric", number=False),
        Column("Accuracy"),
        Column("95 % interval", title="Wilson's interval for this number of test images"),
        Column("Images"),
        Column("Protocol", number=False, long=True),
    ]
    return Table("Accuracy by stage", columns, [_score_row(s) for s in facts.evaluation.scores])


def _score_row(score: Score) -> list[Cell]:
    low, high = interval(score.value, score.samples)
    name = MODELS.get(score.model, score.model)
    return [
        Cell(name, name.lower()),
        Cell(METRICS[score.metric], score.metric),
        Cell(show.percent(score.value), score.value),
        Cell(f"{low * 100:.1f} – {high * 100:.1f}", low),
        Cell(show.count(score.samples), score.samples),
        Cell(score.protocol, score.protocol.lower()),
    ]


def classes(facts: Facts) -> Table | None:
    """Top-1 accuracy of each class, a column a model."""
    scores = [s for s in facts.evaluation.scores if s.metric == "top1" and s.per_class] if facts.evaluation else []
    if not scores:
        return None
    test = facts.data.sets["test"].per_class if facts.data else {}
    names = list(dict.fromkeys(name for s in scores for name in s.per_class or {}))
    columns = [Column("Class", number=False)] + ([Column("Test images")] if test else [])
    columns += [Column(MODELS.get(s.model, s.model)) for s in scores]
    rows = []
    for i, name in enumerate(names):
        row = [Cell(name, i)] + ([Cell(show.count(test.get(name)), test.get(name))] if test else [])
        for s in scores:
            value = (s.per_class or {}).get(name)
            row.append(Cell(show.percent(value), value, bar=value))
        rows.append(row)
    return Table("Top-1 accuracy by class", columns, rows, tall=len(rows) > 24)


def variants(facts: Facts) -> Table | None:
    """The bundle's variants: accuracy, fidelity to the trained model, size and speed."""
    if facts.bundle is None:
        return None
    fastest: dict[str, float] = {}
    for m in measured_here(facts):
        value = p50(m)
        if m.latency.batch == 1 and value is not None:
            fastest[m.latency.variant] = min(value, fastest.get(m.latency.variant, value))
    columns = [
        Column("Variant", number=False),
        Column("Status", number=False, title="verified: run here and within the allowed drop"),
        Column("Top-1"),
        Column("Drop, points", title="accuracy of the trained model minus this variant's"),
        Column(
            "Agreement", title="share of the golden images on which variant and trained model choose the same class"
        ),
        Column("Max |Δ logit|", title="largest difference of a logit from the trained model's, on the golden images"),
        Column("SQNR, dB", title="signal to quantisation noise of the logits"),
        Column("Size"),
        Column("p50", title="median latency of one image, the fastest measurement"),
    ]
    manifest = facts.bundle.manifest
    rows = [_variant_row(v, fastest.get(v.id)) for v in manifest.variants]
    if manifest.accuracy is not None:
        blank = Cell("–")
        trained = Cell("Trained model", "", note="PyTorch, float: what the others must match")
        rows.insert(0, [trained, blank, _top1(manifest.accuracy), blank, blank, blank, blank, blank, blank])
    return Table("Accuracy by precision and runtime", columns, rows)


def _variant_row(v: Variant, latency: float | None) -> list[Cell]:
    parity = v.parity
    what = f"{RUNTIMES[v.runtime]}, {v.precision.upper()}"
    none = Cell(show.NONE)
    return [
        Cell(v.id, v.id, note=f"{what}. {v.note}" if v.note else what),
        Cell(v.status, v.status, badge=v.status, note="" if v.executed else "not run where it was exported"),
        _top1(v.accuracy),
        Cell(_drop(v.drop), v.drop),
        Cell(show.percent(parity.top1_agreement), parity.top1_agreement, note=f"{parity.samples} images") if parity else none,
        Cell(show.difference(parity.max_abs_diff), parity.max_abs_diff) if parity else none,
        Cell(show.significant(parity.sqnr_db), parity.sqnr_db) if parity and parity.sqnr_db is not None else none,
        Cell(show.size(size_of(v)), size_of(v)),
        Cell(show.milliseconds(latency), latency),
    ]  # fmt: skip


def _top1(accuracy: Accuracy | None) -> Cell:
    if accuracy is None:
        return Cell(show.NONE)
    return Cell(show.percent(accuracy.top1), accuracy.top1, note=f"{show.count(accuracy.samples)} images")


def _drop(drop: float | None) -> str:
    """A drop in points: `0.6` is worse than the trained model, `−0.3` is better."""
    if drop is None:
        return show.NONE
    text = f"{drop * 100:.1f}".replace("-", show.MINUS)
    return "0.0" if text == f"{show.MINUS}0.0" else text


def latencies(facts: Facts) -> Table | None:
    """Percentiles of every measurement, with the number of samples that they are from."""
    if not facts.measured:
        return None
    columns = [
        Column("Variant", number=False),
        Column("Samples"),
        *(Column(name, title=f"needs {needed:,} samples") for name, needed in SAMPLES_NEEDED.items()),
        Column("CV", title="coefficient of variation: standard deviation over mean"),
        Column("Images/s", title="batch over mean latency"),
        Column("Against FP32", title="how many times faster than the same runtime computing in FP32, round by round"),
    ]
    return Table("Latency", columns, [_latency_row(m, facts) for m in facts.measured])


def _latency_row(m: Measured, facts: Facts) -> list[Cell]:
    latency = m.latency
    warnings = [] if m.current else ["measured on another export of this run: the headline and the plots leave it out"]
    warnings += latency.warnings
    base = fp32_of(latency, [other.latency for other in facts.measured])
    ratio = speedup(base, latency) if base is not None and base.variant != latency.variant else None
    cells = [
        Cell(latency.variant, latency.variant, note=setting(m, facts), warnings=warnings),
        Cell(show.count(len(latency.samples_ns)), len(latency.samples_ns)),
    ]
    for name, needed in SAMPLES_NEEDED.items():
        value = latency.percentiles_ms.get(name)
        why = f"{len(latency.samples_ns):,} samples, {needed:,} are needed" if value is None else ""
        cells.append(Cell(show.milliseconds(value), value, title=why))
    return [
        *cells,
        Cell(show.percent(latency.cv), latency.cv),
        Cell(show.significant(latency.throughput), latency.throughput),
        Cell(f"{ratio.median:.2f}×", ratio.median, note=f"{ratio.low:.2f} to {ratio.high:.2f}") if ratio else Cell("–"),
    ]


def setting(m: Measured, facts: Facts) -> str:
    """Under what a latency was measured: batch, threads, runtime, and the machine where there are several."""
    latency = m.latency
    threads = (
        f"{latency.threads}\u00a0threads"
        if latency.threads > 1
        else "1\u00a0thread"
        if latency.threads
        else "default threads"
    )
    parts = [
        f"{RUNTIMES.get(latency.runtime, latency.runtime)} {latency.runtime_version}",
        f"batch\u00a0{latency.batch}",
        threads,
    ]
    if len({other.result.machine.cpu for other in facts.measured}) > 1:
        parts.append(m.result.machine.cpu)
    return ", ".join(parts)


def steps(facts: Facts) -> Table | None:
    """From importing the runtime to the answer for a JPEG file: the medians of each step."""
    names = list(
        dict.fromkeys(name for m in facts.measured for name, v in m.latency.stages_ms.items() if v is not None)
    )
    if not names:
        return None
    columns = [Column("Variant", number=False), *(Column(name.replace("_", " ")) for name in names)]
    rows = []
    for m in facts.measured:
        values = [m.latency.stages_ms.get(name) for name in names]
        head = Cell(m.latency.variant, m.latency.variant, note=setting(m, facts))
        rows.append([head, *(Cell(show.milliseconds(v), v) for v in values)])
    return Table("Where the time goes (medians)", columns, rows)


def circumstances(facts: Facts) -> Table | None:
    """What the runtimes were told and answered, and the state of the machine before and after."""
    if not facts.measured:
        return None
    names = ("Variant", "Settings", "Conditions", "Golden tensors", "Mean and peak memory", "Measured")
    columns = [Column(name, number=False, long=name in {"Settings", "Conditions"}) for name in names]
    rows = []
    for m in facts.measured:
        latency = m.latency
        agreement = latency.golden_top1_agreement
        golden = f"{show.percent(agreement)} agreement, max |Δ logit| {show.difference(latency.golden_max_abs_diff)}"
        rows.append(
            [
                Cell(latency.variant, latency.variant, note=setting(m, facts)),
                Cell("; ".join(f"{k} {v}" for k, v in latency.settings.items()) or "–"),
                Cell("; ".join(_flat(latency.conditions)) or "–"),
                Cell(golden if agreement is not None else show.NONE),
                Cell(show.milliseconds(latency.mean_ms), latency.mean_ms, note=show.size(latency.peak_rss_bytes)),
                Cell(show.day(m.result.created), m.result.created, note=m.file),
            ]
        )
    return Table("Circumstances of each measurement", columns, rows)


def _flat(content: dict[str, Any], prefix: str = "") -> list[str]:
    """`name value` for every leaf of a nested dictionary that has a value."""
    found = []
    for key, value in content.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            found += _flat(value, f"{name} ")
        elif value is not None:
            found.append(f"{name} {show.plain(value) if isinstance(value, float) else value}")
    return found
