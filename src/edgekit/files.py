"""Files that are never half-written, and the digests that prove what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.errors import EdgekitError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; when the block ends well it is synced and renamed onto `path`.

    A reader sees the old file or the new one, never a part of one, whenever the process dies; what a killed one left is removed.

    Raises:
        EdgekitError: the folder cannot be written, or the disk is full.
    """
    from edgekit.temporary import debris, temporary_file  # whoever only reads needs none of it

    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in debris(path.parent, path.name):
            left.unlink(missing_ok=True)
        handle, temporary = temporary_file(path)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)  # before it is closed, which unlocks it
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise EdgekitError(
            f"cannot write {path}: {error.strerror or error}", "check the folder's permissions and the free space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def written_by_a_library(folder: Path) -> Iterator[None]:
    """Around a library that writes files into a folder: where it failed because nothing can be written there, the system's reason is raised.

    Libraries in C++ hide it ("iostream error"), and some miss only later the file that they could not write.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        if (reason := _unwritable(folder)) is not None:
            raise OSError(reason.errno, reason.strerror, str(folder)) from error
        raise


def _unwritable(folder: Path) -> OSError | None:
    from edgekit.temporary import temporary_file

    try:
        handle, probe = temporary_file(folder / "probe")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(bytes(1 << 20))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path) as stream:
        stream.write(content)


def copy_file(source: Path | str, target: Path | str) -> None:
    """Copy a file's bytes; `target` is not replaced atomically.

    Raises:
        OSError: it cannot be read or written; `filename` names both, whichever of the system's ways of copying failed.
    """
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), f"{source}, copied to {target}") from error


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(content: Any) -> str:
    """The SHA-256 of a JSON-able value in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_folder() -> Path:
    """Where edgekit keeps what it can make again: $EDGEKIT_CACHE, else edgekit/ in the user's cache folder."""
    if root := os.environ.get("EDGEKIT_CACHE"):
        return Path(root)
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "edgekit"
    try:
        return Path.home() / ".cache" / "edgekit"
    except RuntimeError:  # no HOME, and the user is in no list
        return homeless() / ".cache" / "edgekit"


def homeless() -> Path:
    """A folder of the user's own in the machine's temporary folder, for who has no home.

    Raises:
        EdgekitError: somebody else has it, or it cannot be made.
    """
    from edgekit.temporary import machine_folder

    folder = machine_folder() / f"edgekit-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise EdgekitError(
            f"there is no home folder, and {folder} cannot be made: {error.strerror}", "set HOME"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise EdgekitError(f"there is no home folder, and {folder} is somebody else's", "set HOME, or EDGEKIT_CACHE")
    return folder


def prepare_home() -> None:
    """Where the user is in no list, as in containers, name what libraries would look up there and fail: a home and a user's name."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        if "HOME" not in os.environ:
            os.environ["HOME"] = str(homeless())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
