"""Format differences with their intervals, and advice, as lines of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.shares import hundredths, percent
from edgekit.text import counted

if TYPE_CHECKING:
    from edgekit.result import Advice, Difference, Draw, ModelCalibration

WIDTH = 80
NAMES = {"teacher": "teacher", "supervised": "the same network from scratch"}


def paragraph(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Wrap a text to at most `WIDTH` columns; longer words, such as a path, are not broken."""
    indent = " " * len(first) if rest is None else rest
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def advice_lines(advice: Sequence[Advice], most: int) -> list[str]:
    """Return the first `most` findings, each with its recommended change below it."""
    if not advice:
        return []
    lines = ["Advice:"]
    for i, found in enumerate(advice[:most], 1):
        lines += paragraph(found.finding, f" {i}. ")
        lines += paragraph(found.change, "    → ", "      ")
    if len(advice) > most:
        lines.append(f"    and {len(advice) - most} more in the report")
    return lines


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """Return a paragraph for each difference: its size, its interval, and whether it is significant."""
    lines = []
    for d in differences:
        low, high = d.interval
        over = f" over {d.draws} label draws" if d.draws > 1 else ""
        verdict = "" if d.shown else ": no significant difference"
        lines += paragraph(
            f"student minus {NAMES.get(d.second, d.second)}{over}: {hundredths(d.value, signed=True)} points "
            f"(95 % interval {hundredths(low, signed=True)} to {hundredths(high, signed=True)}, {counted(d.samples, 'image')}){verdict}",
            rest="  ",
        )
    return lines


def calibration_lines(calibrations: Sequence[ModelCalibration]) -> list[str]:
    """Return a paragraph for each classifier: its temperature, and the errors of its probabilities before and after."""
    lines = []
    for c in calibrations:
        if c.temperature == 1:
            said = (
                f"1, none is better on {counted(c.probe, 'probe image')}; ECE {percent(c.ece[0])}, NLL {c.nll[0]:.3f}"
            )
        else:
            said = (
                f"{c.temperature:.2f} of {c.probe} probe images; ECE {percent(c.ece[0])} → {percent(c.ece[1])}, "
                f"NLL {c.nll[0]:.3f} → {c.nll[1]:.3f}"
            )
        lines += paragraph(f"{c.model}: temperature {said} on {c.samples} test images", rest="  ")
    return lines


def draw_lines(draws: Sequence[Draw]) -> list[str]:
    """Return the accuracies of each draw, and their mean."""
    lines = []
    for model in draws[0].values if draws else ():
        values = [draw.values[model] for draw in draws if model in draw.values]
        each = ", ".join(hundredths(value) for value in values)
        lines += paragraph(
            f"{model}: mean {hundredths(sum(values) / len(values))} of {len(values)} label draws ({each})", rest="  "
        )
    return lines
