"""Two benches on one machine disturb each other: each notices the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def presence(path: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Be known as a bench that runs; gives a function that says whether this is the only one now.

    Every bench holds the same file with a shared lock; who can get it alone is alone. The lock goes with the process, however
    it ends. Where the file cannot be locked (no flock, another user's file), nothing is noticed and nothing fails.

    Args:
        path: the file; by default one in the machine's temporary folder.
    """
    path = path or Path(tempfile.gettempdir()) / "edgekit-bench.lock"
    try:
        import fcntl

        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except (ImportError, OSError):
        yield lambda: True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)

        def alone() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                return False
            finally:
                fcntl.flock(handle, fcntl.LOCK_SH)  # a failed conversion has given the shared lock up

        yield alone
    finally:
        os.close(handle)
