"""Tables of the report, as rows of cells with a text, a sort key and a small note.

This module has the tables of accuracy; those of latency are in `latency.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit import targets
from edgekit.bundle import Accuracy, Variant
from edgekit.intervals import wilson
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts
from edgekit.report.headline import measured_here, p50
from edgekit.result import Score
from edgekit.tasks import Task
from edgekit.text import counted

_OF_FEATURES = {
    "knn": "kNN",
    "linear": "linear probe",
    "centroid": "nearest centroid",
    "logistic": "logistic regression",
}
MODELS = {
    "encoder": "Encoder",
    "teacher": "Teacher",
    "student": "Student",
    "supervised": "Supervised from scratch",
    "detector": "Detector",
}


def metric_title(task: Task, metric: str) -> str:
    """What a metric of a task, or of what is read from an encoder's features, is called."""
    return task.metrics.get(metric) or _OF_FEATURES.get(metric, metric)


def interval(task: Task, score: Score) -> tuple[float, float] | None:
    """95 % of a score: its own, or Wilson's where it counts images; None where nobody knows."""
    counted = task.counted if score.metric in task.metrics else task.features_counted
    if score.interval is None and counted:
        return wilson(score.value, score.samples)
    return score.interval


@dataclass(frozen=True)
class TableCell:
    """A cell. `sort` is a number or a lower-case text; `bar` draws a bar of this share behind the number."""

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
    long: bool = False  # has sentences: wide enough for reading on a phone, where the table scrolls


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    columns: list[Column]
    rows: list[list[TableCell]]
    tall: bool = False


def stages(facts: ReportFacts) -> Table | None:
    """Return a table of every score with its interval, sample count and protocol."""
    if facts.evaluation is None:
        return None
    columns = [
        Column("Model", number=False),
        Column("Metric", number=False),
        Column(capital(facts.task.quality)),
        Column(
            "95 % interval",
            title="Wilson's interval for this number of test images; for few-shot scores, the interval of the mean over the draws",
        ),
        Column("Images"),
        Column("Protocol", number=False, long=True),
    ]
    return Table(
        f"{capital(facts.task.quality)} by stage", columns, [_score_row(s, facts.task) for s in facts.evaluation.scores]
    )


def _score_row(score: Score, task: Task) -> list[TableCell]:
    ends = interval(task, score)
    name = MODELS.get(score.model, score.model)
    title = metric_title(task, score.metric)
    metric = title if score.shots is None else f"{score.shots}-shot {title}"
    return [
        TableCell(name, name.lower()),
        TableCell(metric, metric.lower()),
        TableCell(show.percent(score.value), score.value),
        TableCell(f"{show.hundredths(ends[0])} – {show.hundredths(ends[1])}", ends[0])
        if ends
        else TableCell(show.NONE),
        TableCell(show.count(score.samples), score.samples),
        TableCell(score.protocol, score.protocol.lower()),
    ]


def classes(facts: ReportFacts) -> Table | None:
    """Return a table of the task's metric on each class, one column per model."""
    scores = (
        [s for s in facts.evaluation.scores if s.metric == facts.task.metric and s.per_class]
        if facts.evaluation
        else []
    )
    if not scores:
        return None
    test = facts.data.sets["test"].per_class if facts.data else {}
    names = list(dict.fromkeys(name for s in scores for name in s.per_class or {}))
    columns = [Column("Class", number=False)] + ([Column("Test images")] if test else [])
    columns += [Column(MODELS.get(s.model, s.model)) for s in scores]
    rows = []
    for i, name in enumerate(names):
        row = [TableCell(name, i)] + ([TableCell(show.count(test.get(name)), test.get(name))] if test else [])
        for s in scores:
            value = (s.per_class or {}).get(name)
            row.append(TableCell(show.percent(value), value, bar=value))
        rows.append(row)
    name = capital(facts.task.of_class) or metric_name(facts.task)
    return Table(f"{name} by class", columns, rows, tall=len(rows) > 24)


