"""Zipped bundles: extracted into the user's cache once for each content. Imported only where a bundle is a .zip."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from edgekit.errors import BundleError
from edgekit.files import cache_folder, sha256
from edgekit.foreign import MOST_JSON, Unreadable, understood
from edgekit.temporary import remove_debris, temporary_folder

_FULL = (errno.ENOSPC, errno.EDQUOT)


def extracted(archive: Path, manifest: str, listed: Callable[[bytes, Path], Mapping[str, int]]) -> Path:
    """The folder with the files of an archived bundle, which are extracted where they are not there yet.

    Only the manifest and what it lists come out, at the sizes that it records: whatever else an archive holds, or claims to hold,
    costs no room on the device.

    Args:
        archive: a .zip of a bundle's folder or of what is in it.
        manifest: the name of the file that tells the folder.
        listed: from that file's bytes and its path (for messages), the paths of the files in the folder and their bytes.

    Raises:
        BundleError: it is no readable .zip, holds a path that leaves it, lacks a file, or the cache cannot take it.
    """
    try:
        digest = sha256(archive)
    except OSError as error:
        raise BundleError(f"{archive}: cannot be read: {error.strerror or error}", "check its permissions") from error
    target = cache_folder() / "bundles" / digest[:32]
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_debris(target.parent)
        lock, temporary = temporary_folder(target.parent, ".extract")
    except OSError as error:
        raise _no_room(archive, error.strerror or str(error)) from error
    try:
        with understood(archive, "a .zip"), zipfile.ZipFile(archive) as content:
            _extract(content, archive, manifest, listed, temporary)
        os.replace(temporary, target)
    except Unreadable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise _no_room(archive, cause.strerror or "full") from error
        raise BundleError(
            f"{archive}: not a bundle folder and not a readable .zip: {error.reason.removeprefix('not a .zip: ')}",
            "copy the bundle again",
        ) from error
    except OSError as error:
        if not target.is_dir():  # another process may have put the same content there
            raise _no_room(archive, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)
    return target


def _extract(
    content: zipfile.ZipFile,
    archive: Path,
    manifest: str,
    listed: Callable[[bytes, Path], Mapping[str, int]],
    folder: Path,
) -> None:
    entries = {entry.filename: entry for entry in content.infolist()}
    if any(name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name for name in entries):
        raise BundleError(f"{archive}: holds a path that leaves the bundle", "do not use this bundle")
    # `manifest` itself, or in a zip of the folder `export/manifest`.
    found = [name for name in entries if name.rpartition("/")[2] == manifest and name.count("/") <= 1]
    if not found:
        raise BundleError(
            f"{archive}: not a bundle, it holds no {manifest}", "give a .zip of what `edgekit export` made"
        )
    inner = min(found, key=lambda name: name.count("/")).removesuffix(manifest)
    told = entries[inner + manifest]
    if told.file_size > MOST_JSON:
        raise BundleError(
            f"{archive}: its {manifest} of {told.file_size} bytes is no bundle's", "do not use this bundle"
        )
    text = content.read(told)
    files = {name: size for name, size in listed(text, archive / manifest).items() if name != manifest}
    for name, size in files.items():
        if inner + name not in entries:
            raise BundleError(f"{archive}: {name}: missing from the bundle", "export or copy the bundle again")
        if entries[inner + name].file_size != size:
            raise BundleError(
                f"{archive}: {name}: changed since the export, its size is not the recorded one",
                "export or copy the bundle again",
            )
    needed, free = sum(files.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise _no_room(archive, f"it takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
    (folder / manifest).write_bytes(text)
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with content.open(entries[inner + name]) as packed, open(path, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)


def _no_room(archive: Path, reason: str) -> BundleError:
    return BundleError(
        f"{archive}: cannot be extracted into {cache_folder()}: {reason}",
        "set EDGEKIT_CACHE to a folder that can be written, or extract it yourself and give the folder",
    )
