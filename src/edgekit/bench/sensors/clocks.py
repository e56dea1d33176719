"""Clocks of processors and GPUs, and their governor."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.bench.sensors.files import found, numbers, text

_CPU = "sys/devices/system/cpu"
# Names of GPUs among the devices with a governed clock: Jetson's (17000000.gpu, 17000000.ga10b, gpu-gpc-0,
# older chips' gv11b and gp10b), Mali's, and a Raspberry Pi's (v3d).
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|mali|v3d", re.IGNORECASE)
_MOST_PROCESSORS = 8


def cpu_clock_files(root: Path, only: frozenset[int] | None = None) -> list[Path]:
    """Return the files that hold the processors' clocks in kHz (kernel documentation: admin-guide/pm/cpufreq.rst).

    Args:
        root: where `sys` is.
        only: only of these processors, and of 8 of them at most, for a sampler; None means all.
    """
    files = found(root, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    if only is None:
        return files
    return [file for file in files if int(file.parts[-3][3:]) in only][:_MOST_PROCESSORS]


def gpu_clock_files(root: Path) -> list[Path]:
    """Return the files that hold the GPUs' clocks in Hz (kernel documentation: ABI/testing/sysfs-class-devfreq)."""
    return [file for file in found(root, "sys/class/devfreq/*/cur_freq") if _GPU.search(file.parent.name)]


def cpu_clock(files: list[Path], root: Path) -> float | None:
    """Return the fastest processor's clock in MHz; from /proc/cpuinfo if there is no cpufreq."""
    clocks = numbers(files)
    if clocks:
        return max(clocks) / 1e3
    lines = (text(root / "proc/cpuinfo") or "").splitlines()
    listed = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(listed) if listed else None


def gpu_clock(files: list[Path]) -> float | None:
    """Return the fastest GPU's clock in MHz."""
    clocks = numbers(files)
    return max(clocks) / 1e6 if clocks else None


def governor(root: Path) -> str | None:
    """Return the governor of the processors' clocks (`performance` keeps them high); several names if they differ."""
    names = [text(path) for path in found(root, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor")]
    return ", ".join(dict.fromkeys(name for name in names if name)) or None
