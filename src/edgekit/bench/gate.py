"""Gates on a comparison: `p90 > +5%` fails a build when the new p90 is more than 5 % above the old one, and chance is not why."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from edgekit.bench.figures import Unit
from edgekit.errors import EdgekitError, near

# Suffix -> factor to the unit of the figure, and that unit.
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
    """What must not be.

    Attributes:
        text: as the user wrote it.
        metric: a figure's name.
        above: whether it fails above the limit, or below it.
        limit: a share (of a relative change), a difference of shares (points), or a value in the figure's unit.
        change: what is held against the limit: the change in percent, in points, or the new value itself.
        unit: that the figure must have; None for any.
    """

    text: str
    metric: str
    above: bool
    limit: float
    change: Change
    unit: Unit | None

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read an expression.

        Raises:
            EdgekitError: it is not one.
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
            raise EdgekitError(f"--fail-if {text!r}: a change is told in % or pt", _HINT)
        else:
            change = "absolute"
        if unit == "pt" and not sign:
            raise EdgekitError(f"--fail-if {text!r}: a change in points needs a sign", _HINT)
        return cls(text.strip(), metric, comparison[0] == ">", limit, change, None if change == "relative" else needs)

    def check_unit(self, unit: Unit) -> None:
        """Refuse a limit in another unit than the figure's.

        Raises:
            EdgekitError: it is.
        """
        if self.unit is not None and self.unit != unit:
            what = "a share of images" if unit == "share" else f"in {unit}"
            raise EdgekitError(f"--fail-if {self.text!r}: {self.metric} is {what}", _HINT)

    def beyond(self, value: float) -> bool:
        """Whether a value is on the wrong side."""
        return value > self.limit if self.above else value < self.limit


def check_metrics(gates: Collection[Gate], known: Collection[str]) -> None:
    """Refuse a gate on a figure that no measurement has.

    Raises:
        EdgekitError: naming it.
    """
    for gate in gates:
        if gate.metric not in known:
            raise EdgekitError(
                f"--fail-if {gate.text!r}: there is no {gate.metric} to compare",
                near(gate.metric, known) or f"there are {', '.join(sorted(known))}",
            )
