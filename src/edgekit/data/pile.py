"""Split a pool without class folders: a share is held out before anything is labeled; labels may follow one by one.

The held-out share depends only on content and seed. A new label moves no image from the pool into the test set or back, so
the encoder remains valid: it was pretrained on the same pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.labels import read_classes, share, shuffled
from edgekit.data.source import ImageSource, refuse_same_but_case
from edgekit.errors import DataError
from edgekit.recipe import DataConfig
from edgekit.text import counted

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pile:
    """The split, as positions in the source.

    Attributes:
        training: the pool: images that are neither held out nor copies of held-out images, sorted.
        held_out: the first image of each held-out content, in the order of the draw: a prefix of it is a random sample.
        budget: the labeled images of `training`, sorted.
        test: the labeled images of `held_out`, sorted.
        labels: (n,) int64 indices into `classes`, -1 without a label.
        classes: names, sorted; empty if nothing is labeled.
        notes: notes for the user, one sentence each.
    """

    training: Rows
    held_out: Rows
    budget: Rows
    test: Rows
    labels: NDArray[np.int64]
    classes: list[str]
    notes: list[str]


@dataclass(frozen=True)
class OwnTestSet:
    """A test set with a source of its own.

    Attributes:
        where: as the recipe names it.
        classes: names, sorted.
        digests: content digests of its images.
    """

    where: str
    classes: list[str]
    digests: Sequence[str]


def divide_pile(
    data: DataConfig,
    source: ImageSource,
    digests: Sequence[str],
    own_test: OwnTestSet | None = None,
    *,
    check: bool = True,
) -> Pile:
    """Hold out a share of the images, or the copies of test images, then read the labels.

    Args:
        data: the recipe's part: `labels` is perhaps a CSV file; `labeled` is None.
        source: the images; its own labels are not used.
        digests: their content digests; empty for unreadable images.
        own_test: the test set if `data.test` names one; else `data.test` is the share to hold out.
        check: refuse labels that are not enough to train and test.

    Raises:
        DataError: too few images can be read, or the label file is invalid.
    """
    if own_test is None:
        assert isinstance(data.test, float)
        held_out, notes = _hold_out(source, digests, data.test, data.split_seed)
        held_contents = {digests[i] for i in held_out}
    else:
        held_out, held_contents = np.zeros(0, dtype=np.int64), set(own_test.digests)
        copies = sum(d in held_contents for d in digests if d)
        notes = [f"took {counted(copies, 'image')} of {source.where} out of the pool: also in the test set"]
        notes = notes if copies else []
    training = np.array([i for i, d in enumerate(digests) if d and d not in held_contents], dtype=np.int64)
    if len(training) < 2:
        raise DataError(
            f"data.pool: {source.where}: only {counted(len(training), 'different image')} left to train on",
            "add images",
        )
    if not isinstance(data.labels, str):
        nothing = np.zeros(0, dtype=np.int64)
        classes = own_test.classes if own_test is not None else []
        return Pile(training, held_out, nothing, nothing, np.full(len(digests), -1, np.int64), classes, notes)
    labels, classes = _labels(Path(data.labels).expanduser(), source, digests, own_test)
    budget, test = training[labels[training] >= 0], np.sort(held_out[labels[held_out] >= 0])
    if check:
        _check(data.labels, classes, labels, budget, None if own_test is not None else test)
    tested = range(len(classes)) if own_test is not None else labels[test].tolist()
    untaught = sorted(set(tested) - set(labels[budget].tolist()))
    if untaught:
        names = ", ".join(classes[c] for c in untaught)
        notes.append(
            f"only test images have the class {names}: no model can learn it; label training images of it, too"
        )
    return Pile(training, held_out, budget, test, labels, classes, notes)


def _hold_out(source: ImageSource, digests: Sequence[str], fraction: float, seed: int) -> tuple[Rows, list[str]]:
    """Return the first image of each held-out content, and a note about copies."""
    order = [i for i in shuffled(source.names, digests, "test", seed) if digests[i]]
    first = first_of_each(order, digests)
    contents = list(first)[: share(len(first), fraction)]
    held_out = set(contents)
    copies = sum(digests[i] in held_out for i in order) - len(contents)
    notes = [f"took {counted(copies, 'copy', 'copies')} of held-out images of {source.where} out of the pool"]
    return np.array([first[d] for d in contents], dtype=np.int64), notes if copies else []


def first_of_each(rows: Iterable[int], digests: Sequence[str]) -> dict[str, int]:
    """Return each content among the images at `rows`, with the first of its copies."""
    first: dict[str, int] = {}
    for i in rows:
        first.setdefault(digests[i], int(i))
    return first


def _labels(
    path: Path, source: ImageSource, digests: Sequence[str], own_test: OwnTestSet | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the class of each image, -1 without a label; copies of a labeled image get its class. Where the test set has classes, they
    are all classes."""
    by_content: dict[str, str] = {}
    for i, name in read_classes(path, source.names).items():
        if not digests[i]:
            raise DataError(f"data.labels: {path}: {source.names[i]} cannot be decoded", "remove it from the file")
        if by_content.setdefault(digests[i], name) != name:
            raise DataError(
                f"data.labels: {path}: {source.names[i]} has the class {name}, but a copy of it has {by_content[digests[i]]}",
                "give both the same class",
            )
    classes = sorted(set(by_content.values()))
    if own_test is not None:
        unknown = [name for name in classes if name not in own_test.classes]
        if unknown:
            raise DataError(
                f"data.labels: {path}: the class {unknown[0]} is not in {own_test.where} ({', '.join(own_test.classes)})",
                "give the images the names of the test set's classes",
            )
        classes = own_test.classes
    refuse_same_but_case(classes, f"data.labels: {path}")
    index = {name: c for c, name in enumerate(classes)}
    return np.array([index[by_content[d]] if d in by_content else -1 for d in digests], dtype=np.int64), classes


def _check(path: str, classes: list[str], labels: NDArray[np.int64], budget: Rows, test: Rows | None) -> None:
    """Refuse labels that are not enough to train and, where the test images are of the pile, to test."""
    trained = set(labels[budget].tolist())
    if len(trained) < 2:
        names = ", ".join(classes[c] for c in sorted(trained)) or "none"
        raise DataError(
            f"data.labels: {path}: the labeled training images are of {counted(len(trained), 'class', 'classes')} ({names})",
            "label training images of at least two classes; `edgekit label suggest` lists them",
        )
    if test is not None and not len(test):
        raise DataError(
            f"data.labels: {path}: no held-out image has a label, so the test set is empty",
            "label some of the images that `edgekit label suggest` lists for the test set",
        )
