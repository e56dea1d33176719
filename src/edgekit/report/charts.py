"""The report's charts. Where width matters, each is drawn twice: wide for a screen or paper, narrow for a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from edgekit import targets
from edgekit.report.format import milliseconds, percent, plain, points
from edgekit.report.labels import place
from edgekit.report.svg import PlotFrame, Scale, drawing, element, padded, path
from edgekit.shares import difference
from edgekit.text import counted

Size = Literal["wide", "narrow"]
WIDTH = {"wide": 880, "narrow": 360}


def both(draw: Callable[[Size], Markup]) -> Markup:
    """Return the wide and the narrow drawing; style.css shows one of them."""
    return draw("wide") + draw("narrow")


@dataclass(frozen=True)
class AccuracyRow:
    """One model's accuracy with its 95 % interval; `kind` is a class of style.css."""

    label: str
    note: str
    kind: str
    value: float
    low: float
    high: float
    untrained: float | None = None  # the accuracy before any training, drawn as a mark


def stages(rows: Sequence[AccuracyRow], gain_from: float | None, gain_to: str) -> Markup:
    """Draw the accuracy of each stage as a dot with its interval, and the gain from unlabeled images on the row `gain_to`.

    Args:
        rows: in the order of the drawing.
        gain_from: accuracy of the supervised student, or None if it was not measured.
        gain_to: the label of the row with the gain.
    """
    alt_text = "; ".join(f"{r.label} {percent(r.value)}" for r in rows)
    return both(lambda size: _stages(rows, gain_from, gain_to, size, f"Accuracy by stage: {alt_text}"))


def _stages(rows: Sequence[AccuracyRow], gain_from: float | None, gain_to: str, size: Size, alt_text: str) -> Markup:
    width, narrow = WIDTH[size], size == "narrow"
    step = 58 if narrow else 46
    left, right, top = (4, width - 6, 10) if narrow else (226, width - 74, 10)
    bottom = top + step * len(rows)
    shown = [v for r in rows for v in (r.low, r.untrained) if v is not None]
    low = min([*shown, gain_from] if gain_from is not None else shown)
    floor = max(0.0, int(low * 20 - 0.2) / 20)
    x = Scale(floor, 1.0, left, right)
    parts: list[Markup] = []
    for tick in x.ticks(4 if narrow else 8):
        # On a phone the names are above the lines: the grid is a short mark on each line.
        marks = [(top + step * i + 34, top + step * i + 46) for i in range(len(rows))] if narrow else [(top, bottom)]
        parts += [element("line", class_="grid", x1=x(tick), x2=x(tick), y1=a, y2=b) for a, b in marks]
        anchor = "end" if tick >= 0.999 and narrow else "start" if x(tick) < 12 else "middle"
        label = element("text", percent(tick, 0), class_="tick", x=x(tick), y=bottom + 18, text_anchor=anchor)
        parts.append(label)
    for i, row in enumerate(rows):
        y = top + step * i + (40 if narrow else step / 2)
        if narrow:
            parts.append(element("text", row.label, class_="name", x=left, y=y - 17))
            parts.append(element("text", percent(row.value), class_="value", x=right, y=y - 17, text_anchor="end"))
        else:
            parts.append(element("text", row.label, class_="name", x=0, y=y - 1))
            parts.append(element("text", row.note, class_="note", x=0, y=y + 14))
            parts.append(element("text", percent(row.value), class_="value", x=width, y=y + 5, text_anchor="end"))
        parts.append(element("line", class_="track", x1=left, x2=right, y1=y, y2=y))
        if gain_from is not None and row.label == gain_to:
            # On a phone the name and the value are above the line, so that the difference is below it.
            parts.append(_gain(x, y, gain_from, row.value, text_y=y + 22 if narrow else y - 10))
        if row.untrained is not None:
            tip = element("title", f"random weights: {percent(row.untrained)}")
            stroke = element("line", class_="untrained", x1=x(row.untrained), x2=x(row.untrained), y1=y - 8, y2=y + 8)
            parts.append(element("g", tip, stroke))
        tip = element(
            "title", f"{row.label}: {percent(row.value)}, 95 % interval {percent(row.low)} to {percent(row.high)}"
        )
        parts.append(
            element(
                "g",
                tip,
                element("line", class_="whisker", x1=x(row.low), x2=x(row.high), y1=y, y2=y),
                element("circle", class_="dot", cx=x(row.value), cy=y, r=6.5),
                class_=row.kind,
            )
        )
    return drawing(width, bottom + 26, alt_text, *parts, class_=size)


