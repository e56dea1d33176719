"""Locks between processes: the system releases each when its process ends, however it ends, on this machine or, over NFS, on another.

Some file systems have no locks (some FUSE and network ones). There, who asks cannot know of others, and works without.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def take(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file or folder until its handle is closed; False where another process holds it.

    Args:
        handle: a descriptor.
        shared: together with all others who share it; else alone.
        wait: until it is free; then never False.

    Raises:
        OSError: the file system has no locks, or none is left.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock on a file, which is made where it is missing, while the block runs; gives whether it could be had.

    On a file system without locks, it can be had.

    Args:
        path: no symbolic link.
        wait: until it is free; then it gives True.

    Raises:
        OSError: the file cannot be opened or made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            held = take(handle, wait=wait)
        except OSError:
            held = True
        yield held
    finally:
        os.close(handle)
