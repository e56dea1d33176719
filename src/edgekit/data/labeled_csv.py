"""Labeled images that a CSV file lists: one class for each, or several. The images lie in the folder of the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.image_folders import unlabeled_folder
from edgekit.data.label_table import LabelTable, normal, position_of, read_label_table
from edgekit.data.source import ImageSource, at, refuse_same_but_case
from edgekit.errors import DataError, near
from edgekit.recipe import DataConfig
from edgekit.text import counted
from edgekit.walk import is_system

_NAMES = ("labels", "train", "training", "classes", "annotations")  # of files that are meant to be read


def is_label_file(where: str) -> bool:
    """Whether a recipe's value names a CSV file."""
    return where.lower().endswith(".csv") and not Path(where).expanduser().is_dir()


def labeled_csv(where: str, key: str, data: DataConfig) -> ImageSource:
    """Open the images that a CSV file lists (see `label_table`), with their labels.

    Args:
        where: path of the file; the names in it are relative to its folder, or are names of files anywhere below it.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.
        data: `classes_per_image` says of which kind the labels are: int64 (n,) indices, or int64 (n, k) of 0 and 1.

    Raises:
        DataError: the file is not such a file, names an image that is not there, or its labels are of the other kind.
    """
    path = Path(where).expanduser()
    table = read_label_table(path, at(key, where), data.class_names)
    refuse_same_but_case(table.classes, at(key, where))
    several = data.classes_per_image == "any"
    (_check_several if several else _check_one)(table, at(key, where))
    return _source(where, key, table, several, data.max_pixels)


def images_of(where: str, key: str, data: DataConfig) -> ImageSource:
    """Open the same images without their labels."""
    table = read_label_table(Path(where).expanduser(), at(key, where), data.class_names)
    opened = _source(where, key, table, True, data.max_pixels)
    return replace(opened, labels=None, classes=[])


def _source(where: str, key: str, table: LabelTable, several: bool, max_pixels: int) -> ImageSource:
    folder = str(Path(where).expanduser().parent)
    images = unlabeled_folder(folder, key, max_pixels)
    positions = position_of(images.names)
    if normal(table.file_column) in positions:
        raise DataError(
            f"{at(key, where)}: has no header: its first line names the image {table.file_column}",
            "make the first line a header like file,class",
        )
    first: dict[int, int] = {}
    for row, name in enumerate(table.files):
        i = positions.get(name, positions.get(_inside(normal(name), folder)))
        if i is None:
            raise DataError(
                f"{at(key, where)}, line {table.lines[row]}: {name} is not an image in {folder}",
                near(normal(name), images.names[:20000])
                or f"give names relative to that folder, like {images.names[0]}",
            )
        if (before := first.setdefault(i, row)) != row and (table.found[before] != table.found[row]).any():
            raise DataError(
                f"{at(key, where)}, line {table.lines[row]}: {name} is the image of line {table.lines[before]}, with other classes",
                "keep one of the two lines",
            )
    rows = sorted(first)
    found = table.found[[first[i] for i in rows]]
    opened = images.subset(rows)
    notes = [
        f"{where}: {table.describe()}; {counted(len(table.classes), 'class', 'classes')}, "
        f"{counted(len(rows), 'image')}, {found.sum() / len(rows):.2f} classes an image"
        + _not_one(found.sum(axis=1), [table.lines[first[i]] for i in rows])
    ]
    if table.split:
        notes.append(
            f"{where}: its column split is not used: for test images of your own, write their rows to a second file, and name it in data.test"
        )
    return ImageSource(
        where=where,
        names=opened.names,
        read=opened.read,
        stamp=opened.stamp,
        labels=found.astype(np.int64) if several else found.argmax(axis=1).astype(np.int64),
        classes=table.classes,
        notes=notes,
        base=folder,
    )


def _inside(name: str, folder: str) -> str:
    """Return an absolute name of a file in the folder as one that is relative to it; any other name as it is."""
    if not Path(name).is_absolute():
        return name
    for root in (Path(folder).absolute(), Path(folder).resolve()):
        if Path(name).is_relative_to(root):
            return Path(name).relative_to(root).as_posix()
    return name


def _not_one(counts: NDArray[np.int64], lines: list[int]) -> str:
    """How many images have several classes or none, and on which line the first of each is, from their numbers of classes, (n,)."""
    text = ""
    for which, words in ((counts > 1, "with several"), (counts == 0, "without any")):
        if which.any():
            at_line = min(line for line, found in zip(lines, which.tolist(), strict=True) if found)
            count = int(which.sum())
            text += f", {counted(count, 'image')} {words} (line {at_line}{', …' if count > 1 else ''})"
    return text


def _check_several(table: LabelTable, where: str) -> None:
    if table.one_each:
        raise DataError(
            f"{where}: each of its {len(table.files)} images has exactly one class, so that there is nothing multi-label in it",
            "set task: classification; or, if images may have several, write one column of 0 and 1 for each class",
        )


def _check_one(table: LabelTable, where: str) -> None:
    counts = table.found.sum(axis=1)
    if (counts == 1).all():
        if len(table.classes) < 2:
            raise DataError(f"{where}: holds only one class ({table.classes[0]})", "a classifier needs two or more")
        return
    row = int((counts != 1).argmax())
    names = ", ".join(table.classes[c] for c in np.flatnonzero(table.found[row])[:3])
    what = f"{counted(counts[row], 'class', 'classes')} ({names})" if counts[row] else "no class"
    raise DataError(
        f"{where}, line {table.lines[row]}: {table.files[row]} has {what}, but a classification has one for each image",
        "set task: multilabel, or correct the file",
    )


@dataclass(frozen=True)
class Listing:
    """A CSV file of images and classes in a folder, and the other CSV files there."""

    path: Path
    others: list[Path]


def listing_in(folder: Path) -> Listing | None:
    """Find a CSV file that lists the images of a folder; None where there is none, or the folder has class folders that say the same.

    Of several, it is the one named labels.csv, train.csv, classes.csv or annotations.csv.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    named = [path for name in _NAMES for path in files if path.stem.lower() == name]
    chosen = named[0] if named else files[0] if len(files) == 1 else None
    if chosen is None:
        return None
    try:
        table = read_label_table(chosen, str(chosen))
    except DataError:
        if named and not _class_folders(folder):  # it is meant, and the user should know what is wrong with it
            raise
        return None
    if table.one_each and _class_folders(folder):
        return None
    return Listing(chosen, [path for path in files if path != chosen])


def _class_folders(folder: Path) -> bool:
    return sum(path.is_dir() and not is_system(path.name) for path in folder.iterdir()) > 1
