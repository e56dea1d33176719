"""Gates on a comparison: `p90 > +5%` fails a build if the new p90 is more than 5 % above the old one, beyond chance."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from edgekit.bench.figures import Unit
from edgekit.errors import EdgekitError, near

# Suffix -> factor to the unit of the metric, and that unit.
_UNITS: dict[str, tuple[float, Unit | None]] = {
    "": (1.0, None), "ms": (1.0, "ms"), "s": (1e3, "ms"), "us": (1e-3, "ms"), "µs": (1e-3, "ms"), "/s": (1.0, "images/s"),
    "J": (1.0, "J"), "mJ": (1e-3, "J"), "B": (1.0, "bytes"), "kB": (1e3, "bytes"), "MB": (1e6, "bytes"), "GB": (1e9, "bytes"),
    "KiB": (2.0**10, "bytes"), "MiB": (2.0**20, "bytes"), "GiB": (2.0**30, "bytes"), "%": (0.01, "share"), "pt": (0.01, "share"),
}  # fmt: skip
_FORM = re.compile(r"\s*([A-Za-z][\w.\-]*(?:\.\d+)?)\s*(>=|<=|>|<)\s*([+\-−]?)\s*(\d+(?:\.\d+)?)\s*([^\s\d]*)\s*")
_HINT = "write it like 'p90 > +5%' (change), 'accuracy < -0.5pt' (points) or 'p99 > 20ms' (the new value itself)"

Change = Literal["relative", "points", "absolute"]


@dataclass(frozen=True)
class Gate:
    """A condition that fails a comparison.

    Attributes:
        text: the condition as the user wrote it.
        metric: the metric's name.
        above: True if it fails above the limit, False if below.
        limit: a share (of a relative change), a difference of shares (points), or a value in the metric's unit.
        change: what is compared with the limit: the change in percent, in points, or the new value itself.
        unit: the unit that the metric must have; None for any.
    """

    text: str
    metric: str
    above: bool
    limit: float
    change: Change
    unit: Unit | None

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Parse a condition.

        Raises:
            EdgekitError: the text is not a condition.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise EdgekitError(f"--fail-if {text!r}: not a condition", _HINT)
        metric, comparison, sign, number, unit = match.groups()
        if unit not in _UNITS:
            raise EdgekitError(
                f"--fail-if {text!r}: unknown unit {unit!r}",
                near(unit, _UNITS) or f"units: {', '.join(filter(None, _UNITS))}",
            )
        factor, needs = _UNITS[unit]
        limit = float(number) * factor * (-1 if sign in {"-", "−"} else 1)
        if unit == "pt":
            change: Change = "points"
        elif unit == "%" and sign:
            change = "relative"
        elif sign:
            raise EdgekitError(f"--fail-if {text!r}: a change needs the unit % or pt", _HINT)
        else:
            change = "absolute"
        if unit == "pt" and not sign:
            raise EdgekitError(f"--fail-if {text!r}: a change in points needs a sign", _HINT)
        return cls(text.strip(), metric, comparison[0] == ">", limit, change, None if change == "relative" else needs)

    def check_unit(self, unit: Unit) -> None:
        """Check that the limit has the metric's unit.

        Raises:
            EdgekitError: it has another unit.
        """
        if self.unit is not None and self.unit != unit:
            what = "a share of images" if unit == "share" else f"in {unit}"
            raise EdgekitError(f"--fail-if {self.text!r}: {self.metric} is {what}", _HINT)

    def beyond(self, value: float) -> bool:
        """Whether a value is beyond the limit."""
        return value > self.limit if self.above else value < self.limit


def check_metrics(gates: Collection[Gate], known: Collection[str]) -> None:
    """Check that some measurement has each gate's metric.

    Raises:
        EdgekitError: none has it; the message names the metric.
    """
    for gate in gates:
        if gate.metric not in known:
            raise EdgekitError(
                f"--fail-if {gate.text!r}: no measurement has the metric {gate.metric}",
                near(gate.metric, known) or f"known metrics: {', '.join(sorted(known))}",
            )
