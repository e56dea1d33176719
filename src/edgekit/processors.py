"""The number of processors that this process may use, by its affinity and its control group's quota.

In a container with `--cpus 2` on a machine with 64 processors, a program with 64 threads is throttled for most of every tenth of a
second. With `taskset`, a process may only use some processors, and a runtime must not pin its threads to others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def affinity() -> frozenset[int] | None:
    """Return the numbers of the processors that this process may run on; None if the system does not report them (macOS)."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many processors this process may use: the smaller of its affinity mask and its control group's quota, at least 1.

    A quota of 2.5 processors counts as 2: with a third thread, all would be throttled for a part of every period.

    Args:
        root: where `proc` and `sys` are.
    """
    mask = affinity()
    allowed = len(mask) if mask is not None else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, min(allowed, int(quota))) if quota is not None else allowed


def load_of_others(least: float = 1.2) -> float | None:
    """Return the system's load of the last minute if other programs use this machine; None otherwise.

    The load counts waiting threads, of this process, too: it is of use before this process computes anything.

    Args:
        least: load per processor; with more than 1, this process has no processor for itself.
    """
    load = os.getloadavg()[0]
    return load if load > least * usable_cpus() else None


def narrowed_threads(root: Path = Path("/")) -> int:
    """Return the number of threads for a runtime whose default is the machine's number of processors; 0 if that default is right.

    If this process may use fewer processors than the machine has, it is one thread for each of them, but no more than the physical
    cores, which are ONNX Runtime's default.
    """
    usable = usable_cpus(root)
    return _no_more_than_cores(usable, root) if usable < (os.cpu_count() or 1) else 0


def pinned_threads(root: Path = Path("/")) -> int:
    """Return the same for a runtime that pins its default threads to processors, as ONNX Runtime does. If a process may not set an
    affinity (some containers), it is the number of usable processors, because the runtime would print an error for every thread.
    """
    narrowed = narrowed_threads(root)
    return narrowed or (_no_more_than_cores(usable_cpus(root), root) if _may_not_pin() else 0)


def configure_openmp() -> None:
    """Set OpenMP's environment variables for training commands; call it before torch is imported.

    Waiting threads do not spin: on a shared machine spinning costs a hundred times what it gains. OpenMP respects the affinity
    mask by itself, but not the control group's quota. Variables that are already set are unchanged.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quota = cpu_quota()
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the processor time that the control group grants, in processors (0.5: half of one); None without a limit.

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
    """Return the files of a limit in this process's control groups, the innermost first; the limits of all groups apply.

    Args:
        root: where `proc` and `sys` are.
        controller: of version 1, where each controller has its own hierarchy.
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
    """Return the number of physical cores, by (package, core); None if /proc/cpuinfo does not report them (only x86 does)."""
    cores = re.findall(
        r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", _text(root / "proc/cpuinfo"), re.MULTILINE | re.DOTALL
    )
    return len(set(cores)) or None


def _no_more_than_cores(threads: int, root: Path) -> int:
    return min(threads, physical_cores(root) or threads)


def _may_not_pin() -> bool:
    """Whether setting an affinity is refused (by a seccomp filter), tested by setting the current one."""
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
