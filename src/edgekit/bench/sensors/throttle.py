"""Detect throttling by heat or power supply: counters, states and flags, by kind of machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bench.sensors.files import found, number, text, to_number
from edgekit.bench.sensors.raspberry import ask, vcgencmd

_CPU = "sys/devices/system/cpu"
# Bits of a Raspberry Pi's firmware; 16 places higher they mean "since the start" (documentation of vcgencmd get_throttled).
_PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_PI_FILES = (
    "sys/devices/platform/soc*/soc*:firmware/get_throttled",
    "sys/devices/platform/soc*:firmware/get_throttled",
)
# Cooling devices that throttle processors while their state is above 0; the state of a fan or a display does not matter, and
# idle injection (intel_powerclamp) reports -1 when it is off.
_COOLING = re.compile(r"^(thermal-)?(cpufreq|devfreq)-|throttle-alert$|^Processor$|^intel_powerclamp$")


@dataclass(frozen=True)
class Throttling:
    """Counters and flags of throttling at one moment; each is empty if this machine does not report it.

    Attributes:
        events: counters that only grow: x86 cores and packages, Jetson's over-current and under-voltage.
        now: causes of throttling at this moment.
        since_start: a Raspberry Pi's flags since its start.
        known: whether anything can be read at all.
    """

    events: dict[str, int] = field(default_factory=dict)
    now: tuple[str, ...] = ()
    since_start: tuple[str, ...] = ()
    known: bool = False


class ThrottleSensor:
    """Reader of throttling: finds the files once, and reads them often.

    Args:
        root: where `proc`, `sys` and `usr` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._x86 = found(root, f"{_CPU}/cpu[0-9]*/thermal_throttle/*_throttle_count")
        self._jetson = found(root, "sys/class/hwmon/hwmon*/oc*_event_cnt")
        self._counts: dict[Path, int] = {}  # the last value of each counter
        self._cooling = [
            (name, path)
            for path in found(root, "sys/class/thermal/cooling_device*/cur_state")
            if (name := text(path.parent / "type")) and _COOLING.search(name)
        ]
        self._pi = next((path for pattern in _PI_FILES for path in found(root, pattern)), None)
        self._pi_supply = [
            path
            for path in found(root, "sys/class/hwmon/hwmon*/in0_lcrit_alarm")
            if text(path.parent / "name") == "rpi_volt"
        ]
        self._vcgencmd = None if self._pi else vcgencmd(root)
        self.slow = self._vcgencmd is not None

    def read(self) -> Throttling:
        """Read all counters and flags now."""
        events: dict[str, int] = {}
        for path in self._x86:
            self._count(events, f"{path.name.removesuffix('_throttle_count')} too hot", path)
        for path in self._jetson:
            self._count(events, f"over-current event {path.name.removesuffix('_event_cnt')}", path)
        states = [(name, number(path)) for name, path in self._cooling]
        now = [f"cooling device {name}" for name, state in states if state is not None and state > 0]
        supplies = [number(path) for path in self._pi_supply]
        now += ["under-voltage" for alarm in supplies if alarm]
        flags = self._flags()
        since: list[str] = []
        if flags is not None:
            now += [name for bit, name in _PI_BITS.items() if flags & 1 << bit]
            since = [name for bit, name in _PI_BITS.items() if flags & 1 << bit + 16]
        answers = [*events, *(s for _, s in states if s is not None), *(s for s in supplies if s is not None)]
        known = bool(answers) or flags is not None
        return Throttling(events, tuple(dict.fromkeys(now)), tuple(since), known)

    def _count(self, events: dict[str, int], name: str, path: Path) -> None:
        """Add a counter; if it cannot be read at this moment, its last value is used."""
        value = to_number(text(path))
        if value is not None:
            self._counts[path] = int(value)
        if path in self._counts:
            events[name] = events.get(name, 0) + self._counts[path]

    def _flags(self) -> int | None:
        """Return a Raspberry Pi's flags: from the kernel, otherwise from the firmware's program."""
        if self._pi:
            return _hexadecimal(text(self._pi))
        if self._vcgencmd:
            return _hexadecimal((ask(self._vcgencmd, "get_throttled") or "").removeprefix("throttled="))
        return None


def throttled_by(before: Throttling, after: Throttling) -> list[str] | None:
    """Return the causes of throttling between two readings.

    Returns:
        An empty list without throttling; None if the machine does not report it.
    """
    if not before.known or not after.known:
        return None
    grown = [name for name, count in before.events.items() if after.events.get(name, count) > count]
    new = [name for name in after.since_start if name not in before.since_start]
    return list(dict.fromkeys([*before.now, *after.now, *new, *grown]))


def _hexadecimal(value: str | None) -> int | None:
    try:
        return int(value, 16) if value else None
    except ValueError:
        return None
