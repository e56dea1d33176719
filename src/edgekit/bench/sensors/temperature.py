"""Temperatures: the kernel's thermal zones by name, and the processors' own sensors."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.sensors.files import found, number, text

# Sensors of processors among the hardware monitors; disks, network and memory have sensors as well.
_PROCESSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal"}
# Zones of other parts: wireless network, battery, and firmware placeholders.
_OTHERS = ("iwlwifi", "bat", "int340", "nvme")
# The sensor of a sleeping unit reports nonsense (a Jetson's GPU: -256 °C).
_COLDEST, _HOTTEST = -100.0, 200.0


def temperature_files(root: Path) -> dict[str, Path]:
    """Return name → file that holds the temperature in thousandths of °C.

    Thermal zones by their type (kernel documentation: driver-api/thermal/sysfs-api.rst), and the processors' hardware
    monitors by name and label (hwmon/sysfs-interface.rst). A repeated name gets a number.
    """
    files: dict[str, Path] = {}
    for path in found(root, "sys/class/thermal/thermal_zone*/temp"):
        name = text(path.parent / "type") or path.parent.name
        if not name.lower().startswith(_OTHERS):
            _add(files, name, path)
    for path in found(root, "sys/class/hwmon/hwmon*/temp*_input"):
        chip = text(path.parent / "name") or ""
        label = text(path.with_name(path.name.replace("_input", "_label")))
        if chip in _PROCESSORS:
            _add(files, f"{chip} {label}" if label else chip, path)
    return files


def temperatures(files: dict[str, Path]) -> dict[str, float]:
    """Return name → temperature in °C now, of the sensors that answer."""
    read = {name: number(path) for name, path in files.items()}
    return {n: v / 1e3 for n, v in read.items() if v is not None and _COLDEST < v / 1e3 < _HOTTEST}


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    count = sum(known == name or known.startswith(f"{name} #") for known in files)
    files[f"{name} #{count + 1}" if count else name] = path
