"""A `ImageSource`: a list of names with a way to read each image, wherever they lie. Nothing is decoded here."""

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
    """An image has more than 8 bits, and nobody has said or found yet which range of its values is to be used."""


@dataclass(frozen=True)
class ImageSource:
    """Images that can be read one by one, by several threads at once.

    Args:
        where: the folder, shards or table as the recipe names them, or `digits`.
        names: n names, with forward slashes: paths relative to the folder, `SHARD/MEMBER`, `TABLE/ROW`.
        read: from a position in `names` to an upright image of any mode; raises DataError where it cannot be decoded.
        stamp: what changes when the files do (for the cache's key), one value a name; None where nothing is to be cached.
        labels: (n,) int64 indices into `classes`, or None.
        classes: names of the classes; empty where there are no labels.
        notes: what a user should know, one sentence each.
        base: what `path` puts before a name; default `where`.
        lost: what was found and cannot even be listed as an image (a damaged part of a shard, a sample without a label).
        streamable: whether any image can be read in about the time that it takes to decode it, in any order.
        pixel_range: of images of more than 8 bits (see `edgekit.pixel_range.to_gray`); auto: not known yet.
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
        """An image as upright 8-bit RGB.

        Args:
            index: its position in `names`.
            depth: counts what became of it.

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
        """The same images, with a range for those of more than 8 bits."""
        return replace(self, pixel_range=pixel_range)

    def subset(self, index: Sequence[int] | NDArray[np.int64]) -> ImageSource:
        """The source of the images at `index` alone."""
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
        """The name of an image as a user would write it."""
        base = self.base if self.base is not None else self.where
        return f"{base}/{self.names[index]}" if base else self.names[index]


def at(key: str, where: str) -> str:
    """The beginning of an error message: the recipe's key, where there is one, and what it names."""
    return f"{key}: {where}" if key else where


def refuse_same_but_case(classes: Sequence[str], where: str) -> None:
    """Refuse classes that some file systems and people take for the same.

    Raises:
        DataError: two names differ by case alone.
    """
    folded: dict[str, str] = {}
    for name in classes:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(f"{where}: the classes {other} and {name} differ by case alone", "rename or merge them")


def numbered(values: Sequence[int | str], names_file: str | None, where: str) -> tuple[list[str], NDArray[np.int64]]:
    """Labels as indices into sorted classes.

    Args:
        values: one label an image: all whole numbers, or all names.
        names_file: text file whose line i (from 0) names the number i; None to call a class by its number.
        where: the beginning of an error message.

    Returns:
        The names of the classes that occur (by number, or by name), and (n,) int64 indices into them.

    Raises:
        DataError: numbers and names are mixed, there are fewer than two classes, two differ by case alone, or the file has
            no such line.
    """
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) == 2:
        number, name = (next(v for v in values if isinstance(v, str) == text) for text in (False, True))
        raise DataError(f"{where}: its labels are numbers ({number}) and names ({name})", "use one of the two")
    found = sorted(set(values))
    classes = [str(value) for value in found]
    if names_file is not None and kinds == {False}:
        classes = _lines(names_file, [int(value) for value in found])
    if len(classes) < 2:
        raise DataError(
            f"{where}: holds one class only ({', '.join(classes)})" if classes else f"{where}: holds no labeled images",
            "a classifier needs images of at least two classes",
        )
    refuse_same_but_case(classes, where)
    index = {value: i for i, value in enumerate(found)}
    return classes, np.array([index[value] for value in values], dtype=np.int64)


def numbered_apart(names: list[str]) -> tuple[list[str], list[str]]:
    """Names with each once, the second `crane` as `crane (2)`; and those that came more than once."""
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
    """The names of the given numbers."""
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
            "line i names the label i; the first line is the label 0's",
        )
    unique, _ = numbered_apart(names)
    return [unique[n] for n in numbers]