def _gain(x: Scale, y: float, start: float, end: float, text_y: float) -> Markup:
    """Draw a band from the supervised accuracy to the student's, with the difference at `text_y` if it fits."""
    left, right = sorted((x(start), x(end)))
    band = element("rect", class_="gain", x=left, y=y - 5, width=max(right - left, 1.0), height=10, rx=2)
    mark = element("line", class_="gainmark", x1=x(start), x2=x(start), y1=y - 11, y2=y + 11)
    text = None
    if right - left > 70:
        text = element(
            "text", f"{points(difference(end, start))} points", class_="gaintext", x=(left + right) / 2, y=text_y, text_anchor="middle"
        )  # fmt: skip
    return element("g", band, mark, text)


@dataclass(frozen=True)
class TradeoffPoint:
    """One measured variant: median latency in ms, accuracy by the task's metric as a share, energy per image in J if measured; the other fields
    set its appearance."""

    label: str
    latency: float
    accuracy: float
    runtime: str
    precision: str
    rejected: bool
    energy: float | None = None


def pareto(marks: Sequence[TradeoffPoint]) -> list[TradeoffPoint]:
    """Return the Pareto front, from the fastest on: the points for which no other is at least as fast, as accurate and (if both
    were measured) as economical, and better in one of these. Rejected variants are ignored."""

    def dominates(a: TradeoffPoint, b: TradeoffPoint) -> bool:
        pairs = [(-a.latency, -b.latency), (a.accuracy, b.accuracy)]
        if a.energy is not None and b.energy is not None:
            pairs.append((-a.energy, -b.energy))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    accepted = [mark for mark in marks if not mark.rejected]
    return sorted((m for m in accepted if not any(dominates(other, m) for other in accepted)), key=lambda m: m.latency)


def tradeoff(marks: Sequence[TradeoffPoint], reference: float | None, metric: str = "Top-1 accuracy") -> Markup:
    """Draw accuracy over latency (logarithmic); up and to the left is better. `reference` is the trained model's accuracy, by `metric`."""
    points = "; ".join(f"{p.label} {percent(p.accuracy)} at {milliseconds(p.latency)}" for p in marks)
    return both(lambda size: _tradeoff(marks, reference, size, metric, f"{metric} over latency: {points}"))


def _tradeoff(
    marks: Sequence[TradeoffPoint], reference: float | None, size: Size, metric: str, alt_text: str
) -> Markup:
    width, height = WIDTH[size], 380 if size == "wide" else 330
    left, right, top, bottom = 56.0, width - 16.0, 34.0, height - 46.0
    low, high = padded([p.latency for p in marks], 0.16, log=True)
    accuracies = [p.accuracy for p in marks] + ([reference] if reference is not None else [])
    middle = (min(accuracies) + max(accuracies)) / 2
    half = max(
        (max(accuracies) - min(accuracies)) * 0.75, 0.015
    )  # at least three points, so that noise does not look large
    frame = PlotFrame(Scale(low, high, left, right, log=True), Scale(middle - half, middle + half, bottom, top))
    parts = [frame.axes("median latency, ms (log scale)", f"{metric[:1].lower()}{metric[1:]}", y_format=percent)]
    spots = [(frame.x(p.latency), frame.y(p.accuracy)) for p in marks]
    level = frame.y(reference) if reference is not None else None
    if level is not None:
        parts.append(element("line", class_="reference", x1=left, x2=right, y1=level, y2=level))
    front = [(frame.x(p.latency), frame.y(p.accuracy)) for p in pareto(marks)]
    if len(front) > 1:
        parts.append(path(front, "front"))
    names = place([mark.label for mark in marks], spots, (left, top - 5, right, bottom), front, level)
    for mark, (x, y), name in zip(marks, spots, names, strict=True):
        joules = f", {mark.energy * 1e3:.3g} mJ per image" if mark.energy is not None else ""
        tip = element("title", f"{mark.label}: {percent(mark.accuracy)}, {milliseconds(mark.latency)}{joules}")
        parts.append(
            element(
                "g",
                tip,
                _shape(targets.marker(mark.runtime), x, y),
                name,
                class_=f"{mark.precision}{' rejected' if mark.rejected else ''}",
            )
        )
    return drawing(width, height, alt_text, *parts, class_=size)


# Corners of a mark around its middle, y downwards; `targets.MARKERS` names them.
_CORNERS = {
    "diamond": ((0, -9), (9, 0), (0, 9), (-9, 0)),
    "triangle": ((0, -8.5), (8, 6), (-8, 6)),
    "pentagon": ((0, -8.5), (8.1, -2.6), (5, 6.9), (-5, 6.9), (-8.1, -2.6)),
    "star": ((0, -9), (2.4, -2.4), (9, 0), (2.4, 2.4), (0, 9), (-2.4, 2.4), (-9, 0), (-2.4, -2.4)),
    "hexagon": ((-4, -7), (4, -7), (8, 0), (4, 7), (-4, 7), (-8, 0)),
}


