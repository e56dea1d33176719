"""Temporary files and folders. If this command is killed, the next one removes them.

Each has a distinctive name, `.STEM.xxxxxxxx.tmp` (in the machine's temporary folder `edgekit-KIND.xxxxxxxx.tmp`), and is locked by the
process that uses it. The system releases the lock when the process ends, on this machine or, over NFS, on another. On a file system
without locks, nothing is considered debris.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgekit.locks import take

_RANDOM = "[a-z0-9_]{8}"  # as the module tempfile generates them
_DEBRIS = re.compile(rf"\..+\.{_RANDOM}\.tmp")
_SCRATCH = re.compile(rf"edgekit-[a-z-]+\.{_RANDOM}\.tmp")


def temporary_file(target: Path) -> tuple[int, Path]:
    """Create a file beside `target`, open for writing and locked until its handle is closed.

    Raises:
        OSError: as `tempfile.mkstemp`.
    """
    import tempfile  # not needed for reading

    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        if _locked(handle, name):
            return handle, Path(name)
        os.close(handle)


def temporary_folder(parent: Path, prefix: str) -> tuple[int, Path]:
    """Create a folder `PREFIX.xxxxxxxx.tmp`, locked until the handle is closed.

    Raises:
        OSError: as `tempfile.mkdtemp`.
    """
    import tempfile

    while True:
        name = tempfile.mkdtemp(prefix=f"{prefix}.", suffix=".tmp", dir=parent)
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _locked(handle, name):
            return handle, Path(name)
        os.close(handle)


def scratch(parent: Path, kind: str) -> tuple[int, Path]:
    """Create a folder `edgekit-KIND.xxxxxxxx.tmp`, locked until the handle is closed; leftovers of killed processes are removed first.

    Raises:
        OSError: as `tempfile.mkdtemp`.
    """
    remove_debris(parent, _SCRATCH)
    return temporary_folder(parent, f"edgekit-{kind}")


def machine_folder() -> Path:
    """Return the machine's temporary folder: `tempfile.gettempdir()`, but without its test file.

    The test file's name has only eight letters and looks like a user's file, so a process that is killed would leave it forever.

    Raises:
        OSError: there is none.
    """
    import tempfile

    if tempfile.tempdir is None:
        candidates = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
        for folder in map(os.path.abspath, [*candidates, "/tmp", "/var/tmp", "/usr/tmp"]):
            if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
                tempfile.tempdir = folder
                break
    return Path(tempfile.gettempdir())


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Make libraries put their temporary files into one of our folders, which this command or the next one removes."""
    import tempfile

    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """Create a folder in the machine's temporary folder, deleted when the block ends; leftovers of killed processes are removed first.

    Args:
        kind: its purpose, a part of its name.

    Raises:
        OSError: as `tempfile.mkdtemp`.
    """
    handle, folder = scratch(machine_folder(), kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextmanager
def private_file() -> Iterator[tuple[BinaryIO, str]]:
    """Create an empty file, and yield it with the path under which this process can open it until the block ends.

    On Linux it is in memory, without a name that others could open; elsewhere it is in a private scratch folder.

    Raises:
        OSError: as `tempfile.mkdtemp`.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with os.fdopen(os.memfd_create("edgekit"), "r+b") as stream:
            yield stream, f"/proc/self/fd/{stream.fileno()}"
    else:
        with scratch_folder("copy") as folder, open(folder / "copy", "w+b") as stream:
            yield stream, str(folder / "copy")


def debris(folder: Path, stem: str | None = None) -> Iterator[Path]:
    """Yield leftovers of killed processes in a folder, with names from `temporary_file` and `temporary_folder`.

    Each is locked while the caller uses it, so that two commands never remove it at once.

    Args:
        folder: may be missing.
        stem: of the target; None for any.
    """
    pattern = _DEBRIS if stem is None else re.compile(rf"\.{re.escape(stem)}\.{_RANDOM}\.tmp")
    yield from _unlocked(folder, pattern)


def remove_debris(folder: Path, pattern: re.Pattern[str] = _DEBRIS) -> None:
    """Remove leftovers of killed processes from a folder, as far as possible."""
    for path in _unlocked(folder, pattern):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _unlocked(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    try:
        names = [name for name in os.listdir(folder) if pattern.fullmatch(name)]
    except OSError:
        return
    for name in names:
        path = folder / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid() and take(handle):
                yield path
        except OSError:  # this file system has no locks
            continue
        finally:
            os.close(handle)


def _locked(handle: int, name: str) -> bool:
    """Lock a new file or folder; return False if another process has removed it as debris in between."""
    try:
        if not take(handle):
            return False
    except OSError:  # no locks on this file system, so no process removes debris
        return True
    try:
        return os.path.samestat(os.stat(name), os.fstat(handle))
    except FileNotFoundError:
        return False
