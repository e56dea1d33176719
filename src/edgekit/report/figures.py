"""Choose the numbers for each chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit import targets
from edgekit.report import charts, devices
from edgekit.report import format as show
from edgekit.report.facts import LatencyFacts, ReportFacts, Stage
from edgekit.report.headline import Headline, measured_everywhere, measured_here, p50
from edgekit.report.latency import setting
from edgekit.report.tables import MODELS, interval, metric_name, metric_title
from edgekit.text import counted

TITLES = {
    "pretrain": "Pretrain",
    "finetune": "Fine-tune",
    "distill": "Distill",
    "supervised": "Supervised from scratch",
    "anomaly": "Student of the detector",
}
_COLUMNS = {
    "loss": "loss",
    "lr": "learning rate",
    "collapse_std": "spread of the projections",
    "effective_rank": "effective rank of the features",
    "train_top1": "top-1 on the training batch",
    "agreement": "agreement with the teacher",
    "knn": "kNN on the test set",
    "linear": "linear probe on the test set",
}
_SHARES = {"train_top1", "agreement", "knn", "linear"}
_SERIES = 6  # as many colors as style.css has


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a chart's legend; `series` is a class of style.css."""

    label: str
    series: str
    note: str = ""


@dataclass(frozen=True)
class ReportFigure:
    """A chart with its legend and note."""

    svg: Markup
    keys: list[LegendEntry]
    note: str = ""


@dataclass(frozen=True)
class ChartGroup:
    """The small charts of one stage or measurement, with warnings."""

    title: str
    note: str
    charts: list[Markup]
    warnings: Sequence[str] = ()


def stages(facts: ReportFacts, top: Headline) -> ReportFigure | None:
    """Draw the models' accuracies in the order of training, the supervised student first."""
    if facts.evaluation is None:
        return None
    order = [
        ("supervised", facts.task.metric),
        ("encoder", "knn"),
        ("encoder", "linear"),
        ("teacher", facts.task.metric),
        ("student", facts.task.metric),
    ]
    scores = [s for pair in order for s in facts.evaluation.scores if (s.model, s.metric) == pair]
    if not scores:
        return None
    rows = []
    for s in scores:
        low, high = interval(facts.task, s) or (s.value, s.value)
        label = MODELS[s.model]
        if s.metric != facts.task.metric:
            label += f", {metric_title(facts.task, s.metric)}"
        note = {
            "supervised": "student's network, same labels",
            "encoder": "frozen features",
            "teacher": _how_taught(facts),
            "student": "distilled from the teacher",
        }[s.model]
        untrained = _random_knn(facts) if s.metric == "knn" else None
        if untrained is not None:
            note = f"random weights: {show.percent(untrained)}"
        if s.model == "encoder" and (taught := _taught_by(facts, s.metric)) is not None:
            note = f"{note}; its teacher: {show.percent(taught)}"
        rows.append(charts.AccuracyRow(label, note, f"m-{s.model}", s.value, low, high, untrained))
    gain_from = top.supervised.value if top.supervised and top.band else None
    return ReportFigure(charts.stages(rows, gain_from, MODELS["student"]), [])


def _how_taught(facts: ReportFacts) -> str:
    """Return what the teacher is: the fine-tuned network, or the linear probe that the fine-tuning stored in its place."""
    probe = "finetune" in facts.stages and facts.stages["finetune"].record.stored_probe
    return "linear probe on the frozen encoder" if probe else "encoder fine-tuned on few labels"


def _random_knn(facts: ReportFacts) -> float | None:
    """Return the encoder's kNN accuracy before its training, which the pretraining recorded."""
    value = facts.stages["pretrain"].record.metrics.get("knn_random_weights") if "pretrain" in facts.stages else None
    return float(value) if isinstance(value, (int, float)) else None


