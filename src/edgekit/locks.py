"""Locks between processes. The system releases a lock when its process ends, on this machine or, over NFS, on another.

Some file systems have no locks (some FUSE and network ones). There, other processes are not detected, and work goes on without locks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def take(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file or folder until its handle is closed; return False if another process holds the lock.

    Args:
        handle: a descriptor.
        shared: take a shared lock; otherwise an exclusive one.
        wait: wait until it is free; then the result is True.

    Raises:
        OSError: the file system has no locks, or no more of them.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file, which is created if it is missing, while the block runs; yield whether that succeeded.

    On a file system without locks, it always succeeds. The process that holds the lock may remove the file.

    Args:
        path: must not be a symbolic link.
        wait: wait until it is free; then it yields True.

    Raises:
        OSError: the file cannot be opened or created.
    """
    held, handle = _open_locked(path, wait)
    try:
        yield held
    finally:
        os.close(handle)


def _open_locked(path: Path, wait: bool) -> tuple[bool, int]:
    """Return whether the file is locked, and its handle; a file that another process removed before the lock was taken is created again."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            held = take(handle, wait=wait)
        except OSError:  # no locks on this file system
            return True, handle
        except BaseException:
            os.close(handle)
            raise
        if not held or _is_named(handle, path):
            return held, handle
        os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
