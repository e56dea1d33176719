"""Budgets: `p50 < 5 ms`, `size < 2 MB`, `energy < 10 mJ`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.bench.statistics import SAMPLES_NEEDED
from edgekit.errors import EdgekitError, near

# metric -> its units, each as a factor of the first, in which values are kept
_TIME = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ns": 1e-6, "s": 1e3}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_ENERGY = {"mJ": 1.0, "J": 1e3, "uJ": 1e-3, "µJ": 1e-3, "μJ": 1e-3}
UNITS: dict[str, dict[str, float]] = {**dict.fromkeys(SAMPLES_NEEDED, _TIME), "size": _BYTES, "energy": _ENERGY}
_FORM = re.compile(r"\s*([\w.]+)\s*(<=|<|≤)\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([^\W\d_]+)\s*")
_EXAMPLE = 'write it like "p50 < 5 ms", "size < 2 MB" or "energy < 10 mJ"'


@dataclass(frozen=True)
class Limit:
    """The most that a model may take of something.

    Attributes:
        metric: p50, p90, p95, p99, p99.9, size or energy.
        most: in ms, bytes or mJ per image.
        inclusive: whether exactly this much is allowed, too.
    """

    metric: str
    most: float
    inclusive: bool = False

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.inclusive else '<'} {in_unit(self.metric, self.most)}"

    @property
    def percentile(self) -> str | None:
        """The percentile of the latency that is limited; None if something else is."""
        return self.metric if self.metric in SAMPLES_NEEDED else None

    def allows(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return value <= self.most if self.inclusive else value < self.most


def parse_budget(text: str) -> Limit:
    """Return the limit that a text such as `p50 < 5 ms` sets.

    Raises:
        EdgekitError: it is not of that form, or its metric or unit is unknown.
    """
    where = f"--budget {text}"
    match = _FORM.fullmatch(text)
    if not match:
        raise EdgekitError(f"{where}: not of the form METRIC < NUMBER UNIT", _EXAMPLE)
    metric, sign, number, unit = match.groups()
    if metric not in UNITS:
        raise EdgekitError(f"{where}: unknown metric {metric}", near(metric, UNITS) or f"accepted: {', '.join(UNITS)}")
    units = UNITS[metric]
    if unit not in units:
        alike = next((known for known in units if known.lower() == unit.lower()), None)
        hint = f"did you mean {alike}?" if alike else f"accepted: {', '.join(_written(units))}"
        raise EdgekitError(f"{where}: {unit} is not a unit of {metric}", hint)
    try:
        most = float(number) * units[unit]
    except ValueError:
        raise EdgekitError(f"{where}: {number} is not a number", _EXAMPLE) from None
    if not 0 < most < math.inf:
        raise EdgekitError(f"{where}: a limit must be greater than 0 and finite", _EXAMPLE)
    return Limit(metric, most, sign != "<")


def parse_budgets(texts: Sequence[str]) -> list[Limit]:
    """Return the limits of several texts, at least one and each for another metric.

    Raises:
        EdgekitError: there is none, one is not valid, or two limit the same metric.
    """
    if not texts:
        raise EdgekitError("no budget: say what the model may take", f'add --budget "p50 < 5 ms"; {_EXAMPLE}')
    limits = [parse_budget(text) for text in texts]
    names = [limit.metric for limit in limits]
    for name in names:
        if names.count(name) > 1:
            raise EdgekitError(f"--budget: {name} is limited twice", "give one limit for each metric")
    return limits


def _written(units: Mapping[str, float]) -> list[str]:
    return [unit for unit in units if unit.isascii()]


def in_unit(metric: str, value: float) -> str:
    """Format a value of a metric in the unit in which it is easiest to read; `parse_budget` reads it back without loss.

    Args:
        metric: a key of `UNITS`.
        value: in the metric's first unit.
    """
    units = {"size": ("B", "kB", "MB", "GB"), "energy": ("uJ", "mJ", "J")}.get(metric, ("ns", "us", "ms", "s"))
    factors = UNITS[metric]
    fitting = [unit for unit in units if value >= factors[unit]] or [units[0]]
    unit = fitting[-1]
    for digits in (3, 6, 9, 12, 15, 17):
        text = f"{value / factors[unit]:.{digits}g}"
        if float(text) * factors[unit] == value and ("e+" not in text or digits > 6):
            break
    else:  # the division lost a bit: the metric's own unit needs none
        unit, text = next(iter(factors)), repr(value)
    return f"{text} {unit}"


def roughly(metric: str, value: float) -> str:
    """Format a measured value with three digits."""
    shown, unit = in_unit(metric, value).split(" ")
    number = float(shown)
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def excess(limits: Sequence[Limit], values: Mapping[str, float | None]) -> float:
    """Return the largest of the values, each as a multiple of its limit: up to 1 within the budget, infinite where one was not measured."""
    shares = []
    for limit in limits:
        value = values.get(limit.metric)
        shares.append(math.inf if value is None else value / limit.most)
    return max(shares)


def broken(limits: Sequence[Limit], values: Mapping[str, float | None]) -> list[str]:
    """Return why a model is outside the budget, one phrase for each limit that it breaks; empty within the budget.

    Args:
        limits: the budget.
        values: what was measured, by metric; None or missing: it was not.
    """
    found = []
    for limit in limits:
        value = values.get(limit.metric)
        if value is None:
            few = limit.percentile is not None and values.get("p50") is not None
            found.append(f"{limit.metric} has too few samples" if few else f"{limit.metric} was not measured")
        elif not limit.allows(value):
            found.append(f"{limit.metric} {roughly(limit.metric, value)}, limit {in_unit(limit.metric, limit.most)}")
    return found
