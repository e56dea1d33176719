"""Where images come from: a folder with a sub-folder a class, any folder of images, or scikit-learn's digits.

A `Source` is a list of names with a way to read each; nothing is decoded here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import DataError
from edgekit.preprocess import read_image

DIGITS = "digits"

# Formats that Pillow recognises and cannot decode by itself: containers of other libraries' data, video, PostScript, metafiles.
_NOT_DECODED = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".ps", ".wmf"}


@dataclass(frozen=True)
class Source:
    """Images that can be read one by one.

    Args:
        where: the folder as the recipe names it, or `digits`.
        names: paths relative to the folder, with forward slashes; sorted.
        read: from a position in `names` to an upright RGB image; raises DataError where it cannot be decoded.
        stamp: what changes when the files do (for the cache's key), one value a name; None where nothing is to be cached.
        labels: (n,) int64 indices into `classes`, or None.
        classes: names of the classes, sorted; empty where there are no labels.
        notes: what a user should know about the folder, one sentence each.
    """

    where: str
    names: list[str]
    read: Callable[[int], Image.Image]
    stamp: list[Any] | None = None
    labels: NDArray[np.int64] | None = None
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def subset(self, index: Sequence[int] | NDArray[np.int64]) -> Source:
        """The source of the images at `index` alone."""
        rows = [int(i) for i in index]
        return Source(
            where=self.where,
            names=[self.names[i] for i in rows],
            read=lambda i: self.read(rows[i]),
            stamp=[self.stamp[i] for i in rows] if self.stamp is not None else None,
            labels=self.labels[rows] if self.labels is not None else None,
            classes=self.classes,
        )

    def path(self, index: int) -> str:
        """The name of an image as a user would write it."""
        return f"{self.where}/{self.names[index]}"


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    mtime_ns: int


@cache
def extensions() -> frozenset[str]:
    """The file extensions (lower case, with the dot) of the formats that this Pillow decodes."""
    registered = Image.registered_extensions()
    return frozenset(e.lower() for e, kind in registered.items() if kind in Image.OPEN) - _NOT_DECODED


def open_labelled(where: str, key: str = "") -> Source:
    """A folder with one sub-folder a class (images may lie deeper in it), or `digits`.

    Args:
        where: path of the folder, or `digits`.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.

    Raises:
        DataError: it is missing, is no folder, holds no images, fewer than two classes, or two that differ by case alone.
    """
    if where == DIGITS:
        return _digits()
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
                f"{_at(key, where)}: holds {loose} images but no folder of images",
                "put each class into a sub-folder of its own",
            )
        raise DataError(f"{_at(key, where)}: holds no images", "one sub-folder a class, with image files in it")
    if len(classes) < 2:
        raise DataError(
            f"{_at(key, where)}: holds one class only ({classes[0]})",
            "a classifier needs at least two sub-folders with images",
        )
    _refuse_same_but_case(classes, where, key)
    if loose:
        notes.append(f"{loose} images of {where} lie in no class folder and are left out")
    return _of_files(where, root, files, np.array(labels, dtype=np.int64), classes, notes)


def open_pool(where: str, key: str = "") -> Source:
    """A folder of images, flat or nested, without labels.

    Args:
        where: path of the folder, or `digits`.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.

    Raises:
        DataError: it is missing, is no folder, or holds no images.
    """
    if where == DIGITS:
        source = _digits()
        return Source(where=where, names=source.names, read=source.read)
    root = existing_folder(where, key)
    seen = {_identity(root.stat())}
    files: list[_File] = []
    for entry in _entries(root):
        files += _walk(entry, entry.name, seen)
    if not files:
        raise DataError(f"{_at(key, where)}: holds no images", "give a folder of image files, flat or nested")
    return _of_files(where, root, files)


def check_same_classes(test: Source, labelled: Source) -> None:
    """Refuse a test folder that has other classes than the labelled one.

    Raises:
        DataError: it names the classes that only one of them has.
    """
    if test.classes == labelled.classes:
        return
    parts = []
    for here, there in ((test, labelled), (labelled, test)):
        alone = [name for name in here.classes if name not in there.classes]
        if alone:
            parts.append(f"only {here.where} has {', '.join(alone[:5])}{', …' if len(alone) > 5 else ''}")
    raise DataError(
        f"data.test: its classes are not those of data.labelled: {'; '.join(parts)}",
        "both need a sub-folder with images for every class, of the same name",
    )


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


def _digits() -> Source:
    """The 1,797 grey 8x8 images that ship with scikit-learn, values 0 to 16 spread over 0 to 255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return Source(
        where=DIGITS,
        names=[f"{label}/{i:04}" for i, label in enumerate(data.target)],
        read=lambda i: Image.fromarray(pixels[i]).convert("RGB"),
        labels=data.target.astype(np.int64),
        classes=[str(name) for name in data.target_names],
    )


def existing_folder(where: str, key: str = "") -> Path:
    """The path of a folder that is there.

    Raises:
        DataError: it is not, or is a file.
    """
    root = Path(where).expanduser()
    if not root.exists():
        raise DataError(
            f"{_at(key, where)}: no such folder", "relative paths begin at the folder that the command runs in"
        )
    if not root.is_dir():
        raise DataError(f"{_at(key, where)}: is not a folder", "give the folder that the images lie in")
    return root


def _at(key: str, where: str) -> str:
    return f"{key}: {where}" if key else where


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


def _refuse_same_but_case(classes: list[str], where: str, key: str) -> None:
    folded: dict[str, str] = {}
    for name in classes:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{_at(key, where)}: the classes {other} and {name} differ by case alone", "rename or merge them"
            )
