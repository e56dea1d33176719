"""Charts of an ablation: a heat map over two keys, and lines over one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.format import hundredths, percent
from edgekit.report.svg import PlotFrame, Scale, drawing, element, padded, path, text_width

_ON_DARK = 0.8  # from this share of the scale on, numbers have the light color


@dataclass(frozen=True)
class HeatMap:
    """The numbers of a heat map.

    Args:
        rows: labels of the rows.
        columns: labels of the columns.
        row_title: what the rows are.
        column_title: what the columns are.
        values: shares, one list per row; None if there is no value.
        average: whether a last column shows the mean of each complete row.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    row_title: str
    column_title: str
    values: Sequence[Sequence[float | None]]
    average: bool = False


def heat(grid: HeatMap) -> Markup:
    """Draw shares as cells, higher ones darker; the scale runs from the lowest to the highest share."""
    known = [v for row in grid.values for v in row if v is not None]
    alt_text = f"Heat map of {len(known)} accuracies, {percent(min(known))} to {percent(max(known))}"
    return both(lambda size: _heat(grid, size, min(known), max(known), alt_text))


def _heat(grid: HeatMap, size: Size, low: float, high: float, alt_text: str) -> Markup:
    narrow, width = size == "narrow", WIDTH[size]
    count = len(grid.columns) + (1.25 if grid.average else 0)
    left = min(max(text_width(label) for label in grid.rows) + 14, width / 3)
    cell = min((width - left) / count, 100)
    height = min(cell, 36 if narrow else 46)
    longest = max(text_width(label) for label in (*grid.columns, *(["average"] if grid.average else [])))
    steep = longest > cell - 4
    top = 36 + (longest * 0.72 if steep else 6)  # the names end below the words at the top
    parts = [
        element("text", f"{grid.row_title} ↓", class_="label", x=0, y=top - 8),
        element("text", f"{grid.column_title} →", class_="label", x=left, y=12),
    ]
    columns = [(left + i * cell, label) for i, label in enumerate(grid.columns)]
    if grid.average:
        columns.append((left + (len(grid.columns) + 0.25) * cell, "average"))
    for x, label in columns:
        at = (x + cell / 2, top - 8)
        turn = f"rotate(-45 {at[0] - 4:.1f} {at[1]:.1f})" if steep else None
        anchor = "start" if steep else "middle"
        parts.append(
            element(
                "text",
                label,
                class_="name small",
                x=at[0] - (4 if steep else 0),
                y=at[1],
                text_anchor=anchor,
                transform=turn,
            )
        )
    for i, (label, row) in enumerate(zip(grid.rows, grid.values, strict=True)):
        y = top + i * height
        parts.append(element("text", label, class_="name small", x=left - 8, y=y + height / 2 + 4, text_anchor="end"))
        cells = [*row]
        if grid.average:
            full = [v for v in row if v is not None]
            cells.append(sum(full) / len(full) if len(full) == len(row) else None)
        for (x, column), value in zip(columns, cells, strict=True):
            parts.append(_cell(x, y, cell, height, value, low, high, f"{label}, {column}", narrow))
    return drawing(width, top + len(grid.rows) * height + 6, alt_text, *parts, class_=size)


def _cell(
    x: float,
    y: float,
    width: float,
    height: float,
    value: float | None,
    low: float,
    high: float,
    name: str,
    narrow: bool,
) -> Markup:
    box = {"x": x + 1, "y": y + 1, "width": width - 2, "height": height - 2, "rx": 4}
    middle = {"x": x + width / 2, "y": y + height / 2 + 4.5, "text_anchor": "middle"}
    if value is None:
        tip = element("title", f"{name}: not measured")
        return element(
            "g", tip, element("rect", class_="heat none", **box), element("text", "–", class_="tick", **middle)
        )
    share = (value - low) / (high - low) if high > low else 0.5
    number = hundredths(value, 0 if narrow and width < 30 else 1)
    look = "heattext dark" if share >= _ON_DARK else "heattext"
    return element(
        "g",
        element("title", f"{name}: {percent(value)}"),
        element("rect", class_="heat", style=f"--share:{share:.3f}", **box),
        element("text", number, class_=look, **middle),
    )


@dataclass(frozen=True)
class GridLine:
    """One metric over the values (None if it is missing); `series` is a number of a class of style.css."""

    label: str
    series: int
    values: Sequence[float | None]


@dataclass(frozen=True)
class _FixedTicks(Scale):
    """A scale with ticks at given values."""

    marks: tuple[float, ...] = ()

    def ticks(self, count: int = 5) -> list[float]:
        return list(self.marks)


def lines(values: Sequence[str], x_title: str, series: Sequence[GridLine]) -> Markup:
    """Draw shares over the values of one key: on a numeric axis if the values are numbers, otherwise side by side."""
    alt_text = "; ".join(f"{s.label}: " + ", ".join(percent(v) for v in s.values) for s in series)
    return both(lambda size: _lines(values, x_title, series, size, f"Accuracy over {x_title}: {alt_text}"))


def _lines(values: Sequence[str], x_title: str, series: Sequence[GridLine], size: Size, alt_text: str) -> Markup:
    width, height = WIDTH[size], 360 if size == "wide" else 300
    left, right, top, bottom = 56.0, width - 24.0, 34.0, height - 46.0
    places, log = _places(values)
    low, high = padded(places, 0.06, log=log)
    x = _FixedTicks(low, high, left, right, log=log, marks=tuple(places))
    bottom_share, top_share = padded([v for s in series for v in s.values if v is not None], 0.12)
    frame = PlotFrame(x, Scale(max(0.0, bottom_share), min(1.0, top_share), bottom, top))
    labels = dict(zip(places, values, strict=True))
    scale = " (log scale)" if log else ""
    parts = [frame.axes(f"{x_title}{scale}", "accuracy", lambda v: labels[v], lambda v: percent(v, 0), y_count=5)]
    for s in series:
        spots = [(frame.x(p), frame.y(v)) for p, v in zip(places, s.values, strict=True) if v is not None]
        marks = [
            element("g", element("title", f"{s.label}, {x_title} {value}: {percent(v)}"),
                    element("circle", class_="dot", cx=frame.x(p), cy=frame.y(v), r=5))
            for p, value, v in zip(places, values, s.values, strict=True) if v is not None
        ]  # fmt: skip
        parts.append(
            element("g", path(spots, "line") if len(spots) > 1 else None, *marks, class_=f"series s{s.series}")
        )
    return drawing(width, height, alt_text, *parts, class_=size)


def _places(values: Sequence[str]) -> tuple[list[float], bool]:
    """Return the values' places, and whether the axis is logarithmic (from a factor of 8 on)."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        return [float(i) for i in range(len(values))], False
    return numbers, min(numbers) > 0 and max(numbers) / min(numbers) >= 8
