"""Two benches on one machine disturb each other: each notices the other."""

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
    """Be known as a bench that runs; gives a function that says whether this is the only one now.

    Every bench holds the same file with a shared lock; who can get it alone is alone. The lock goes with the process, however
    it ends. Where the file cannot be locked (no flock, another user's file), nothing is noticed and nothing fails; nobody who
    keeps the file to himself is waited for, and counts as another bench.

    Args:
        path: the file; by default one in the machine's temporary folder.
    """
    path = path or machine_folder() / "edgekit-bench.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError:
        yield lambda: True
        return

    def share() -> bool:
        """Hold it with the others; one of them may be looking just now whether it is alone."""
        for _ in range(_TRIES):
            if take(handle, shared=True):
                return True
            time.sleep(_PAUSE_SECONDS)
        return False

    def alone() -> bool:
        try:
            return take(handle)
        except OSError:  # no locks, so nothing can be noticed
            return True
        finally:
            with suppress(OSError):
                share()  # a failed conversion has given the shared lock up

    try:
        with suppress(OSError):
            share()
        yield alone
    finally:
        os.close(handle)
