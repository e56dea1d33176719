"""The report's section on INT8: the strategy in words, every attempt, and the sensitivity of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.bundle import Speed, Variant
from edgekit.quantization import (
    CALIBRATION,
    DISTILLATION,
    EQUALIZATION,
    FLOAT_LAYERS,
    UNSIGNED_WEIGHTS,
    Attempt,
    LayerSensitivityRecord,
    Quantization,
    Strategy,
    UnlabeledComparison,
)
from edgekit.report import format as show
from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.facts import ReportFacts
from edgekit.report.svg import Scale, drawing, element
from edgekit.report.tables import Column, Table, TableCell

_WORDS: dict[Strategy | None, str] = {
    CALIBRATION: "Calibration was enough to keep the accuracy",
    EQUALIZATION: "Calibration alone lost too much accuracy. Rescaling channels between layers, which changes nothing in float, or "
    "correcting biases kept the accuracy",
    FLOAT_LAYERS: "Some layers stay in float, as few as possible, to keep the accuracy",
    DISTILLATION: "The weights were adapted to quantization on unlabeled images and quantized again",
    UNSIGNED_WEIGHTS: "Unsigned weights, which saturate on no CPU but are hardly faster than float on this kind",
    None: "No strategy kept the accuracy; this is the file closest to the trained model",
}
_SHOWN = 14  # layers in the plot; the table has all


@dataclass(frozen=True)
class AccuracySearchSection:
    """The accuracy search of one INT8 variant.

    Attributes:
        variant: id of the variant.
        words: the strategy that was used, and the variant's speed, in a sentence or two.
        tried: table of every attempt.
        layers: table of the sensitivity of each layer; None if it was not measured.
        plot: plot of the sensitivity; None if it was not measured.
    """

    variant: str
    words: str
    tried: Table
    layers: Table | None
    plot: Markup | None


def accuracy_searches(facts: ReportFacts) -> list[AccuracySearchSection]:
    """The sections on all INT8 variants of the bundle that the accuracy search made."""
    variants = facts.bundle.manifest.variants if facts.bundle is not None else []
    return [_section(v, v.quantization) for v in variants if v.quantization is not None and v.quantization.tried]


def _section(variant: Variant, quantization: Quantization) -> AccuracySearchSection:
    layers, in_float = quantization.sensitivity, set(quantization.kept_in_float)
    words = f"{_WORDS[quantization.strategy]}: {quantization.configuration}."
    if variant.speed is not None:
        words += f" {_speed(variant.speed)}"
    return AccuracySearchSection(
        variant.id,
        words,
        _tried(variant.id, quantization.tried),
        _table(variant.id, layers, in_float) if layers else None,
        sensitivity(layers, in_float) if layers else None,
    )


def _speed(speed: Speed) -> str:
    verdict = {
        "faster": "",
        "slower": ", that is, slower",
        "undecided": ", which is not clearly faster: float stays the default",
    }[speed.outcome]
    between = f" ({speed.low:.2f} to {speed.high:.2f})" if speed.low and speed.high else ""
    times = f"{show.milliseconds(speed.p50_ms)} against {show.milliseconds(speed.float_p50_ms)}"
    of_what = " of CPU time on one thread" if speed.clock == "cpu" else ""
    return (
        f"At export it ran at {speed.ratio:.2f}{between} times the speed of float in the same runtime{verdict}: {times}{of_what} "
        f"for a batch of {speed.batch}, {speed.cpu}."
    )


def _tried(variant: str, entries: Sequence[Attempt]) -> Table:
    columns = [
        Column("Strategy", number=False),
        Column("Configuration", number=False, long=True),
        Column(
            "Agreement",
            title="with the float model on unlabeled images; it chooses between the candidates of a strategy",
        ),
        Column("SQNR, dB", title="of the main output on the same images"),
        Column("Drop, points", title="of accuracy on the evaluation set; it decides whether a candidate passes"),
        Column("Outcome", number=False),
        Column("Seconds"),
    ]
    rows = []
    for i, entry in enumerate(entries):
        found = entry.unlabeled or UnlabeledComparison()
        agreement, sqnr, drop = found.agreement, found.sqnr_db, entry.drop
        badge = entry.status if entry.status in {"verified", "rejected"} else ""
        rows.append(
            [
                TableCell(entry.strategy or "", i),
                TableCell(entry.configuration, note=entry.why),
                TableCell(show.percent(agreement), agreement),
                TableCell(show.NONE if sqnr is None else show.significant(sqnr), sqnr),
                TableCell(show.NONE if drop is None else show.hundredths(drop, 2), drop),
                TableCell(entry.status, entry.status, badge=badge),
                TableCell(show.significant(entry.seconds), entry.seconds),
            ]
        )
    return Table(f"Attempts of the accuracy search for {variant}", columns, rows, tall=len(rows) > 16)


def _table(variant: str, layers: Sequence[LayerSensitivityRecord], in_float: set[str]) -> Table:
    columns = [
        Column("Layer", number=False),
        Column("Operator", number=False),
        Column(
            "Gain, dB",
            title="SQNR of the main output with this layer alone in float, over that with all layers quantized",
        ),
        Column("SQNR, dB"),
        Column("Agreement", title="with the float model, with this layer alone in float"),
        Column("Ships as", number=False),
    ]
    rows = [
        [
            TableCell(name, s.layer.lower(), title=s.layer),
            TableCell(s.operator),
            TableCell(f"{s.gain_db:+.2f}".replace("-", show.MINUS), s.gain_db),
            TableCell(show.NONE if s.sqnr_db is None else show.significant(s.sqnr_db), s.sqnr_db),
            TableCell(show.percent(s.agreement), s.agreement),
            TableCell("float" if s.layer in in_float else "INT8"),
        ]
        for name, s in zip(_labels(layers), layers, strict=True)
    ]
    return Table(f"Sensitivity of the layers of {variant}", columns, rows, tall=len(rows) > 16)


def sensitivity(layers: Sequence[LayerSensitivityRecord], in_float: set[str]) -> Markup:
    """A line per layer, the most sensitive first: what the main output gains, in dB, when it alone stays in float."""
    top = list(layers)[:_SHOWN]
    alt_text = "; ".join(f"{name} {s.gain_db:+.1f} dB" for name, s in zip(_labels(top), top, strict=True))
    return both(lambda size: _sensitivity(top, in_float, size, f"Sensitivity by layer: {alt_text}"))


def _sensitivity(layers: Sequence[LayerSensitivityRecord], in_float: set[str], size: Size, alt_text: str) -> Markup:
    width, narrow = WIDTH[size], size == "narrow"
    step = 44 if narrow else 26
    left, right, top = (4, width - 62, 10) if narrow else (272, width - 74, 10)
    bottom = top + step * len(layers)
    gains = [s.gain_db for s in layers]
    x = Scale(min(0.0, *gains) - 0.05, max(0.5, *gains), left, right)
    parts: list[Markup] = []
    for tick in x.ticks(4 if narrow else 7):
        parts.append(element("line", class_="grid", x1=x(tick), x2=x(tick), y1=top, y2=bottom))
        parts.append(element("text", f"{tick:g}", class_="tick", x=x(tick), y=bottom + 18, text_anchor="middle"))
    for i, (layer, gain, name) in enumerate(zip(layers, gains, _labels(layers), strict=True)):
        y = top + step * i + (step - 12 if narrow else step / 2)
        kept = layer.layer in in_float
        parts.append(element("text", name, class_="name small", x=0, y=y - 10 if narrow else y + 4))
        value = f"{gain:+.1f}".replace("-", show.MINUS)
        parts.append(element("text", value, class_="value small", x=width, y=y + 4, text_anchor="end"))
        tip = element("title", f"{layer.layer}: {gain:+.2f} dB{', ships in float' if kept else ''}")
        line = element("line", class_="whisker", x1=x(0), x2=x(gain), y1=y, y2=y)
        mark = element("circle", class_="dot", cx=x(gain), cy=y, r=5.5 if kept else 4.0)
        parts.append(element("g", tip, line, mark, class_="fp32" if kept else "int8"))
    label = element("text", "dB", class_="label", x=right, y=bottom + 36, text_anchor="end")
    return drawing(width, bottom + 42, alt_text, *parts, label, class_=size)


def _labels(layers: Sequence[LayerSensitivityRecord], most: int = 34) -> list[str]:
    """The paths of nodes without their common beginning and without the operator at the end."""
    paths = [s.layer.strip("/").split("/") for s in layers]
    shared = 0
    while len(paths) > 1 and all(len(p) > shared + 2 and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    names = ["/".join(p[shared:-1] if len(p) > shared + 1 else p[shared:]) for p in paths]
    return [name if len(name) <= most else f"…{name[1 - most :]}" for name in names]
