"""Draws by content: which images are held out, and which few carry their labels.

Every draw sorts the images of a class by a hash of the seed and the image's content digest, and takes a prefix. So a draw is
the same on every machine and with every version of every library; renaming files does not change it; adding a file changes it
by at most one image; and a smaller draw of the same seed is contained in a larger one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, near, shortened
from edgekit.foreign import Unreadable, read_csv
from edgekit.recipe import LabelCount


def shuffled(names: Sequence[str], digests: Sequence[str], purpose: str, seed: int) -> list[int]:
    """The positions of the images in the order in which a draw for `purpose` with `seed` takes them."""

    def key(i: int) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{purpose}:{seed}:{digests[i]}".encode(), digest_size=16).digest(), names[i]

    return sorted(range(len(names)), key=key)


def share(count: int, fraction: float) -> int:
    """A fraction of a class's images, rounded to the nearest (half up), at least 1."""
    return max(1, math.floor(count * fraction + 0.5))


def draw(
    order: Sequence[int], labels: NDArray[np.int64], counts: Sequence[int], allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The first `counts[c]` allowed images of each class c in `order`; fewer where the class has fewer.

    Returns:
        Their positions, sorted.
    """
    left = list(counts)
    drawn = []
    for i in order:
        if allowed[i] and left[labels[i]] > 0:
            left[labels[i]] -= 1
            drawn.append(i)
    return np.array(sorted(drawn), dtype=np.int64)


def budget_counts(
    labels: int | float | LabelCount, base: Sequence[int], available: Sequence[int], classes: Sequence[str]
) -> list[int]:
    """How many labels of each class a budget takes.

    A whole number is that many of every class; with `at_most`, a class that has fewer gives what it has.
    A fraction is that fraction of every class's training images (the probe set
    counts in), so imbalanced classes keep their proportions; 1.0 is everything that is not in the probe set.

    Args:
        labels: the recipe's `labels`: a fraction in (0, 1], or a count a class.
        base: training images of each class, those of the probe set included.
        available: training images of each class that a label may be drawn for.
        classes: their names.

    Raises:
        DataError: a class has fewer images than that.
    """
    if isinstance(labels, LabelCount):
        if labels.at_most:
            return [min(labels.per_class, n) for n in available]
        labels = labels.per_class
    if isinstance(labels, float):
        asked = list(available) if labels == 1.0 else [share(n, labels) for n in base]
    else:
        asked = [labels] * len(classes)
    short = [c for c in range(len(classes)) if available[c] < asked[c]]
    if short:
        c = min(short, key=lambda c: available[c])
        more = f"; {len(short) - 1} more classes are short" if len(short) > 1 else ""
        raise DataError(
            f"data.labels: class {classes[c]} has {available[c]} training images outside the probe set, the budget ({labels}) asks for "
            f"{asked[c]}{more}",
            f"ask for at most {min(available)} a class, lower data.probe, add images, or let rare classes give fewer: "
            f"data.labels: {{per_class: {max(asked)}, at_most: true}}",
        )
    return asked


def read_label_file(
    path: Path, names: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.int64]:
    """The positions in `names` of the images that a CSV file lists in its column `file`.

    Args:
        path: UTF-8 CSV with a header; `file` is relative to the labeled folder; a column `class`, where there is one, must
            agree with the folder.
        names: all images of the labeled folder.
        labels: their classes' indices.
        classes: the names of the classes.

    Raises:
        DataError: the file is missing, is no such CSV, names an unknown file or another class, or leaves a class out.
    """
    known = {name: i for i, name in enumerate(names)}
    found: dict[int, None] = {}
    for line, row in _rows(path):
        text = row["file"].strip()
        name = _name(row, known)
        where = f"data.labels: {path}, line {line}"
        if name not in known:
            raise DataError(
                f"{where}: {text or 'an empty name'} is no image of the labeled folder",
                near(name, names[:20000]) or f"names are relative to it, like {names[0]}",
            )
        i = known[name]
        given = row.get("class", "").strip()
        if given and given != classes[labels[i]]:
            raise DataError(
                f"{where}: {text} is in the folder of {classes[labels[i]]}, not {given}", "correct one of the two"
            )
        found[i] = None
    missing = sorted(set(range(len(classes))) - {int(labels[i]) for i in found})
    if missing:
        listed = ", ".join(classes[c] for c in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(f"data.labels: {path}: lists no image of {listed}", "every class needs at least one label")
    return np.array(sorted(found), dtype=np.int64)


def read_classes(path: Path, names: Sequence[str]) -> dict[int, str]:
    """The classes that a CSV file gives to images: from positions in `names` to names of classes.

    Args:
        path: UTF-8 CSV with the columns `file` (relative to the pool) and `class`; a row without a class is no label yet.
        names: all images of the pool.

    Raises:
        DataError: the file is missing, is no such CSV, names an unknown file, gives an image two classes, or labels nothing.
    """
    known = {name: i for i, name in enumerate(names)}
    found: dict[int, str] = {}
    for line, row in _rows(path):
        name, given = _name(row, known), row.get("class", "").strip()
        if not given:
            continue
        where = f"data.labels: {path}, line {line}"
        if name not in known:
            raise DataError(
                f"{where}: {name} is no image of data.pool",
                near(name, names[:20000]) or f"names are relative to it, like {names[0]}",
            )
        if found.setdefault(known[name], given) != given:
            raise DataError(
                f"{where}: {name} is {given} here and {found[known[name]]} before", "keep one of the two lines"
            )
    if not found:
        raise DataError(
            f"data.labels: {path}: gives no image a class", "fill in the column `class`, the header is file,class"
        )
    return found


def _name(row: dict[str, str], known: dict[str, int]) -> str:
    """The file of a row, as a name with forward slashes."""
    text = row["file"].strip()
    return text if text in known else str(PurePosixPath(text.replace("\\", "/")))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        columns, rows = read_csv(path)
        if "file" not in columns:
            raise DataError(
                f"data.labels: {path}: has no column `file`, its columns are {shortened(', '.join(columns), 500) or 'none'}",
                "the first line must be a header like file,class",
            )
        yield from rows
    except Unreadable as error:
        if error.missing:
            raise DataError(
                f"data.labels: {path}: no such file",
                "give a fraction (0.1), a count a class (20), or a CSV with the column `file`",
            ) from error
        raise DataError(
            f"data.labels: {path}: cannot be read: {error.detail}", "it must be a CSV file in UTF-8"
        ) from error
