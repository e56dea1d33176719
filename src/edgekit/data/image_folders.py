"""Images in folders: one sub-folder per class, or any folder of images."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.source import ImageSource, at, refuse_same_but_case
from edgekit.errors import DataError
from edgekit.files import write_bytes
from edgekit.preprocess import MAX_PIXELS, open_image
from edgekit.text import counted, plural
from edgekit.walk import ImageFile, Walk, is_folder


def labeled_folder(where: str, key: str = "", max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Open a folder with one sub-folder per class (images may lie deeper in it).

    Args:
        where: path of the folder.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: it is missing, is not a folder, holds no images, has fewer than two classes, or two whose names differ only in case.
    """
    root = existing_folder(where, key)
    walk = Walk()
    files: list[ImageFile] = []
    labels: list[int] = []
    classes: list[str] = []
    notes: list[str] = []
    loose = 0
    for entry in walk.entries(root):
        if not is_folder(entry):
            loose += walk.file(entry, entry.name) is not None
            continue
        images = list(walk.below(entry, entry.name))
        if not images:
            notes.append(f"{where}/{entry.name} holds no images and is not a class")
            continue
        labels += [len(classes)] * len(images)
        classes.append(_utf8(entry.name, where))
        files += images
    if not files:
        if loose:
            raise DataError(
                f"{at(key, where)}: holds {counted(loose, 'image')} but no sub-folder with images",
                "put the images of each class into a sub-folder",
            )
        raise DataError(
            f"{at(key, where)}: holds no images{_instead(walk, where)}",
            "make one sub-folder per class and put its images there",
        )
    if len(classes) < 2:
        raise DataError(
            f"{at(key, where)}: holds only one class ({classes[0]})",
            "a classifier needs at least two sub-folders with images; for images without labels, `edgekit init FOLDER --unlabeled` writes the recipe",
        )
    refuse_same_but_case(classes, at(key, where))
    if loose:
        notes.append(f"{loose} {plural(loose, 'image')} of {where} in no class folder left out")
    notes += walk.notes(where)
    return source_of_files(where, root, files, max_pixels, np.array(labels, dtype=np.int64), classes, notes)


def unlabeled_folder(where: str, key: str = "", max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Open a folder of images, flat or nested, without labels.

    Args:
        where: path of the folder.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.
        max_pixels: the largest number of pixels that is decoded.

    Raises:
        DataError: it is missing, is not a folder, or holds no images.
    """
    root = existing_folder(where, key)
    walk = Walk()
    files = list(walk.images(root))
    if not files:
        raise DataError(
            f"{at(key, where)}: holds no images{_instead(walk, where)}", "give a folder of image files, flat or nested"
        )
    return source_of_files(where, root, files, max_pixels, notes=walk.notes(where))


def _instead(walk: Walk, where: str) -> str:
    return "".join(f" ({note})" for note in walk.notes(where))


def source_of_files(
    where: str,
    root: Path,
    files: list[ImageFile],
    max_pixels: int,
    labels: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> ImageSource:
    """Return a source of image files.

    Args:
        where: the folder as the user named it.
        root: its path, to which the names of the files are relative.
        files: the images.
        max_pixels: the largest number of pixels that is decoded.
        labels: (n,) int64 indices into `classes`, or None.
        classes: names of the classes.
        notes: notes for the user.
    """
    # The path of the folder is part of the stamp: an unpacked archive may have equal names, sizes and times in train/ and test/.
    home = os.fspath(root.resolve())
    names = [file.name for file in files]
    return ImageSource(
        where=where.rstrip("/") or where,
        names=names,
        read=lambda i: open_image(root / names[i], max_pixels),  # holds the names alone: there may be a million files
        stamp=[(home, file.name, file.size, file.mtime_ns) for file in files],
        labels=labels,
        classes=list(classes),
        notes=list(notes),
    )


def write_class_folders(source: ImageSource, folder: Path) -> None:
    """Write the images of a labeled source as PNG files, in one sub-folder per class.

    Args:
        source: with labels.
        folder: to write into; it must not exist, or be empty.

    Raises:
        DataError: the folder holds something, the source has no labels, or an image cannot be read.
        EdgekitError: it cannot be written.
    """
    if source.labels is None:
        raise DataError(f"{source.where}: has no labels", "open it with open_labeled")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not an empty folder", "name a new one")
    for i, label in enumerate(source.labels):
        path = folder / source.classes[label] / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        source.rgb(i).save(content, "PNG")
        write_bytes(path, content.getvalue())


def existing_folder(where: str, key: str = "") -> Path:
    """Return the path of an existing folder.

    Raises:
        DataError: it does not exist, or is a file.
    """
    root = Path(where).expanduser()
    if not root.exists():
        raise DataError(
            f"{at(key, where)}: no such folder", "relative paths start at the folder that the command runs in"
        )
    if not root.is_dir():
        raise DataError(f"{at(key, where)}: is not a folder", "give the folder that holds the images")
    return root


def _utf8(name: str, where: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the name of the class folder {name!a} is not UTF-8", "rename the folder") from error
    return name
