"""Find other programs that keep the machine busy."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bench.lock import bench_lock
from edgekit.bench.sensors import conditions, read
from edgekit.bench.sensors.files import text

_BUSY = 0.05


@dataclass(frozen=True)
class Loads:
    """Other work on this machine.

    Attributes:
        average: load average over the last minute.
        busy: number of processors that other programs kept busy; None if the system does not report it.
        busiest: the busiest processes: name and number of processors.
        bench: whether another `edgekit bench` runs.
    """

    average: float | None
    busy: float | None
    busiest: list[tuple[str, float]] = field(default_factory=list)
    bench: bool = False


def loads(root: Path, seconds: float) -> Loads:
    """Observe other programs for `seconds`.

    Args:
        root: where `proc` is.
        seconds: how long to observe.
    """
    before, times = read(root), _times(root)
    time.sleep(seconds)
    after, later = read(root), _times(root)
    elapsed = max(after.seconds - before.seconds, 1e-9)
    used = [(name, (t - times[pid][1]) / elapsed) for pid, (name, t) in later.items() if pid in times]
    busiest = sorted((u for u in used if u[1] >= _BUSY), key=lambda u: -u[1])[:3]
    with bench_lock() as is_alone:
        return Loads(
            average=after.load,
            busy=conditions(before, after)["other_cores_busy"],
            busiest=[(name, round(share, 2)) for name, share in busiest],
            bench=not is_alone(),
        )


def _times(root: Path) -> dict[int, tuple[str, float]]:
    """Return, for every other process, its name and processor time in seconds (proc(5), /proc/pid/stat)."""
    ticks = os.sysconf("SC_CLK_TCK")
    times = {}
    for folder in (root / "proc").glob("[0-9]*"):
        stat = text(folder / "stat")
        if stat is None or int(folder.name) == os.getpid():
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        times[int(folder.name)] = (name, (int(fields[11]) + int(fields[12])) / ticks)
    return times
