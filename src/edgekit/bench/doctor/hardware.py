"""The hardware: processors and which of them this process may use, memory, disks, GPUs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bench.sensors.files import found, number, text, to_number
from edgekit.files import cache_folder
from edgekit.machine import arm_cores, cpu_features, cpu_name, emulated, memory_bytes
from edgekit.processors import affinity, control_group_files, cpu_quota, physical_cores

_NVIDIA_SMI_SECONDS = 20.0
# NVIDIA's integrated GPUs by the chip in the device tree: name and compute capability (developer.nvidia.com/cuda-gpus).
_TEGRA = {
    "tegra264": ("Thor, Blackwell", "11.0"),
    "tegra234": ("Orin, Ampere", "8.7"),
    "tegra194": ("Xavier, Volta", "7.2"),
    "tegra186": ("TX2, Pascal", "6.2"),
    "tegra210": ("TX1 or Nano, Maxwell", "5.3"),
}


@dataclass(frozen=True)
class Processors:
    """The processors, and which of them this process may use.

    Attributes:
        name: of the board or the processor.
        architecture: x86_64, aarch64, …
        isa: instruction-set extensions that matter for inference.
        logical: hardware threads that are online.
        cores: physical cores; None if the system does not report them.
        usable: the processors that this process may run on.
        quota: processor time that its control group grants, in processors (0.5: half of one); None without a limit.
        kinds: if there are several kinds of cores, kind → their numbers: performance and efficiency cores, or Arm's big.LITTLE.
        virtual: whether this is a virtual machine.
    """

    name: str
    architecture: str
    isa: list[str]
    logical: int | None
    cores: int | None
    usable: list[int]
    quota: float | None
    kinds: dict[str, list[int]] = field(default_factory=dict)
    virtual: bool = False


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; `limit` is the control group's limit, if it is lower."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class Disk:
    """The free space of a folder's disk, in bytes."""

    purpose: str
    folder: str
    free: int


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    name: str
    compute_capability: str | None = None
    memory: int | None = None
    driver: str | None = None


def processors(root: Path = Path("/")) -> Processors:
    """Read the processors from `proc` and `sys` below `root`."""
    cpuinfo = text(root / "proc/cpuinfo") or ""
    here = root == Path("/")
    own = affinity() if here else None
    listed = [int(n) for n in re.findall(r"^processor\s*:\s*(\d+)", cpuinfo, re.MULTILINE)]
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", text(root / "proc/self/status") or "", re.MULTILINE)
    return Processors(
        name=cpu_name(root),
        architecture=platform.machine() if here else "aarch64" if "CPU part" in cpuinfo else "x86_64",
        isa=[] if here and emulated() else cpu_features(root / "proc/cpuinfo"),
        logical=(os.cpu_count() if here else None) or len(listed) or None,
        cores=physical_cores(root),
        usable=sorted(own) if own is not None else numbers_of(allowed[1]) if allowed else listed,
        quota=cpu_quota(root),
        kinds=_kinds(root),
        virtual=bool(re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE)),
    )


def memory(root: Path = Path("/")) -> Memory:
    """Read the amount of memory from `proc` and `sys` below `root`."""
    total = memory_bytes(root)
    limits = [number(file) for file in control_group_files(root, "memory", ("memory.max", "memory.limit_in_bytes"))]
    known = [int(limit) for limit in limits if limit is not None]
    limit = min(known, default=None)
    return Memory(
        total, memory_bytes(root, "MemAvailable"), limit if limit is not None and limit < (total or 0) else None
    )


def disks() -> list[Disk]:
    """Return the free space of the folder for results and of edgekit's cache."""
    where = [("results", Path.cwd()), ("cache (engines, unpacked bundles)", cache_folder())]
    disks_found = []
    for purpose, folder in where:
        existing = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))
        try:
            disks_found.append(Disk(purpose, str(folder), shutil.disk_usage(existing).free))
        except OSError:
            continue
    return disks_found


def gpus(root: Path = Path("/")) -> list[Gpu]:
    """Return NVIDIA's GPUs: from a Jetson's device tree, otherwise from nvidia-smi, otherwise from the driver's files."""
    compatible = text(root / "proc/device-tree/compatible") or ""
    for chip, (name, capability) in _TEGRA.items():
        if f"nvidia,{chip}" in compatible:
            return [Gpu(f"{name} (integrated)", capability)]
    if root == Path("/") and (listed := _nvidia_smi()):
        return listed
    version = re.search(r"Kernel Module\D*?([\d.]+)", text(root / "proc/driver/nvidia/version") or "")
    models = [
        re.search(r"^Model:\s*(.+)$", text(file) or "", re.MULTILINE)
        for file in found(root, "proc/driver/nvidia/gpus/*/information")
    ]
    return [Gpu(model[1].strip(), driver=version[1] if version else None) for model in models if model]


def numbers_of(listed: str) -> list[int]:
    """Return the numbers of a kernel's list: `0-3,8` is 0, 1, 2, 3 and 8."""
    numbers: list[int] = []
    for part in listed.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def as_list(numbers: list[int]) -> str:
    """Return numbers as a kernel's list: 0, 1, 2, 3 and 8 become `0-3,8`, as `taskset -c` takes them."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _kinds(root: Path) -> dict[str, list[int]]:
    """Return the kinds of processors, if there are several (kernel documentation: arch/x86/topology, intel-hybrid)."""
    kinds = {
        "performance": numbers_of(text(root / "sys/devices/cpu_core/cpus") or ""),
        "efficiency": numbers_of(text(root / "sys/devices/cpu_atom/cpus") or ""),
    }
    if not all(kinds.values()):
        kinds = arm_cores(root)
    return kinds if len(kinds) > 1 else {}


def _nvidia_smi() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        output = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_NVIDIA_SMI_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    listed = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 3)]
        if len(parts) != 4:  # a message, for example that there is no device
            continue
        name, capability, mebibytes, driver = parts
        size = to_number(mebibytes)
        listed.append(Gpu(name, capability, int(size * 2**20) if size else None, driver))
    return listed
