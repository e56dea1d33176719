"""Detect other benches on this machine, which would disturb a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.locks import take
from edgekit.temporary import machine_folder

_TRIES, _PAUSE_SECONDS = 20, 0.02


@contextmanager
def bench_lock(path: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Register as a running bench; yield a function that returns whether this is the only one now.

    Every bench holds a shared lock on the same file; a bench that can get an exclusive lock is alone. The system releases the
    lock when the process ends. If the file cannot be locked (no flock, another user's file), no bench is detected and nothing
    fails. A process that holds the file exclusively is not waited for, and counts as another bench.

    Args:
        path: the lock file; by default in the machine's temporary folder.
    """
    path = path or machine_folder() / "edgekit-bench.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError:
        yield lambda: True
        return

    def share() -> bool:
        """Take the shared lock; retry, as another bench may hold it exclusively for a moment in its own check."""
        for _ in range(_TRIES):
            if take(handle, shared=True):
                return True
            time.sleep(_PAUSE_SECONDS)
        return False

    def alone() -> bool:
        try:
            return take(handle)
        except OSError:  # no locks, so no other bench can be detected
            return True
        finally:
            with suppress(OSError):
                share()  # a failed conversion loses the shared lock

    try:
        with suppress(OSError):
            share()
        yield alone
    finally:
        os.close(handle)
