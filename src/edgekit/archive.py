"""Zipped bundles: extracted into the cache of the user, once per content. Imported only if a bundle is a .zip."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgekit.errors import BundleError
from edgekit.files import cache_folder
from edgekit.foreign import MOST_JSON, Unreadable, open_regular, understood
from edgekit.temporary import remove_debris, temporary_folder

_FULL = (errno.ENOSPC, errno.EDQUOT)


def extracted(archive: Path, manifest: str, listed: Callable[[bytes, Path], Mapping[str, int]]) -> tuple[Path, str]:
    """Extract an archived bundle, unless it is in the cache; return the folder and the digest of the manifest.

    Only the manifest and the files that it lists are extracted, at the recorded sizes: other content of an archive, real or claimed,
    takes no space on the device. The caller must check that the folder still holds this manifest and its files.

    Args:
        archive: a .zip of the folder of a bundle, or of its content.
        manifest: the file name of the manifest.
        listed: takes the bytes of the manifest and its path (for messages); returns the sizes in bytes of the listed files.

    Returns:
        The folder, and the SHA-256 of the manifest in the archive.

    Raises:
        BundleError: it is not a readable .zip, holds a path outside of it, lacks a file, or the cache cannot be written.
    """
    try:
        with _opened(archive) as (stream, content):
            inner, text = _manifest(content, archive, manifest)
            target = cache_folder() / "bundles" / _sha256(stream)[:32]
            if not target.is_dir():
                files = {name: size for name, size in listed(text, archive / manifest).items() if name != manifest}
                _extract(content, archive, inner, {manifest: len(text), **files}, target)
    except Unreadable as error:
        raise BundleError(
            f"{archive}: is neither the folder of a bundle nor a readable .zip: {error.detail}",
            "copy the bundle again",
        ) from error
    return target, hashlib.sha256(text).hexdigest()


def archived_manifest(archive: Path, manifest: str) -> bytes:
    """Return the bytes of the manifest in an archived bundle; nothing is extracted.

    Raises:
        BundleError: it is not a bundle.
        Unreadable: it is not a readable .zip.
    """
    with _opened(archive) as (_, content):
        return _manifest(content, archive, manifest)[1]


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    """Open an archive: as a file, and as a .zip that reads from it.

    Raises:
        Unreadable: it is not a readable .zip.
    """
    with open_regular(archive) as stream, understood(archive, "a .zip"), zipfile.ZipFile(stream) as content:
        yield stream, content


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _manifest(content: zipfile.ZipFile, archive: Path, manifest: str) -> tuple[str, bytes]:
    """Return the path of the bundle in an archive (``, or `export/` in a zip of the folder), and its manifest."""
    names = content.namelist()
    if any(name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name for name in names):
        raise BundleError(f"{archive}: holds a path that leaves the bundle", "do not use this bundle")
    paths = [name for name in names if name.rpartition("/")[2] == manifest and name.count("/") <= 1]
    if not paths:
        raise BundleError(
            f"{archive}: is not a bundle: it holds no {manifest}", "give a .zip of a bundle that `edgekit export` wrote"
        )
    place = min(paths, key=lambda name: name.count("/"))
    if (size := content.getinfo(place).file_size) > MOST_JSON:
        raise BundleError(
            f"{archive}: its {manifest} of {size} bytes is too large for a bundle", "do not use this bundle"
        )
    return place.removesuffix(manifest), content.read(place)


def _extract(content: zipfile.ZipFile, archive: Path, inner: str, files: Mapping[str, int], target: Path) -> None:
    """Extract files of these sizes into `target`, which appears when it is complete."""
    entries = {entry.filename: entry for entry in content.infolist()}
    for name, size in files.items():
        if inner + name not in entries:
            raise BundleError(f"{archive}: {name}: missing from the bundle", "export or copy the bundle again")
        if entries[inner + name].file_size != size:
            raise BundleError(
                f"{archive}: {name}: changed since the export: its size differs from the recorded one",
                "export or copy the bundle again",
            )
    with _new_folder(archive, target) as folder:
        needed, free = sum(files.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise _no_room(archive, f"it takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
        for name in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with content.open(entries[inner + name]) as packed, open(path, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)


@contextmanager
def _new_folder(archive: Path, target: Path) -> Iterator[Path]:
    """Make a folder that is renamed to `target` if the block succeeds, and deleted otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_debris(target.parent)
        lock, folder = temporary_folder(target.parent, ".extract")
    except OSError as error:
        raise _no_room(archive, error.strerror or str(error)) from error
    try:
        yield folder
        os.replace(folder, target)
    except OSError as error:
        if error.errno in _FULL or (error.filename2 is not None and not target.is_dir()):
            raise _no_room(archive, error.strerror or str(error)) from error
        if error.filename2 is None:  # of the archive's content; else another process has put the same content there
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _no_room(archive: Path, reason: str) -> BundleError:
    return BundleError(
        f"{archive}: cannot be extracted into {cache_folder()}: {reason}",
        "set EDGEKIT_CACHE to a writable folder, or extract the bundle yourself and give its folder",
    )
