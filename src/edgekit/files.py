"""Write files atomically, and compute digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.errors import EdgekitError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; when the block ends without an error, it is synced and renamed to `path`.

    A reader sees either the old file or the new one, even if the process dies; leftovers of killed processes are removed.

    Raises:
        EdgekitError: the folder cannot be written, or the disk is full.
    """
    from edgekit.temporary import debris, temporary_file  # not needed for reading

    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in debris(path.parent, path.name):
            leftover.unlink(missing_ok=True)
        handle, temporary = temporary_file(path)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)  # before closing it, which releases its lock
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
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents; if the block fails, remove those that were made here and are empty.

    Raises:
        OSError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise


def check_writable_file(path: Path) -> None:
    """Check, before work that takes long, that a file can be written at its end.

    Raises:
        EdgekitError: it is a folder; a file has the name of its folder, or there is no permission.
    """
    if path.is_dir():
        raise EdgekitError(f"{path}: is a folder", "give the name of a file")
    check_writable_folder(path.parent, path)


def check_writable_folder(folder: Path, output: Path | None = None) -> None:
    """Check, before work that takes long, that a folder can be made and written into.

    Args:
        folder: the folder.
        output: what the message names; None: the folder.

    Raises:
        EdgekitError: a file has its name or that of a folder above it, or there is no permission.
    """
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not existing.is_dir():
        raise EdgekitError(f"{output or folder}: {existing} is not a folder", "give another --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise EdgekitError(f"{output or folder}: no permission to write into {existing}", "give another --output")


@contextmanager
def written_by_a_library(folder: Path) -> Iterator[None]:
    """Wrap a library that writes files into a folder; if it fails because the folder cannot be written, raise the system's reason.

    C++ libraries hide the reason ("iostream error"), and some fail only later, when the file is missing.

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
        OSError: it cannot be read or written; `filename` names both files.
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
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(content: Any) -> str:
    """Return the SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_folder() -> Path:
    """Return edgekit's cache folder: $EDGEKIT_CACHE, otherwise edgekit/ in the user's cache folder."""
    if root := os.environ.get("EDGEKIT_CACHE"):
        return Path(root)
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "edgekit"
    try:
        return Path.home() / ".cache" / "edgekit"
    except RuntimeError:  # no HOME, and the user is not in the password database
        return substitute_home() / ".cache" / "edgekit"


def substitute_home() -> Path:
    """Return a private folder in the machine's temporary folder, for users without a home folder.

    Raises:
        EdgekitError: it belongs to another user, or cannot be created.
    """
    from edgekit.temporary import machine_folder

    folder = machine_folder() / f"edgekit-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise EdgekitError(
            f"there is no home folder, and {folder} cannot be created: {error.strerror}", "set HOME"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise EdgekitError(
            f"there is no home folder, and {folder} belongs to another user", "set HOME or EDGEKIT_CACHE"
        )
    return folder


def prepare_home() -> None:
    """If the user is not in the password database, as in containers, set HOME and USER, because libraries would fail to look them up."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        if "HOME" not in os.environ:
            os.environ["HOME"] = str(substitute_home())


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
