"""Images in folders: one sub-folder a class, or any folder of images."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.source import Source, at, extensions, refuse_same_but_case
from edgekit.errors import DataError
from edgekit.preprocess import read_image


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    mtime_ns: int


def labelled_folder(where: str, key: str = "") -> Source:
    """A folder with one sub-folder a class (images may lie deeper in it).

    Args:
        where: path of the folder.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.

    Raises:
        DataError: it is missing, is no folder, holds no images, fewer than two classes, or two that differ by case alone.
    """
    root = existing_folder(where, key)
    seen = {_identity(root.stat())}
    files: list[_File] = []
    labels: list[int] = []
    classes: list[str] = []
    notes: list[str] = []
    loose = 0
    for entry in _entries(root):
        if not entry.is_dir():
            loose += _file(entry, entry.name) is not None
            continue
        found = list(_walk(entry, entry.name, seen))
        if not found:
            notes.append(f"{where}/{entry.name} holds no images and is no class")
            continue
        labels += [len(classes)] * len(found)
        classes.append(_utf8(entry.name, where))
        files += found
    if not files:
        if loose:
            raise DataError(
                f"{at(key, where)}: holds {loose} images but no folder of images",
                "put each class into a sub-folder of its own",
            )
        raise DataError(f"{at(key, where)}: holds no images", "one sub-folder a class, with image files in it")
    if len(classes) < 2:
        raise DataError(
            f"{at(key, where)}: holds one class only ({classes[0]})",
            "a classifier needs at least two sub-folders with images",
        )
    refuse_same_but_case(classes, at(key, where))
    if loose:
        notes.append(f"{loose} images of {where} lie in no class folder and are left out")
    return _of_files(where, root, files, np.array(labels, dtype=np.int64), classes, notes)


def unlabelled_folder(where: str, key: str = "") -> Source:
    """A folder of images, flat or nested, without labels.

    Args:
        where: path of the folder.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.

    Raises:
        DataError: it is missing, is no folder, or holds no images.
    """
    root = existing_folder(where, key)
    seen = {_identity(root.stat())}
    files: list[_File] = []
    for entry in _entries(root):
        files += _walk(entry, entry.name, seen)
    if not files:
        raise DataError(f"{at(key, where)}: holds no images", "give a folder of image files, flat or nested")
    return _of_files(where, root, files)


def _of_files(
    where: str,
    root: Path,
    files: list[_File],
    labels: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    # The folder's own path is part of the stamp: archives are unpacked with equal names, sizes and times in train/ and test/.
    home = os.fspath(root.resolve())
    return Source(
        where=where.rstrip("/") or where,
        names=[file.name for file in files],
        read=lambda i: read_image(root / files[i].name),
        stamp=[(home, file.name, file.size, file.mtime_ns) for file in files],
        labels=labels,
        classes=list(classes),
        notes=list(notes),
    )


def existing_folder(where: str, key: str = "") -> Path:
    """The path of a folder that is there.

    Raises:
        DataError: it is not, or is a file.
    """
    root = Path(where).expanduser()
    if not root.exists():
        raise DataError(
            f"{at(key, where)}: no such folder", "relative paths begin at the folder that the command runs in"
        )
    if not root.is_dir():
        raise DataError(f"{at(key, where)}: is not a folder", "give the folder that the images lie in")
    return root


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden files left out, in an order that is the same on every file system."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{os.fspath(folder)}: cannot be listed: {error.strerror}", "check its permissions") from error


def _walk(entry: os.DirEntry[str], name: str, seen: set[tuple[int, int]]) -> Iterator[_File]:
    """The image files at and below an entry; a folder that was seen already, through a link, is not entered again."""
    if not entry.is_dir():
        file = _file(entry, name)
        if file is not None:
            yield file
        return
    identity = _identity(entry.stat())
    if identity in seen:
        return
    seen.add(identity)
    for child in _entries(entry):
        yield from _walk(child, f"{name}/{child.name}", seen)


def _file(entry: os.DirEntry[str], name: str) -> _File | None:
    if os.path.splitext(entry.name)[1].lower() not in extensions():
        return None
    try:
        status = entry.stat()
    except OSError:  # a link to nothing: reading it fails, and it is counted as unreadable
        return _File(name, -1, -1)
    return _File(name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _utf8(name: str, where: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the name of the class folder {name!a} is not UTF-8", "rename the folder") from error
    return name
