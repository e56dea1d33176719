"""Charts of measurements over time: latency, clocks, temperature and power, with warnings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from edgekit.report.facts import LatencyFacts, ReportFacts
from edgekit.report.figures import ChartGroup
from edgekit.report.format import count, milliseconds, plain
from edgekit.report.headline import measured_everywhere
from edgekit.report.latency import setting
from edgekit.report.svg import PlotFrame, Scale, drawing, element, padded, path
from edgekit.result import Latency

_MOST = 8  # number of drawn measurements; the others are in the result files
_BINS = 120
_SENSORS = {
    "clock_mhz": "CPU clock, MHz", "gpu_clock_mhz": "GPU clock, MHz", "temperature_c": "temperature, °C", "power_w": "power, W",
}  # fmt: skip


def over_time(facts: ReportFacts) -> list[ChartGroup]:
    """Return one group of charts per measurement, those with warnings first."""
    every = sorted(measured_everywhere(facts), key=lambda m: -len(m.latency.warnings))
    return [_card(m, facts) for m in every if m.latency.samples_ns][:_MOST]


def _card(m: LatencyFacts, facts: ReportFacts) -> ChartGroup:
    latency = m.latency
    charts = [_latency(latency), *_sensors(latency)]
    note = f"{count(len(latency.samples_ns))} samples, {setting(m, facts)}"
    return ChartGroup(latency.variant, note, charts, latency.warnings)


def _starts(latency: Latency) -> tuple[np.ndarray, list[float]]:
    """Return when each sample ended, in seconds of measuring, and where the rounds (separate processes) begin; rounds are
    concatenated."""
    ends = np.cumsum(np.asarray(latency.samples_ns, dtype=np.float64)) / 1e9
    edges = np.cumsum(latency.rounds)[:-1]
    return ends, [0.0, *(float(ends[edge - 1]) for edge in edges if 0 < edge <= len(ends))]


def _latency(latency: Latency) -> Markup:
    seconds, rounds = _starts(latency)
    values = np.asarray(latency.samples_ns, dtype=np.float64) / 1e6
    edges = np.linspace(0, seconds[-1], min(_BINS, len(values)) + 1)
    owner = np.clip(np.searchsorted(edges, seconds, side="left") - 1, 0, len(edges) - 2)
    bins = [values[owner == i] for i in range(len(edges) - 1)]
    centers = (edges[1:] + edges[:-1]) / 2
    known = [(float(t), b) for t, b in zip(centers, bins, strict=True) if len(b)]
    frame = _frame(seconds[-1], padded([float(values.min()), float(values.max())], 0.06, log=True), log=True)
    upper = [(frame.x(t), frame.y(float(b.max()))) for t, b in known]
    lower = [(frame.x(t), frame.y(float(b.min()))) for t, b in reversed(known)]
    middle = [(frame.x(t), frame.y(float(np.median(b)))) for t, b in known]
    slowest = milliseconds(float(values.max()))
    parts = [
        frame.axes("seconds", "latency, ms", x_count=4, y_count=3),
        *(_round(frame, begin) for begin in rounds[1:]),
        element("g", path([*upper, *lower], "band"), path(middle, "line"), class_="s2"),
        element("text", f"slowest {slowest}", class_="note", x=246, y=20, text_anchor="end"),
    ]
    return drawing(252, 196, f"Latency over {plain(round(float(seconds[-1]), 1))} s: slowest {slowest}", *parts)


def _sensors(latency: Latency) -> list[Markup]:
    timeline = latency.timeline
    if timeline is None:
        return []
    _, rounds = _starts(latency)
    at = [rounds[min(r, len(rounds) - 1)] + s for r, s in zip(timeline.round, timeline.seconds, strict=True)]
    drawn = []
    for name, title in _SENSORS.items():
        values: Sequence[float | None] = getattr(timeline, name)
        known = [(t, v) for t, v in zip(at, values, strict=True) if v is not None]
        if len(known) < 2:
            continue
        frame = _frame(max(t for t, _ in known), padded([v for _, v in known], 0.2), log=False)
        hot = [
            (t, v)
            for (t, v), throttled in zip(zip(at, values, strict=True), timeline.throttled, strict=True)
            if throttled
        ]
        parts = [
            frame.axes("seconds", title, x_count=4, y_count=3),
            *(_round(frame, begin) for begin in rounds[1:]),
            element("g", path([(frame.x(t), frame.y(v)) for t, v in known], "line"), class_="s4"),
            *(
                element("circle", class_="throttled", cx=frame.x(t), cy=frame.y(v), r=3)
                for t, v in hot
                if v is not None
            ),
        ]
        if hot:
            parts.append(element("text", "throttled", class_="note", x=246, y=20, text_anchor="end"))
        drawn.append(drawing(252, 196, f"{title} over time, last {plain(round(known[-1][1], 2))}", *parts))
    return drawn


def _frame(seconds: float, heights: tuple[float, float], log: bool) -> PlotFrame:
    return PlotFrame(Scale(0.0, max(float(seconds), 1e-9), 44, 246), Scale(*heights, 152, 34, log=log))


def _round(frame: PlotFrame, begin: float) -> Markup:
    tip = element("title", "a new process begins")
    line = element("line", class_="reference", x1=frame.x(begin), x2=frame.x(begin), y1=frame.y.end, y2=frame.y.start)
    return element("g", tip, line)
