"""Read a CSV file with the classes of images, in any of three forms: one column of separated names (`cat;dog`), one row for each image and
class, or one column of 0 and 1 for each class. An image without a class is one that shows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, near, shortened
from edgekit.foreign import Unreadable, read_csv, read_text
from edgekit.text import plural

Form = Literal["separated", "pairs", "columns"]
_FILES = ("file", "filename", "file_name", "image", "image_name", "image_path", "img", "path", "name", "id")
_CLASSES = ("class", "classes", "label", "labels", "tag", "tags", "category", "categories", "class_name")
SEPARATORS = (";", "|", ",")
_TRUTH = {"0": False, "0.0": False, "": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True)
class LabelTable:
    """The content of the file.

    Attributes:
        form: of the file.
        separator: between the names of a separated cell; else empty.
        files: names as written, each once, in the order of their first rows.
        lines: the line of the first row of each file.
        classes: names: sorted; in the order of the columns; or in that of the list that was given.
        found: bool (n, k), which image has which class.
        file_column: name of the column of the images.
        split: whether it has a column named `split`, which is not read.
    """

    form: Form
    separator: str
    files: list[str]
    lines: list[int]
    classes: list[str]
    found: NDArray[np.bool_]
    file_column: str = ""
    split: bool = False

    @property
    def one_each(self) -> bool:
        """Whether every image has exactly one class, in a form that does not itself speak of several."""
        return self.form != "columns" and bool((self.found.sum(axis=1) == 1).all())

    def describe(self) -> str:
        """The form, in words."""
        return {
            "separated": f"one column of class names, separated by {self.separator}",
            "pairs": "one row for each image and class",
            "columns": "one column of 0 and 1 for each class",
        }[self.form]


def read_label_table(path: Path, where: str, class_names: str | None = None) -> LabelTable:
    """Read the file, and find out its form.

    The column of the images is the one named file, image, path or alike, else the first one. With a column named class, classes, labels,
    tags or alike, or with one other column alone, names are read from it: separated, where any cell holds `;`, `|` or `,` (tried in this order),
    else one class a row. Otherwise every other column is a class.

    Args:
        path: of a UTF-8 CSV file with a header.
        where: the start of error messages.
        class_names: a text file with the names of the classes, one a line; None: those that occur.

    Raises:
        DataError: it cannot be read, is in none of these forms, contradicts itself, or names a class that is not listed, or has no class.
    """
    columns, rows = _rows(path, where)
    if len(columns) < 2:
        raise DataError(
            f"{where}: has {len(columns) or 'no'} {plural(len(columns), 'column')}, and it takes the images and their classes",
            "make the first line a header like file,classes",
        )
    listed = None if class_names is None else _listed(Path(class_names))
    of_files = next((c for name in _FILES for c in columns if c.strip().lower() == name), columns[0])
    others = [c for c in columns if c != of_files]
    of_classes = next((c for name in _CLASSES for c in others if c.strip().lower() == name), None)
    if of_classes is None and len(others) > 1:
        table = _columns(rows, of_files, others, where, listed)
    else:
        table = _names(rows, of_files, of_classes or others[0], where, listed)
    return replace(table, file_column=of_files, split="split" in {c.strip().lower() for c in others} - {of_classes})


_Rows = list[tuple[int, dict[str, str]]]


def _rows(path: Path, where: str) -> tuple[list[str], _Rows]:
    try:
        columns, lines = read_csv(path)
        rows = list(lines)
    except Unreadable as error:
        what = "no such file" if error.missing else f"cannot be read: {error.detail}"
        raise DataError(f"{where}: {what}", "give a CSV file in UTF-8, with a header like file,classes") from error
    if not rows:
        raise DataError(f"{where}: has no row below its header", "write a row for each image")
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise DataError(f"{where}: has two columns named {shortened(twice) or 'nothing'}", "rename or remove one")
    return columns, rows


def _listed(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in read_text(path.expanduser()).splitlines()]
    except Unreadable as error:
        raise DataError(
            f"data.class_names: {path}: cannot be read: {error.detail}", "give a text file in UTF-8"
        ) from error
    return list(dict.fromkeys(name for name in names if name))


class _Collector:
    """The classes of each image, row by row."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.classes: dict[str, set[str]] = {}
        self.lines: dict[str, int] = {}

    def name(self, line: int, row: dict[str, str], of_files: str) -> str:
        name = row[of_files].strip()
        if not name:
            raise DataError(f"{self.where}, line {line}: names no image", f"fill in its column {of_files}")
        self.lines.setdefault(name, line)
        return name

    def whole(self, line: int, name: str, classes: set[str]) -> None:
        """Note a row that says all about an image; a second one must say the same."""
        if self.classes.setdefault(name, classes) != classes:
            raise DataError(
                f"{self.where}, line {line}: {name} has {_shown(classes)}, but line {self.lines[name]} says {_shown(self.classes[name])}",
                "keep one of the two lines",
            )

    def one(self, line: int, name: str, class_name: str) -> None:
        """Note a row that names one class of an image, or says that it has none."""
        known = self.classes.get(name)
        if known is not None and bool(known) != bool(class_name):
            raise DataError(
                f"{self.where}, line {line}: {name} has {_shown({class_name} - {''})}, but line {self.lines[name]} says {_shown(known)}",
                "keep one of the two lines",
            )
        self.classes.setdefault(name, set()).update({class_name} - {""})

    def table(self, form: Form, separator: str, classes: Sequence[str]) -> LabelTable:
        index = {name: i for i, name in enumerate(classes)}
        found = np.zeros((len(self.classes), len(classes)), dtype=bool)
        for i, names in enumerate(self.classes.values()):
            found[i, [index[name] for name in names]] = True
        without = [classes[c] for c in np.flatnonzero(~found.any(axis=0)).tolist()]
        if without:
            more = f" and {len(without) - 1} more classes" if len(without) > 1 else ""
            raise DataError(
                f"{self.where}: no image has the class {without[0]}{more}", "add images of it, or remove the class"
            )
        return LabelTable(form, separator, list(self.classes), list(self.lines.values()), list(classes), found)


