"""Everything that `edgekit doctor` finds out about a machine."""

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
    """A machine, as far as it tells; `sensors` is one reading of them."""

    edgekit: str
    python: str
    processors: hardware.Processors
    memory: hardware.Memory
    discs: list[hardware.Disc]
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
    """Look at a machine; nothing is changed and nothing is loaded into this process.

    Args:
        root: where `proc`, `sys`, `etc`, `var` and `usr` are. Of another root than `/` the runtimes, discs and packages are still
            those of this machine.
        ask: whether runtimes are loaded, each in a process of its own, to be asked for their devices.
        seconds: how long to look at what else runs.
        advance: called after each of 2 steps with 1 and what comes next.
    """
    runtimes = software.runtimes(ask)
    advance(1, "other loads")
    busy = loads(root, seconds)
    advance(1, "")
    return Findings(
        edgekit=__version__,
        python=sys.version.split()[0],
        processors=hardware.processors(root),
        memory=hardware.memory(root),
        discs=hardware.discs(),
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
    """Every sensor: its name, what it says (None where it does not), and why it does not."""
    now = found.sensors
    known = now.throttling.known
    said = ", ".join(now.throttling.now) or "no"
    if now.throttling.since_start:
        said += f"; since the start: {', '.join(now.throttling.since_start)}"
    hottest = max(now.temperatures.items(), key=lambda item: item[1], default=None)
    virtual = " (a virtual machine sees none of its host's)" if found.processors.virtual else ""
    rows: list[tuple[str, str | None, str]] = [
        ("energy", found.power.source or None, found.power.why_not),
        ("processor clock", _megahertz(now.clock_mhz), "no cpufreq"),
        ("GPU clock", _megahertz(now.gpu_clock_mhz), "no devfreq device"),
        ("temperature", f"{hottest[1]:.1f} °C ({hottest[0]})" if hottest else None, f"no thermal zone{virtual}"),
        ("throttling", said if known else None, f"nothing that counts it{virtual}"),
        ("governor", now.governor, f"no cpufreq{virtual}"),
    ]
    if found.jetpack or now.power_mode:
        rows.append(("power mode", now.power_mode, "/var/lib/nvpmodel/status cannot be read"))
    return rows


def as_json(found: Findings) -> dict[str, Any]:
    """The same as plain values."""
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