def metric_name(task: Task) -> str:
    """`Top-1 accuracy`; where the metric's name says what it is, that alone."""
    name = task.metrics[task.metric]
    return capital(name if task.quality in name else f"{name} {task.quality}")


def capital(text: str) -> str:
    """A text with its first letter a capital one."""
    return text[:1].upper() + text[1:]


def variants(facts: ReportFacts) -> Table | None:
    """Return a table of the bundle's variants: accuracy, fidelity to the trained model, size and speed."""
    if facts.bundle is None:
        return None
    fastest: dict[str, float] = {}
    for m in measured_here(facts):
        value = p50(m)
        if m.latency.batch == 1 and value is not None:
            fastest[m.latency.variant] = min(value, fastest.get(m.latency.variant, value))
    task = facts.bundle.task
    columns = [
        Column("Variant", number=False),
        Column("Status", number=False, title="verified: ran at export and lost no more than the allowed drop"),
        Column(capital(task.metrics[task.metric])),
        Column("Drop, points", title=f"{task.quality} of the trained model minus this variant's"),
        Column("Agreement", title="share of images on which the variant decides as the trained model does"),
        Column(
            f"Max |Δ {task.unit}|",
            title=f"largest difference of a {task.unit} to the trained model's, on the golden images",
        ),
        Column("SQNR, dB", title=f"signal to quantization noise of the {task.main}"),
        Column("Size"),
        Column("p50", title="median latency of one image, the fastest measurement"),
    ]
    manifest = facts.bundle.manifest
    rows = [_variant_row(v, fastest.get(v.id)) for v in manifest.variants]
    if manifest.accuracy is not None:
        blank = TableCell("–")
        trained = TableCell("Trained model", "", note="PyTorch, float: the reference for the variants")
        rows.insert(0, [trained, blank, _score(manifest.accuracy), blank, blank, blank, blank, blank, blank])
    return Table(f"{capital(task.quality)} by precision and runtime", columns, rows)


def _variant_row(v: Variant, latency: float | None) -> list[TableCell]:
    parity, none = v.parity, TableCell(show.NONE)
    what = f"{targets.title(v.runtime)}, {v.precision.upper()}"
    calibration = v.quantization.calibration if v.quantization is not None else None
    if calibration is not None and calibration.images is not None:
        what += f", calibrated on {counted(calibration.images, 'image')}"
    return [
        TableCell(v.id, v.id, note=f"{what}; {v.note}" if v.note else what),
        TableCell(v.status, v.status, badge=v.status, note="" if v.executed else "not run at export"),
        _score(v.accuracy),
        TableCell(_drop(v.drop), v.drop),
        _agreement(v),
        TableCell(show.difference(parity.max_abs_diff), parity.max_abs_diff) if parity else none,
        TableCell(show.significant(parity.sqnr_db), parity.sqnr_db) if parity and parity.sqnr_db is not None else none,
        TableCell(show.size(v.bytes), v.bytes),
        TableCell(show.milliseconds(latency), latency),
    ]


def _agreement(v: Variant) -> TableCell:
    """Return the agreement with the trained model on the evaluation set, otherwise on the golden images."""
    if v.accuracy is not None and v.accuracy.agreement is not None:
        return TableCell(
            show.percent(v.accuracy.agreement), v.accuracy.agreement, note=counted(v.accuracy.samples, "image")
        )
    if v.parity is not None:
        return TableCell(show.percent(v.parity.agreement), v.parity.agreement, note=f"{v.parity.samples} golden images")
    return TableCell(show.NONE)


def _score(accuracy: Accuracy | None) -> TableCell:
    if accuracy is None:
        return TableCell(show.NONE)
    return TableCell(show.percent(accuracy.value), accuracy.value, note=counted(accuracy.samples, "image"))


def _drop(drop: float | None) -> str:
    """Format a drop in points: `0.6` is worse than the trained model, `−0.3` is better."""
    return show.NONE if drop is None else show.hundredths(drop)
