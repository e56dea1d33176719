"""The conditions that a measurement was made under, as far as Linux tells them; None where it does not."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CPU = "sys/devices/system/cpu"
# Firmware flags of a Raspberry Pi: bit 0 under-voltage now, 1 frequency capped now, 2 throttled now, 3 soft temperature limit.
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True)
class Reading:
    """The sensors at one moment."""

    seconds: float
    governor: str | None
    clock_mhz: float | None
    temperature_c: float | None
    load: float | None
    throttle_events: int | None
    throttled_now: bool | None
    busy_seconds: float | None
    own_seconds: float


def read(root: Path = Path("/")) -> Reading:
    """Read every sensor now.

    Args:
        root: where `proc` and `sys` are.
    """
    clocks = _numbers(root, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    temperatures = _numbers(root, "sys/class/thermal/thermal_zone*/temp")
    events = _numbers(root, f"{_CPU}/cpu[0-9]*/thermal_throttle/core_throttle_count")
    pi = _text(root / _PI_THROTTLED)
    load = _text(root / "proc/loadavg")
    times = os.times()
    return Reading(
        seconds=time.monotonic(),
        governor=_text(root / f"{_CPU}/cpu0/cpufreq/scaling_governor"),
        clock_mhz=max(clocks) / 1e3 if clocks else _cpuinfo_clock(root),
        temperature_c=max(temperatures) / 1e3 if temperatures else None,
        load=float(load.split()[0]) if load else None,
        throttle_events=int(sum(events)) if events else None,
        throttled_now=bool(int(pi, 16) & 0xF) if pi else None,
        busy_seconds=_busy_seconds(root),
        own_seconds=times.user + times.system,
    )


def conditions(before: Reading, after: Reading) -> dict[str, Any]:
    """What `Latency.conditions` holds, from a reading directly before and one directly after the measuring."""
    throttled = after.throttled_now
    if before.throttle_events is not None and after.throttle_events is not None:
        throttled = bool(throttled) or after.throttle_events > before.throttle_events
    return {
        "governor": after.governor,
        "clock_mhz": {"before": before.clock_mhz, "after": after.clock_mhz},
        "temperature_c": {"before": before.temperature_c, "after": after.temperature_c},
        "load": {"before": before.load, "after": after.load},
        "throttled": throttled,
        "other_cores_busy": _others(before, after),
    }


def _others(before: Reading, after: Reading) -> float | None:
    """How many cores other processes kept busy meanwhile (the kernel counts in hundredths of a second)."""
    elapsed = after.seconds - before.seconds
    if before.busy_seconds is None or after.busy_seconds is None or elapsed <= 0:
        return None
    busy = after.busy_seconds - before.busy_seconds - (after.own_seconds - before.own_seconds)
    return round(max(0.0, busy / elapsed), 3)


def _busy_seconds(root: Path) -> float | None:
    """Time that all processors together spent at work or had stolen by a hypervisor since the start (proc(5), /proc/stat)."""
    line = (_text(root / "proc/stat") or "").split("\n", 1)[0].split()
    if len(line) < 9:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpuinfo_clock(root: Path) -> float | None:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(clocks) if clocks else None


def peak_memory(root: Path = Path("/")) -> int | None:
    """The most memory that this process has held, in bytes.

    From /proc, since `getrusage` of a child also counts what its parent held when it was forked.
    """
    for line in (_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _numbers(root: Path, pattern: str) -> list[float]:
    found = []
    for path in root.glob(pattern):
        text = _text(path)
        if text and text.lstrip("-").isdigit():
            found.append(float(text))
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:  # absent, or a sensor that cannot be read now
        return None
