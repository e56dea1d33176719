"""Temporary files and folders that the next command removes where this one was killed.

Each has a name that nobody else gives, `.STEM.xxxxxxxx.tmp` (in the machine's temporary folder `edgekit-KIND.xxxxxxxx.tmp`), and is
locked by the process that uses it: the system releases the lock however the process ends, on this machine or, over NFS, on another.
Where nothing can be locked, nothing is taken for debris.
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

_RANDOM = "[a-z0-9_]{8}"  # as the module tempfile draws them
_DEBRIS = re.compile(rf"\..+\.{_RANDOM}\.tmp")
_SCRATCH = re.compile(rf"edgekit-[a-z-]+\.{_RANDOM}\.tmp")


def temporary_file(target: Path) -> tuple[int, Path]:
    """A new file beside `target`, open for writing and locked until its handle is closed.

    Raises:
        OSError: as `tempfile.mkstemp`.
    """
    import tempfile  # whoever only reads needs none of it

    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        if _locked(handle, name):
            return handle, Path(name)
        os.close(handle)


def temporary_folder(parent: Path, prefix: str) -> tuple[int, Path]:
    """A new folder `PREFIX.xxxxxxxx.tmp`, locked until the handle is closed.

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
    """A new folder `edgekit-KIND.xxxxxxxx.tmp`, locked until the handle is closed; those that killed processes left go first.

    Raises:
        OSError: as `tempfile.mkdtemp`.
    """
    remove_debris(parent, _SCRATCH)
    return temporary_folder(parent, f"edgekit-{kind}")


def machine_folder() -> Path:
    """The machine's temporary folder: `tempfile.gettempdir()`, found without the file that it writes and deletes to try a folder.

    That file has a name of eight letters that nobody could tell from a user's, so a process killed there would leave it for ever.

    Raises:
        OSError: there is none.
    """
    import tempfile

    if tempfile.tempdir is None:
        given = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
        for folder in map(os.path.abspath, [*given, "/tmp", "/var/tmp", "/usr/tmp"]):
            if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
                tempfile.tempdir = folder
                break
    return Path(tempfile.gettempdir())


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have libraries put their temporary files into a folder of ours, which goes when we do or when the next command finds it."""
    import tempfile

    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A folder in the machine's temporary folder, deleted when the block ends; those that killed processes left go first.

    Args:
        kind: what it is for, a part of its name.

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
    """An empty file to write, and the path under which this process can open it until the block ends.

    On Linux it lies in memory and has no name that others could open; elsewhere in a scratch folder, which is the user's alone.

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
    """What killed processes left in a folder under the names that `temporary_file` and `temporary_folder` give.

    Each is locked while the caller has it, so that two commands never clear it away at once.

    Args:
        folder: it need not be there.
        stem: of the target; None for any.
    """
    pattern = _DEBRIS if stem is None else re.compile(rf"\.{re.escape(stem)}\.{_RANDOM}\.tmp")
    yield from _dead(folder, pattern)


def remove_debris(folder: Path, pattern: re.Pattern[str] = _DEBRIS) -> None:
    """Remove what killed processes left in a folder; what cannot be removed stays."""
    for path in _dead(folder, pattern):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _dead(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
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
        except OSError:  # nothing can be locked here
            continue
        finally:
            os.close(handle)


def _locked(handle: int, name: str) -> bool:
    """Lock what was just made; False where another process took it for debris in the moment between."""
    try:
        if not take(handle):
            return False
    except OSError:  # no locks here: then nobody takes anything for debris
        return True
    try:
        return os.path.samestat(os.stat(name), os.fstat(handle))
    except FileNotFoundError:
        return False
