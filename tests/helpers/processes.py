"""A process's descendants, and whether they have ended, as /proc tells (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.helpers.patience import until

Identity = tuple[int, str]  # a process and when it began: its number may be another's later


def descendants(pid: int) -> set[Identity]:
    """The processes that a process has started, and those that these have started, as far as they live."""
    return {found for child in _children(pid) if (found := _identity(child)) is not None} | {
        deeper for child in _children(pid) for deeper in descendants(child)
    }


def command_line(pid: int) -> str:
    """Of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), "0")
    return bool(int(mask, 16) & 1 << (number - 1))


def kill_alone(command: subprocess.Popen[Any], ready: Callable[[set[Identity]], Any]) -> set[Identity]:
    """Kill a command, and nothing else, as soon as its descendants are what they should be; wait until they have all ended.

    Returns:
        Those that it had.
    """
    had: set[Identity] = set()
    try:
        until(lambda: ready(descendants(command.pid)) or command.poll() is not None)
        if command.poll() is None:
            os.kill(command.pid, signal.SIGSTOP)  # it starts no more
            had = descendants(command.pid)
    finally:
        command.kill()
        said = command.communicate() if not had else command.wait()
    assert had, said
    until(lambda: not any(map(lives, had)))
    return had


def lives(process: Identity) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    return _identity(process[0]) == process


def _identity(pid: int) -> Identity | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (pid, fields[19])


def _children(pid: int) -> Iterator[int]:
    """Also those that a thread beside the main one has started."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, task.read_text().split())
        except OSError:
            continue
