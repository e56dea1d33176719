"""Read the sensors at one moment, and compare two readings."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.sensors import clocks
from edgekit.bench.sensors.files import text, to_number
from edgekit.bench.sensors.mode import power_mode
from edgekit.bench.sensors.temperature import temperature_files, temperatures
from edgekit.bench.sensors.throttle import ThrottleSensor, Throttling, throttled_by


@dataclass(frozen=True)
class Reading:
    """The sensors at one moment; values that the machine does not report are None.

    Attributes:
        seconds: monotonic time.
        governor: governor of the processors' clocks.
        power_mode: a Jetson's power mode.
        clock_mhz, gpu_clock_mhz: clock of the fastest processor and GPU.
        temperature_c: the hottest sensor; `temperatures` has all by name.
        load: load average over the last minute.
        throttling: counters and flags of throttling.
        busy_seconds: working time of all processors since the machine started.
        own_seconds: processor time of this process.
    """

    seconds: float
    governor: str | None
    clock_mhz: float | None
    temperature_c: float | None
    load: float | None
    busy_seconds: float | None
    own_seconds: float
    power_mode: str | None = None
    gpu_clock_mhz: float | None = None
    temperatures: dict[str, float] = field(default_factory=dict)
    throttling: Throttling = field(default_factory=Throttling)


def read(root: Path = Path("/")) -> Reading:
    """Read every sensor now.

    Args:
        root: where `proc`, `sys`, `etc` and `var` are.
    """
    by_name = temperatures(temperature_files(root))
    load = text(root / "proc/loadavg")
    times = os.times()
    return Reading(
        seconds=time.monotonic(),
        governor=clocks.governor(root),
        clock_mhz=clocks.cpu_clock(clocks.cpu_clock_files(root), root),
        temperature_c=max(by_name.values(), default=None),
        load=to_number(load.split()[0]) if load else None,
        busy_seconds=_busy_seconds(root),
        own_seconds=times.user + times.system,
        power_mode=power_mode(root),
        gpu_clock_mhz=clocks.gpu_clock(clocks.gpu_clock_files(root)),
        temperatures=by_name,
        throttling=ThrottleSensor(root).read(),
    )


def conditions(before: Reading, after: Reading) -> dict[str, Any]:
    """Return `Latency.conditions`, from a reading directly before and one directly after the measurement."""
    slowed = throttled_by(before.throttling, after.throttling)
    return {
        "governor": after.governor,
        "power_mode": after.power_mode,
        "clock_mhz": {"before": before.clock_mhz, "after": after.clock_mhz},
        "gpu_clock_mhz": {"before": before.gpu_clock_mhz, "after": after.gpu_clock_mhz},
        "temperature_c": {"before": before.temperature_c, "after": after.temperature_c},
        "temperatures_c": after.temperatures,
        "load": {"before": before.load, "after": after.load},
        "throttled": None if slowed is None else bool(slowed),
        "throttled_by": slowed or None,
        "throttled_since_start": list(after.throttling.since_start) or None,
        "other_cores_busy": _others(before, after),
    }


def _others(before: Reading, after: Reading) -> float | None:
    """Return how many cores other processes kept busy (the kernel counts in hundredths of a second)."""
    elapsed = after.seconds - before.seconds
    if before.busy_seconds is None or after.busy_seconds is None or elapsed <= 0:
        return None
    busy = after.busy_seconds - before.busy_seconds - (after.own_seconds - before.own_seconds)
    return round(max(0.0, busy / elapsed), 3)


def _busy_seconds(root: Path) -> float | None:
    """Return the time that all processors worked, or a hypervisor took, since the machine started (proc(5), /proc/stat)."""
    line = (text(root / "proc/stat") or "").split("\n", 1)[0].split()
    if len(line) < 9:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def peak_memory(root: Path = Path("/")) -> int | None:
    """Return this process's peak memory in bytes.

    From /proc, because `getrusage` in a child also counts its parent's memory at the fork.
    """
    for line in (text(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
