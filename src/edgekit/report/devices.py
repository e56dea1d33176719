"""The chart that compares devices: median latency and p90, one row per variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.format import milliseconds
from edgekit.report.svg import Scale, drawing, element, padded


@dataclass(frozen=True)
class DevicePoint:
    """One measurement: p50 and p90 in ms (p90 may be unknown); `series` selects the device's color."""

    device: str
    series: int
    p50: float
    p90: float | None


@dataclass(frozen=True)
class DeviceRow:
    """A variant and its measurements."""

    label: str
    spots: list[DevicePoint]


def devices(rows: Sequence[DeviceRow]) -> Markup:
    """Draw one row per variant, and on it a dot per device at p50 with a line to p90; logarithmic, left is faster."""
    alt_text = "; ".join(f"{row.label} {spot.device} {milliseconds(spot.p50)}" for row in rows for spot in row.spots)
    return both(lambda size: _devices(rows, size, f"Latency by device: {alt_text}"))


def _devices(rows: Sequence[DeviceRow], size: Size, alt_text: str) -> Markup:
    width, narrow = WIDTH[size], size == "narrow"
    left, right, top = (8.0, width - 12.0, 8.0) if narrow else (190.0, width - 24.0, 8.0)
    heights = [18 * len(row.spots) + (34 if narrow else 18) for row in rows]
    bottom = top + sum(heights)
    low, high = padded([v for row in rows for s in row.spots for v in (s.p50, s.p90 or s.p50)], 0.08, log=True)
    x = Scale(low, high, left, right, log=True)
    parts: list[Markup] = []
    for tick in x.ticks(4 if narrow else 7):
        parts.append(element("line", class_="grid", x1=x(tick), x2=x(tick), y1=top, y2=bottom))
        parts.append(element("text", f"{tick:g}", class_="tick", x=x(tick), y=bottom + 18, text_anchor="middle"))
    parts.append(
        element(
            "text",
            "p50, line to p90, ms (log scale)",
            class_="label",
            x=(left + right) / 2,
            y=bottom + 38,
            text_anchor="middle",
        )
    )
    y = top
    for row, height in zip(rows, heights, strict=True):
        head = 20.0 if narrow else 0.0
        parts.append(
            element(
                "text",
                row.label,
                class_="name",
                x=0.0 if not narrow else left,
                y=y + (15 if narrow else height / 2 + 5),
            )
        )
        for i, spot in enumerate(row.spots):
            at = y + head + (height - head) / 2 + 18 * (i - (len(row.spots) - 1) / 2)
            tip = element(
                "title", f"{row.label}, {spot.device}: p50 {milliseconds(spot.p50)}, p90 {milliseconds(spot.p90)}"
            )
            line = None
            if spot.p90 is not None:
                line = element("line", class_="whisker", x1=x(spot.p50), x2=x(spot.p90), y1=at, y2=at)
            parts.append(
                element(
                    "g",
                    tip,
                    line,
                    element("circle", class_="dot", cx=x(spot.p50), cy=at, r=6),
                    class_=f"s{spot.series}",
                )
            )
        y += height
        parts.append(element("line", class_="grid faint", x1=0.0, x2=right, y1=y, y2=y))
    return drawing(width, bottom + 46, alt_text, *parts, class_=size)