def _taught_by(facts: ReportFacts, metric: str) -> float | None:
    """Return the same score of the encoder that taught it (`pretrain.method: distill`), which the pretraining recorded."""
    teacher = facts.stages["pretrain"].record.metrics.get("teacher") if "pretrain" in facts.stages else None
    value = teacher.get(metric) if isinstance(teacher, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def tradeoff(facts: ReportFacts, top: Headline) -> ReportFigure | None:
    """Draw every measured variant whose accuracy is known, at batch 1."""
    accuracy = {v.id: v for v in facts.bundle.manifest.variants if v.accuracy} if facts.bundle else {}
    measured = [m for m in measured_here(facts) if m.latency.variant in accuracy and m.latency.batch == 1]
    marks = []
    settings = {(m.latency.threads, m.result.machine.cpu) for m in measured}
    for m in measured:
        variant, latency = accuracy[m.latency.variant], p50(m)
        if latency is None or variant.accuracy is None:
            continue
        label = f"{variant.id} ×{m.latency.threads}" if len(settings) > 1 and m.latency.threads else variant.id
        marks.append(
            charts.TradeoffPoint(
                label,
                latency,
                variant.accuracy.value,
                variant.runtime,
                variant.precision,
                variant.status == "rejected",
                m.latency.energy_joules_per_inference,
            )
        )
    if not marks:
        return None
    precisions = list(dict.fromkeys(m.precision for m in marks))
    keys = [LegendEntry(p.upper(), p) for p in precisions]
    used = list(dict.fromkeys(m.runtime for m in marks))
    if top.of_float is not None:
        keys.append(LegendEntry("trained model, float", "dashed", show.percent(top.of_float)))
    looks = [f"{targets.marker(r)}: {targets.title(r)}" for r in used] + (
        ["hollow: rejected"] if any(m.rejected for m in marks) else []
    )
    if len(charts.pareto(marks)) > 1:
        thrift = any(m.energy is not None for m in marks)
        better = "faster, more accurate and more economical" if thrift else "both more accurate and faster"
        looks.append(f"line: the Pareto front, where no other variant is {better}")
    note = ", ".join(looks)
    return ReportFigure(charts.tradeoff(marks, top.of_float, metric_name(facts.task)), keys, note)


def distribution(facts: ReportFacts) -> ReportFigure | None:
    """Draw the raw samples of every complete measurement."""
    measured = sorted(
        (m for m in measured_here(facts) if m.latency.samples_ns), key=lambda m: p50(m) or m.latency.mean_ms
    )[:_SERIES]
    if not measured:
        return None
    series = [
        charts.LatencySamples(m.latency.variant, i + 1, [ns / 1e6 for ns in m.latency.samples_ns])
        for i, m in enumerate(measured)
    ]
    settings = {(m.latency.threads, m.latency.batch, m.result.machine.cpu) for m in measured}
    keys = []
    for i, m in enumerate(measured):
        doubts = f"; ⚠ {m.latency.warnings[0].partition(':')[0]}" if m.latency.warnings else ""
        note = f"{show.count(len(m.latency.samples_ns))} samples{doubts}"
        keys.append(
            LegendEntry(m.latency.variant, f"s{i + 1}", f"{note}, {setting(m, facts)}" if len(settings) > 1 else note)
        )
    left_out = len(measured_here(facts)) - len(measured)
    return ReportFigure(charts.distribution(series), keys, f"{left_out} more in the table" if left_out > 0 else "")


def by_device(facts: ReportFacts) -> ReportFigure | None:
    """Draw every variant on every device, at batch 1; None with a single device."""
    measured = [m for m in measured_everywhere(facts) if m.latency.batch == 1 and p50(m) is not None]
    names = list(dict.fromkeys(_device(m) for m in measured))[:_SERIES]
    if len(names) < 2:
        return None
    rows: dict[str, list[devices.DevicePoint]] = {}
    for m in sorted(measured, key=lambda m: names.index(_device(m)) if _device(m) in names else _SERIES):
        middle = p50(m)
        if middle is not None and _device(m) in names:
            threads = f" ×{m.latency.threads}" if m.latency.threads else ""
            spot = devices.DevicePoint(
                _device(m), names.index(_device(m)) + 1, middle, m.latency.percentiles_ms.get("p90")
            )
            rows.setdefault(f"{m.latency.variant}{threads}", []).append(spot)
    keys = [
        LegendEntry(name, f"s{i + 1}", next(m.result.machine.cpu for m in measured if _device(m) == name))
        for i, name in enumerate(names)
    ]
    return ReportFigure(devices.devices([devices.DeviceRow(label, spots) for label, spots in rows.items()]), keys)


def _device(m: LatencyFacts) -> str:
    return m.device or "this machine"


def curves(facts: ReportFacts) -> list[ChartGroup]:
    """Draw the values that each stage logged, one chart per column."""
    return [_curves(stage) for name in TITLES if (stage := facts.stages.get(name)) and stage.history]


def _curves(stage: Stage) -> ChartGroup:
    history = stage.history
    assert history is not None
    order = [*(c for c in _COLUMNS if c in history.columns), *(c for c in history.columns if c not in _COLUMNS)]
    drawn = []
    for name in order:
        reference = (1.0, "uniform on the sphere") if name == "collapse_std" else None
        label = _COLUMNS.get(name, name.replace("_", " "))
        drawn.append(
            charts.curve(
                label, history.epochs, history.columns[name], f"stage-{stage.name}", reference, name in _SHARES
            )
        )
    note = f"{counted(len(history.epochs), 'epoch')} in {show.duration(stage.record.seconds)}"
    return ChartGroup(TITLES[stage.name], note, drawn)
