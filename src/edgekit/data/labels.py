"""Draws by content: the held-out images, and the images of the label budget.

Every draw sorts the images of a class by a hash of the seed and the content digest, and takes a prefix. So a draw is the same on
every machine and with all library versions; renaming files does not change it; adding a file changes it by at most one image; and
a smaller draw of the same seed is contained in a larger one.
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
from edgekit.text import counted


def shuffled(names: Sequence[str], digests: Sequence[str], purpose: str, seed: int) -> list[int]:
    """Return the positions of the images in the order in which a draw for `purpose` with `seed` takes them."""

    def key(i: int) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{purpose}:{seed}:{digests[i]}".encode(), digest_size=16).digest(), names[i]

    return sorted(range(len(names)), key=key)


def share(count: int, fraction: float) -> int:
    """Return a fraction of the images of a class, rounded to the nearest integer (half up), at least 1."""
    return max(1, math.floor(count * fraction + 0.5))


def draw(
    order: Sequence[int], labels: NDArray[np.int64], counts: Sequence[int], allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Draw the first `counts[c]` allowed images of each class c in `order`; fewer if the class has fewer.

    Returns:
        The sorted positions of the images.
    """
    left = list(counts)
    drawn = []
    for i in order:
        if allowed[i] and left[labels[i]] > 0:
            left[labels[i]] -= 1
            drawn.append(i)
    return np.array(sorted(drawn), dtype=np.int64)


def class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the number of images of each class, of labels (n,) or, where images have several, (n, classes) of 0 and 1."""
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    return [int(count) for count in counts]


def budget_counts(
    labels: int | float | LabelCount,
    base: Sequence[int],
    available: Sequence[int],
    classes: Sequence[str],
    where: str = "data.labels",
) -> list[int]:
    """Return the number of labels of each class in a label budget.

    An integer is the number per class; with `at_most`, a class that has fewer uses all it has. A fraction is that share of the
    training images of each class (the probe set included), so imbalanced classes keep their proportions; 1.0 is all images outside
    the probe set.

    Args:
        labels: the recipe's `labels`: a fraction in (0, 1], or a count per class.
        base: number of training images of each class, the probe set included.
        available: number of training images of each class outside the probe set.
        classes: their names.
        where: what set the budget, for the message.

    Raises:
        DataError: a class has fewer images than that.
    """
    if isinstance(labels, LabelCount):
        if labels.at_most:
            return [min(labels.per_class, n) for n in available]
        labels = labels.per_class
    if isinstance(labels, float):
        counts = list(available) if labels == 1.0 else [share(n, labels) for n in base]
    else:
        counts = [labels] * len(classes)
    short = [c for c in range(len(classes)) if available[c] < counts[c]]
    if short:
        c = min(short, key=lambda c: available[c])
        more = f"; {counted(len(short) - 1, 'more class is', 'more classes are')} short" if len(short) > 1 else ""
        raise DataError(
            f"{where}: the class {classes[c]} has {available[c]} training images outside the probe set, but the budget ({labels}) needs "
            f"{counts[c]}{more}",
            f"set it to at most {min(available)} per class, lower data.probe, add images, or allow fewer in rare classes: "
            f"data.labels: {{per_class: {max(counts)}, at_most: true}}",
        )
    return counts


def read_label_file(
    path: Path, names: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.int64]:
    """Read a CSV file; return the positions in `names` of the images in its column `file`.

    Args:
        path: UTF-8 CSV with a header; `file` is relative to the labeled folder; the optional column `class` must agree
            with the folder.
        names: all images of the labeled folder.
        labels: the class indices of `names`, (n,); or (n, classes) of 0 and 1, which need no column `class`.
        classes: the names of the classes.

    Raises:
        DataError: the file is missing, is not such a CSV file, names an unknown image or a wrong class, or lacks a class.
    """
    known = {name: i for i, name in enumerate(names)}
    listed_rows: dict[int, None] = {}
    for line, row in _rows(path):
        text = row["file"].strip()
        name = _name(row, known)
        where = f"data.labels: {path}, line {line}"
        if name not in known:
            raise DataError(
                f"{where}: {text or 'an empty name'} is not an image of the labeled folder",
                near(name, names[:20000]) or f"give names relative to it, like {names[0]}",
            )
        i = known[name]
        class_name = row.get("class", "").strip()
        if class_name and labels.ndim == 1 and class_name != classes[labels[i]]:
            raise DataError(
                f"{where}: {text} is in the folder of {classes[labels[i]]}, not {class_name}", "correct one of the two"
            )
        listed_rows[i] = None
    counts = class_counts(labels[list(listed_rows)], len(classes))
    missing = [c for c, count in enumerate(counts) if not count]
    if missing:
        listed = ", ".join(classes[c] for c in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(f"data.labels: {path}: lists no image of {listed}", "add at least one image of every class")
    return np.array(sorted(listed_rows), dtype=np.int64)


def read_classes(path: Path, names: Sequence[str]) -> dict[int, str]:
    """Read the classes of images from a CSV file: a map from positions in `names` to class names.

    Args:
        path: UTF-8 CSV with the columns `file` (relative to the pool) and `class`; rows without a class are ignored.
        names: all images of the pool.

    Raises:
        DataError: the file is missing, is not such a CSV file, names an unknown image, gives an image two classes, or has no class.
    """
    known = {name: i for i, name in enumerate(names)}
    labels: dict[int, str] = {}
    for line, row in _rows(path):
        name, class_name = _name(row, known), row.get("class", "").strip()
        if not class_name:
            continue
        where = f"data.labels: {path}, line {line}"
        if name not in known:
            raise DataError(
                f"{where}: {name} is not an image of data.pool",
                near(name, names[:20000]) or f"give names relative to it, like {names[0]}",
            )
        if labels.setdefault(known[name], class_name) != class_name:
            raise DataError(
                f"{where}: {name} has the class {class_name}, but an earlier line says {labels[known[name]]}",
                "keep one of the two lines",
            )
    if not labels:
        raise DataError(
            f"data.labels: {path}: no image has a class", "fill in the column `class`; the header must be file,class"
        )
    return labels


def _name(row: dict[str, str], known: dict[str, int]) -> str:
    """Return the file of a row, with forward slashes."""
    text = row["file"].strip()
    return text if text in known else str(PurePosixPath(text.replace("\\", "/")))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        columns, rows = read_csv(path)
        if "file" not in columns:
            raise DataError(
                f"data.labels: {path}: has no column `file`, its columns are {shortened(', '.join(columns), 500) or 'none'}",
                "make the first line a header like file,class",
            )
        yield from rows
    except Unreadable as error:
        if error.missing:
            raise DataError(
                f"data.labels: {path}: no such file",
                "give a fraction (0.1), a count per class (20), or a CSV file with the column `file`",
            ) from error
        raise DataError(f"data.labels: {path}: cannot be read: {error.detail}", "give a CSV file in UTF-8") from error