def _shape(marker: str, x: float, y: float) -> Markup:
    if marker == "circle":
        return element("circle", class_="dot", cx=x, cy=y, r=7)
    if marker == "square":
        return element("rect", class_="dot", x=x - 6.5, y=y - 6.5, width=13, height=13, rx=1.5)
    corners = " L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in _CORNERS[marker])
    return element("path", class_="dot", d=f"M{corners} Z")


@dataclass(frozen=True)
class LatencySamples:
    """The raw latencies of one measurement, in ms."""

    label: str
    series: int
    values: list[float]


def distribution(measurements: Sequence[LatencySamples]) -> Markup:
    """Draw the share of runs that end within a time: every raw sample counts, including the slowest."""
    alt_text = "; ".join(f"{m.label}: {len(m.values)} samples" for m in measurements)
    return both(lambda size: _distribution(measurements, size, f"Distribution of latency: {alt_text}"))


def _distribution(measurements: Sequence[LatencySamples], size: Size, alt_text: str) -> Markup:
    width, height = WIDTH[size], 360 if size == "wide" else 300
    left, right, top, bottom = 56, width - 16, 34, height - 46
    low, high = padded([v for m in measurements for v in (min(m.values), max(m.values))], 0.03, log=True)
    frame = PlotFrame(Scale(low, high, left, right, log=True), Scale(0.0, 1.0, bottom, top))
    parts = [frame.axes("latency of one run, ms (log scale)", "share of runs done", plain, lambda v: percent(v, 0))]
    for m in measurements:
        steps = [(frame.x(value), frame.y(share)) for value, share in _quantiles(m.values)]
        line = path([(steps[0][0], bottom), *steps], "line")
        parts.append(element("g", element("title", m.label), line, class_=f"series s{m.series}"))
    return drawing(width, height, alt_text, *parts, class_=size)


def _quantiles(values: Sequence[float], count: int = 120) -> list[tuple[float, float]]:
    """Return (value, share of values not larger) at `count` even shares and in the tail, from the first to the last."""
    ordered = sorted(values)
    n = len(ordered)
    shares = {i / count for i in range(1, count + 1)} | {0.995, 0.997, 0.999, 0.9995, 0.9999}
    ranks = sorted({min(n - 1, max(0, round(share * n) - 1)) for share in shares} | {0, n - 1})
    return [(ordered[rank], (rank + 1) / n) for rank in ranks]


def curve(
    title: str,
    epochs: Sequence[float],
    values: Sequence[float | None],
    kind: str,
    reference: tuple[float, str] | None = None,
    share: bool = False,
) -> Markup:
    """Draw one logged value over the epochs, small; `reference` is a level for comparison and its name; a `share` is shown in percent."""
    known = [(e, v) for e, v in zip(epochs, values, strict=True) if v is not None]
    width, height, left, right, top, bottom = 252, 196, 44, 246, 34, 152
    heights = [v for _, v in known] + ([reference[0]] if reference else [])
    low, high = padded(heights)
    if min(heights) >= 0:
        low = max(low, 0.0) if min(heights) > 0.15 * max(heights) else 0.0
    x_low, x_high = known[0][0], known[-1][0]
    frame = PlotFrame(Scale(x_low, max(x_high, x_low + 1e-9), left, right), Scale(low, high or 1.0, bottom, top))
    last = known[-1]
    y_format = (lambda v: percent(v, 0)) if share else plain
    final = percent(last[1]) if share else plain(float(f"{last[1]:.3g}"))
    parts = [frame.axes("epoch", title, y_format=y_format, x_count=4, y_count=3)]
    if reference:
        y = frame.y(reference[0])
        parts.append(element("line", class_="reference", x1=left, x2=right, y1=y, y2=y))
        parts.append(element("text", reference[1], class_="note", x=right, y=y - 6, text_anchor="end"))
    parts.append(
        element(
            "g",
            path([(frame.x(e), frame.y(v)) for e, v in known], "line"),
            element("circle", class_="dot", cx=frame.x(last[0]), cy=frame.y(last[1]), r=4),
            class_=kind,
        )
    )
    parts.append(element("text", final, class_="value small", x=right, y=top - 14, text_anchor="end"))
    return drawing(width, height, f"{title} over {counted(len(known), 'epoch')}, last {final}", *parts)
