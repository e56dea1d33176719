"""Build SVG: elements, scales, ticks and axes. Colors come from classes of style.css, which follow the theme."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgekit.report.format import plain


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element with escaped content; `class_` becomes class, `text_anchor` becomes text-anchor, None is left out."""
    parts = [
        f' {key.rstrip("_").replace("_", "-") if key != "viewBox" else key}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = Markup("").join(escape(child) for child in children if child is not None)
    return Markup(f"<{name}{''.join(parts)}>{inside}</{name}>")


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """A map from data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(max(value, 1e-300)) if self.log else value
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the scale; on a wide logarithmic scale, 1-2-5 or powers of ten."""
        if self.log and self.high / self.low > 4:
            return log_ticks(self.low, self.high, count)
        return nice_ticks(self.low, self.high, count)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` multiples of 1, 2, 2.5 or 5 times a power of ten between two values."""
    if high <= low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between two values, or only the powers if these are too many."""
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [float(f"{d}e{p}") for p in powers for d in digits if low <= float(f"{d}e{p}") <= high]
        if len(found) <= count + 2:
            break
    return found


def padded(values: Sequence[float], share: float = 0.06, log: bool = False) -> tuple[float, float]:
    """Return the range of values with a margin at both ends; never empty."""
    low, high = min(values), max(values)
    if log:
        low, high = max(low, 1e-9), max(high, 1e-9)
        margin = max((high / low) ** share, 1.05)
        return low / margin, high * margin
    margin = (high - low) * share or abs(high) * share or 1.0
    return low - margin, high + margin


@dataclass(frozen=True)
class PlotFrame:
    """The plotting area of a chart with its two scales."""

    x: Scale
    y: Scale

    def axes(
        self,
        x_label: str,
        y_label: str,
        x_format: Callable[[float], str] = plain,
        y_format: Callable[[float], str] = plain,
        x_count: int = 5,
        y_count: int = 4,
    ) -> Markup:
        """Draw grid, ticks and labels; the y label is horizontal, above the axis."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = []
        for tick in self.y.ticks(y_count):
            y = self.y(tick)
            parts.append(element("line", class_="grid", x1=left, x2=right, y1=y, y2=y))
            parts.append(element("text", y_format(tick), class_="tick", x=left - 8, y=y + 4, text_anchor="end"))
        for tick in self.x.ticks(x_count):
            x = self.x(tick)
            parts.append(element("line", class_="grid faint", x1=x, x2=x, y1=top, y2=bottom))
            parts.append(element("text", x_format(tick), class_="tick", x=x, y=bottom + 18, text_anchor="middle"))
        parts.append(element("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom))
        parts.append(
            element("text", x_label, class_="label", x=(left + right) / 2, y=bottom + 38, text_anchor="middle")
        )
        parts.append(element("text", y_label, class_="label", x=0.0, y=top - 14))
        return Markup("").join(parts)


_NAME_SIZE = 12.5  # in pixels, bold: as style.css has it for `name small`
_SLIM, _BROAD = frozenset("fijlrtI-.,:;|!'()[]/ ·×"), frozenset("mwMW@%…")


def text_width(text: str) -> float:
    """Return how wide a name in a chart is at most, in pixels; the letters are those of DejaVu Sans, the widest of the page's fonts."""
    return _NAME_SIZE * sum(_ems(letter) for letter in text)


def _ems(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.52 if letter in _SLIM else 1.1 if letter in _BROAD else 0.86 if letter.isupper() else 0.73


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Draw a polyline through points in pixels."""
    steps = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return element("path", class_=class_, d=steps)


def drawing(width: float, height: float, alt_text: str, *children: Markup | None, class_: str = "") -> Markup:
    """Return the whole picture, with an alternative text."""
    return element(
        "svg", *children, class_=f"chart {class_}".strip(), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alt_text
    )  # fmt: skip
