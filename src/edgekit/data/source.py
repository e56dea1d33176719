"""`ImageSource`: a list of names and a function that reads each image, wherever it lies. Nothing is decoded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.images import Skipped
from edgekit.errors import DataError
from edgekit.foreign import Unreadable, read_text
from edgekit.image_files import extensions
from edgekit.pixel_range import Depth, PixelRange, is_deep
from edgekit.preprocess import to_rgb

__all__ = ["ImageSource", "RangeNeeded", "at", "extensions", "numbered", "refuse_same_but_case"]


class RangeNeeded(Exception):
    """An image has more than 8 bits, and its range of values is neither stated nor measured yet."""


@dataclass(frozen=True)
class ImageSource:
    """Images that can be read one by one, by several threads at once.

    Args:
        where: the folder, shards or table as the recipe names them, or `digits`.
        names: n names, with forward slashes: paths relative to the folder, `SHARD/MEMBER`, `TABLE/ROW`.
        read: from a position in `names` to an upright image of any mode; raises DataError if it cannot be decoded.
        stamp: changes when the files change (for the cache key), one value per name; None if nothing is to be cached.
        labels: (n,) int64 indices into `classes`; where images have several, (n, k) int64 of 0 and 1; or None.
        classes: names of the classes; empty without labels.
        notes: notes for the user, one sentence each.
        base: prefix that `path` puts before a name; default `where`.
        lost: samples that cannot be listed as images (a damaged part of a shard, a sample without a label).
        streamable: whether reading any image, in any order, takes about as long as decoding it.
        pixel_range: range of images of more than 8 bits (see `edgekit.pixel_range.to_gray`); auto: not known yet.
    """

    where: str
    names: list[str]
    read: Callable[[int], Image.Image]
    stamp: list[Any] | None = None
    labels: NDArray[np.int64] | None = None
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    base: str | None = None
    lost: list[Skipped] = field(default_factory=list)
    streamable: bool = True
    pixel_range: PixelRange | Literal["auto"] | None = "auto"

    def rgb(self, index: int, depth: Depth | None = None) -> Image.Image:
        """Read an image as upright 8-bit RGB.

        Args:
            index: its position in `names`.
            depth: statistics, to which the image is added.

        Raises:
            DataError: it cannot be decoded.
            RangeNeeded: it has more than 8 bits, and the range is not known yet.
        """
        image = self.read(index)
        deep = is_deep(image)
        if deep and self.pixel_range == "auto":
            raise RangeNeeded
        pixel_range = None if self.pixel_range == "auto" else self.pixel_range
        rgb = to_rgb(image, pixel_range)
        if depth is not None:
            depth.add(image, rgb.getchannel(0) if deep else None, pixel_range)
        return rgb

    def ranged(self, pixel_range: PixelRange | Literal["auto"] | None) -> ImageSource:
        """Return the same source with a range for images of more than 8 bits."""
        return replace(self, pixel_range=pixel_range)

    def subset(self, index: Sequence[int] | NDArray[np.int64]) -> ImageSource:
        """Return a source with the images at `index` only."""
        rows = [int(i) for i in index]
        return ImageSource(
            where=self.where,
            names=[self.names[i] for i in rows],
            read=lambda i: self.read(rows[i]),
            stamp=[self.stamp[i] for i in rows] if self.stamp is not None else None,
            labels=self.labels[rows] if self.labels is not None else None,
            classes=self.classes,
            base=self.base,
            streamable=self.streamable,
            pixel_range=self.pixel_range,
        )

    def path(self, index: int) -> str:
        """Return the path of an image as a user would write it."""
        base = self.base if self.base is not None else self.where
        return f"{base}/{self.names[index]}" if base else self.names[index]


def at(key: str, where: str) -> str:
    """Return the start of an error message: the recipe's key, if there is one, and its value."""
    return f"{key}: {where}" if key else where


def refuse_same_but_case(classes: Sequence[str], where: str) -> None:
    """Refuse class names that some file systems and people cannot tell apart.

    Raises:
        DataError: two names differ only in case.
    """
    folded: dict[str, str] = {}
    for name in classes:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(f"{where}: the classes {other} and {name} differ only in case", "rename or merge them")


def numbered(values: Sequence[int | str], names_file: str | None, where: str) -> tuple[list[str], NDArray[np.int64]]:
    """Convert labels to indices into sorted classes.

    Args:
        values: one label per image: all integers, or all names.
        names_file: text file whose line i (from 0) is the name of class i; None to name a class by its number.
        where: the start of error messages.

    Returns:
        The names of the classes that occur (by number, or by name), and (n,) int64 indices into them.

    Raises:
        DataError: numbers and names are mixed, there are fewer than two classes, two differ only in case, or the file lacks
            a line.
    """
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) == 2:
        number, name = (next(v for v in values if isinstance(v, str) == text) for text in (False, True))
        raise DataError(
            f"{where}: some labels are numbers ({number}), others names ({name})", "use numbers only, or names only"
        )
    distinct = sorted(set(values))
    classes = [str(value) for value in distinct]
    if names_file is not None and kinds == {False}:
        classes = _lines(names_file, [int(value) for value in distinct])
    if len(classes) < 2:
        raise DataError(
            f"{where}: holds only one class ({', '.join(classes)})" if classes else f"{where}: holds no labeled images",
            "a classifier needs images of at least two classes",
        )
    refuse_same_but_case(classes, where)
    index = {value: i for i, value in enumerate(distinct)}
    return classes, np.array([index[value] for value in values], dtype=np.int64)


def numbered_apart(names: list[str]) -> tuple[list[str], list[str]]:
    """Make names unique, the second `crane` as `crane (2)`; also return the names that were repeated."""
    taken, seen, unique = set(names), set[str](), []
    for name in names:
        new, number = name, 1
        while new in seen or (number > 1 and new in taken):
            number += 1
            new = f"{name} ({number})"
        seen.add(new)
        unique.append(new)
    return unique, [name for name, times in Counter(names).items() if times > 1]


def _lines(path: str, numbers: list[int]) -> list[str]:
    """Return the names of some class numbers."""
    try:
        lines = read_text(Path(path).expanduser()).splitlines()
    except Unreadable as error:
        raise DataError(
            f"data.class_names: {path}: cannot be read: {error.detail}", "give a text file in UTF-8"
        ) from error
    names = [line.strip() for line in lines]
    missing = [n for n in numbers if not 0 <= n < len(names) or not names[n]]
    if missing:
        raise DataError(
            f"data.class_names: {path}: has no name for the label {missing[0]}",
            "write one name per line; the first line names the label 0",
        )
    unique, _ = numbered_apart(names)
    return [unique[n] for n in numbers]
