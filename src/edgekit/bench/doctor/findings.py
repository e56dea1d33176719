"""The facts about a machine that `edgekit doctor` finds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.bench.doctor import hardware, software
from edgekit.bench.doctor.jetson import JetPack, jetpack
from edgekit.bench.doctor.loads import Loads, loads
from edgekit.bench.sensors import PowerMeter, Reading, read
from edgekit.bench.sensors.mode import power_modes


@dataclass(frozen=True)
class Findings:
    """A machine's facts; `sensors` is one reading of its sensors."""

    edgekit: str
    python: str
    processors: hardware.Processors
    memory: hardware.Memory
    disks: list[hardware.Disk]
    gpus: list[hardware.Gpu]
    jetpack: JetPack | None
    power_modes: dict[int, str]
    runtimes: list[software.InstalledRuntime]
    clashing: list[str]
    system_tensorrt: str | None
    sensors: Reading
    power: PowerMeter
    loads: Loads


def examine(
    root: Path = Path("/"),
    *,
    ask: bool = True,
    seconds: float = 0.5,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Findings:
    """Examine a machine. Nothing is changed, and no runtime is loaded into this process.

    Args:
        root: where `proc`, `sys`, `etc`, `var` and `usr` are. With another root than `/`, the runtimes, disks and packages are
            still those of this machine.
        ask: whether to load the runtimes, each in its own process, and query their devices.
        seconds: how long to observe other programs.
        advance: called after each of 2 steps with 1 and the name of the next step.
    """
    runtimes = software.runtimes(ask)
    advance(1, "other programs")
    busy = loads(root, seconds)
    advance(1, "")
    return Findings(
        edgekit=__version__,
        python=sys.version.split()[0],
        processors=hardware.processors(root),
        memory=hardware.memory(root),
        disks=hardware.disks(),
        gpus=hardware.gpus(root),
        jetpack=jetpack(root),
        power_modes=power_modes(root),
        runtimes=runtimes,
        clashing=software.clashing(),
        system_tensorrt=software.system_tensorrt(root),
        sensors=read(root),
        power=PowerMeter(root),
        loads=busy,
    )


def sensors(found: Findings) -> list[tuple[str, str | None, str]]:
    """Return each sensor's name, its value (None if it has none), and the reason for None."""
    now = found.sensors
    known = now.throttling.known
    throttling = ", ".join(now.throttling.now) or "no"
    if now.throttling.since_start:
        throttling += f"; since the machine started: {', '.join(now.throttling.since_start)}"
    hottest = max(now.temperatures.items(), key=lambda item: item[1], default=None)
    virtual = " (a virtual machine does not see its host's)" if found.processors.virtual else ""
    rows: list[tuple[str, str | None, str]] = [
        ("energy", found.power.source or None, found.power.why_not),
        ("processor clock", _megahertz(now.clock_mhz), "no cpufreq"),
        ("GPU clock", _megahertz(now.gpu_clock_mhz), "no devfreq device"),
        ("temperature", f"{hottest[1]:.1f} °C ({hottest[0]})" if hottest else None, f"no thermal zone{virtual}"),
        ("throttling", throttling if known else None, f"no counter{virtual}"),
        ("governor", now.governor, f"no cpufreq{virtual}"),
    ]
    if found.jetpack or now.power_mode:
        rows.append(("power mode", now.power_mode, "/var/lib/nvpmodel/status cannot be read"))
    return rows


def as_json(found: Findings) -> dict[str, Any]:
    """Return the findings as plain values for JSON."""
    from dataclasses import asdict

    plain = {name: value for name, value in vars(found).items() if name not in {"power", "sensors"}}
    return {
        **{name: _plain(value) for name, value in plain.items()},
        "sensors": {name: {"value": value, "why_not": None if value else why} for name, value, why in sensors(found)},
        "throttling": asdict(found.sensors.throttling),
        "temperatures_c": found.sensors.temperatures,
        "power_domains": [domain.name for domain in found.power.domains],
    }


def _plain(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    if isinstance(value, list):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _megahertz(clock: float | None) -> str | None:
    return None if clock is None else f"{clock:.0f} MHz"
