"""How many processors this process may use: those that the kernel lets it run on, and no more than its control group grants time for.

A container is told `--cpus 2` on a machine of 64 processors: programs that make a thread for each of the 64 are stopped for most of
every tenth of a second. And `taskset` leaves a process one processor: threads that a runtime pins elsewhere break that promise.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def affinity() -> frozenset[int] | None:
    """The processors that the kernel lets this process run on, by number; None where the system does not tell (macOS)."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def usable_cpus(root: Path = Path("/")) -> int:
    """How many processors this process may use: the smaller of its affinity mask and its control group's quota, at least 1.

    A quota of 2.5 processors counts as 2: a third thread would have them all stopped (throttled) for a part of every period.

    Args:
        root: where `proc` and `sys` are.
    """
    mask = affinity()
    allowed = len(mask) if mask is not None else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, min(allowed, int(quota))) if quota is not None else allowed


def narrowed_threads(root: Path = Path("/")) -> int:
    """How many threads to tell a runtime whose own default counts the machine's processors; 0 where that default is right.

    That is where this process may use fewer than the machine has: then one thread for each that it may use, but no more than
    there are physical cores, which is what ONNX Runtime takes by itself.
    """
    usable = usable_cpus(root)
    return _no_more_than_cores(usable, root) if usable < (os.cpu_count() or 1) else 0


def pinned_threads(root: Path = Path("/")) -> int:
    """The same for a runtime that pins the threads of its default to processors, as ONNX Runtime does: the number of usable
    processors also where a process may not set an affinity (some containers), since it prints an error for every thread there.
    """
    narrowed = narrowed_threads(root)
    return narrowed or (_no_more_than_cores(usable_cpus(root), root) if _may_not_pin() else 0)


def tell_openmp() -> None:
    """Set what OpenMP reads when it is loaded, for commands that train: call this before torch is imported.

    Threads that wait do not spin: on a machine that others use too, that costs a hundred times what it gains. And OpenMP knows
    the affinity mask by itself, but not the control group's quota. Variables that are set already stay.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quota = cpu_quota()
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the control group grants (0.5: half of one); None without a limit.

    Source: the kernel's documentation of cgroup-v2 (`cpu.max`) and of v1 (the CFS quota).
    """
    quotas = []
    for file in control_group_files(root, "cpu", ("cpu.max", "cpu.cfs_quota_us")):
        if file.name == "cpu.max":
            quota, _, period = _text(file).partition(" ")
        else:
            quota, period = _text(file), _text(file.with_name("cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:  # else `max`, or -1: no limit
            quotas.append(int(quota) / int(period))
    return round(min(quotas), 2) if quotas else None


def control_group_files(root: Path, controller: str, names: tuple[str, str]) -> list[Path]:
    """A limit's files of the control groups that this process is in, the innermost first: a limit of any of them holds.

    Args:
        root: where `proc` and `sys` are.
        controller: of version 1, where each has a hierarchy of its own.
        names: the file's name in version 2, and in version 1.
    """
    files = []
    for line in (_text(root / "proc/self/cgroup") or "0::/").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        name = names[1] if controllers else names[0]
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if (folder / name).is_file():
                files.append(folder / name)
            if folder == top:
                break
    return files


def physical_cores(root: Path = Path("/")) -> int | None:
    """Physical cores, by (package, core); only x86's /proc/cpuinfo tells."""
    cores = re.findall(
        r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", _text(root / "proc/cpuinfo"), re.MULTILINE | re.DOTALL
    )
    return len(set(cores)) or None


def _no_more_than_cores(threads: int, root: Path) -> int:
    return min(threads, physical_cores(root) or threads)


def _may_not_pin() -> bool:
    """Whether setting an affinity is refused (a seccomp filter), found by setting the one that holds already."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError:
        return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # absent, or not permitted
        return ""