def _columns(rows: _Rows, of_files: str, others: list[str], where: str, listed: list[str] | None) -> LabelTable:
    names = {c: c.strip() for c in others}
    if listed is not None:
        _check_listed(dict.fromkeys(names.values(), 1), listed, where)
    collector = _Collector(where)
    for line, row in rows:
        classes = set()
        for column, name in names.items():
            value = _TRUTH.get(row[column].strip().lower())
            if value is None:
                raise DataError(
                    f"{where}, line {line}: the column {shortened(column)} has {shortened(row[column].strip())}, which is not 0 or 1",
                    "leave only the columns of classes beside the images, or name the column with the names of the classes `classes`",
                )
            if value:
                classes.add(name)
        collector.whole(line, collector.name(line, row, of_files), classes)
    order = list(names.values()) if listed is None else listed
    return collector.table("columns", "", order)


def _names(rows: _Rows, of_files: str, column: str, where: str, listed: list[str] | None) -> LabelTable:
    cells = [row[column] for _, row in rows]
    separator = next((s for s in SEPARATORS if any(s in cell for cell in cells)), "")
    collector = _Collector(where)
    first: dict[str, int] = {}
    for line, row in rows:
        file = collector.name(line, row, of_files)
        parts = row[column].split(separator) if separator else [row[column]]
        classes = {part.strip() for part in parts} - {""}
        for name in classes:
            first.setdefault(name, line)
        if separator:
            collector.whole(line, file, classes)
        else:
            collector.one(line, file, next(iter(classes), ""))
    if not first:
        raise DataError(f"{where}: no image has a class", f"fill in the column {column}")
    if listed is not None:
        _check_listed(first, listed, where)
    return collector.table("separated" if separator else "pairs", separator, listed or sorted(first))


def _check_listed(first: dict[str, int], listed: list[str], where: str) -> None:
    """Refuse a class that is not in the list of names."""
    for name, line in first.items():
        if name not in listed:
            raise DataError(
                f"{where}, line {line}: {shortened(name)} is not one of the {len(listed)} classes in data.class_names",
                near(name, listed) or "correct the name, or add it to that file",
            )


def _shown(classes: set[str]) -> str:
    return shortened(", ".join(sorted(classes)), 100) if classes else "no class"


def position_of(names: Sequence[str]) -> dict[str, int]:
    """Positions of images by the ways in which a row may name them: the whole relative path; and, where that is unique, its last part, and
    both without the extension."""
    positions: dict[str, int] = {}
    for written in (_whole, _last, _whole_stem, _last_stem):
        found: dict[str, int] = {}
        for i, name in enumerate(names):
            key = written(name)
            found[key] = -1 if key in found else i  # of several, none is meant
        for key, i in found.items():
            if i >= 0:
                positions.setdefault(key, i)
    return positions


def normal(name: str) -> str:
    """Return a name with forward slashes, without a leading `./`."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _whole(name: str) -> str:
    return name


def _last(name: str) -> str:
    return PurePosixPath(name).name


def _whole_stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _last_stem(name: str) -> str:
    return PurePosixPath(name).stem
