"""Split labeled images into test, probe, label budget and the rest, by names, labels and content digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.labels import budget_counts, class_counts, draw, read_label_file, share, shuffled
from edgekit.data.sources import ImageSource
from edgekit.data.stratify import each_class, stratified
from edgekit.errors import DataError
from edgekit.recipe import DataConfig, LabelCount
from edgekit.text import counted

Rows = NDArray[np.int64]
NO_ROWS: Rows = np.zeros(0, dtype=np.int64)
_SHOWN = 3  # pictures of several classes that a note names


@dataclass(frozen=True)
class Division:
    """The split, as sorted positions in the labeled source; `test` is empty if the test set has a source of its own.

    `training` holds the images that are in neither test nor probe nor copies of such images; the budget is a part of it.
    """

    test: Rows
    probe: Rows
    budget: Rows
    training: Rows
    notes: list[str]


def divide(
    data: DataConfig, source: ImageSource, digests: Sequence[str], test_digests: Sequence[str] | None
) -> Division:
    """Draw the test set, then the probe set, then the label budget; later sets get no image of an earlier one, by content.

    Args:
        data: the recipe's part: `test`, `probe`, `labels` and the seeds.
        source: the labeled images.
        digests: their content digests; empty for unreadable images.
        test_digests: those of the test set if it has a source of its own, else None.

    Raises:
        DataError: a class has too few images, or the label file is invalid.
    """
    return _Divider(data, source, digests).divide(test_digests)


def copies_of(digests: Sequence[str], taken: Iterable[str]) -> NDArray[np.bool_]:
    """Return which images have the content of one that is taken."""
    known = set(taken)
    return np.array([d in known for d in digests], dtype=bool)


class _Divider:
    def __init__(self, data: DataConfig, source: ImageSource, digests: Sequence[str]) -> None:
        assert source.labels is not None
        self.data = data
        self.source = source
        self.labels = source.labels
        self.digests = digests
        self.open = np.array([bool(d) for d in digests], dtype=bool)
        self.several = self.labels.ndim == 2  # classes of an image
        self.totals, self.total = self._count_open(), int(self.open.sum())
        self.notes: list[str] = []

    def divide(self, test_digests: Sequence[str] | None) -> Division:
        self._check_readable()
        self._note_conflicts()
        test = NO_ROWS
        if test_digests is not None:
            self._close_copies(test_digests, "also in the test set")
        else:
            assert isinstance(self.data.test, float)
            test = self._draw_share("test", self.data.test, self.open)
            self._close(test, "equal to test images")
        base, base_total = self._count_open(), int(self.open.sum())

        listed = self._listed() if isinstance(self.data.labels, str) else None
        probe = NO_ROWS
        if self.data.probe:
            allowed = self.open.copy()
            if listed is not None:  # a label chosen by hand must not be lost to the probe set
                allowed &= ~copies_of(self.digests, (self.digests[i] for i in listed))
            probe = self._draw_share("probe", self.data.probe, allowed)
            self._close(probe, "equal to probe images")
        self._check_training_left()
        budget = listed if listed is not None else self._draw_budget(base, base_total)
        return Division(test, probe, budget, np.flatnonzero(self.open), self.notes)

    def _draw_share(self, purpose: str, fraction: float, allowed: NDArray[np.bool_]) -> Rows:
        order = shuffled(self.source.names, self.digests, purpose, self.data.split_seed)
        if self.several:
            return self._stratified(order, allowed, share(self.total, fraction))
        counts = [share(n, fraction) for n in self.totals]
        return draw(order, self.labels, counts, allowed)

    def _stratified(self, order: Sequence[int], allowed: NDArray[np.bool_], size: int) -> Rows:
        free = [i for i in order if allowed[i]]
        return np.array(stratified(free, self.labels, min(size, len(free))), dtype=np.int64)

    def _draw_budget(self, base: list[int], base_total: int) -> Rows:
        labels = self.data.labels
        assert not isinstance(labels, str)
        order = shuffled(self.source.names, self.digests, "labels", self.data.label_seed)
        if self.several and isinstance(labels, float):
            size = int(self.open.sum()) if labels == 1.0 else share(base_total, labels)
            return self._stratified(order, self.open, size)
        counts = budget_counts(labels, base, self._count_open(), self.source.classes)
        if self.several:
            negatives = labels.per_class if isinstance(labels, LabelCount) else int(labels)
            free = [i for i in order if self.open[i]]
            return np.array(each_class(free, self.labels, counts, negatives), dtype=np.int64)
        return draw(order, self.labels, counts, self.open)

    def _listed(self) -> Rows:
        path = str(self.data.labels)
        rows = read_label_file(Path(path).expanduser(), self.source.names, self.labels, self.source.classes)
        lost = [i for i in rows if not self.open[i]]
        if lost:
            first, more = lost[0], f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            if not self.digests[first]:
                raise DataError(
                    f"data.labels: {path}: {self.source.names[first]} cannot be decoded{more}",
                    "remove it from the file",
                )
            raise DataError(
                f"data.labels: {path}: {self.source.names[first]} is in the test set{more}",
                "remove it from the file, or name other images in data.test",
            )
        return rows

    def _close(self, rows: Rows, why: str) -> None:
        self.open[rows] = False
        self._close_copies((self.digests[i] for i in rows), why)

    def _close_copies(self, taken: Iterable[str], why: str) -> None:
        copies = copies_of(self.digests, taken) & self.open
        self.open &= ~copies
        if copies.any():
            self.notes.append(f"took {counted(int(copies.sum()), 'image')} out of {self.source.where}: {why}")

    def _check_readable(self) -> None:
        for name, total in zip(self.source.classes, self.totals, strict=True):
            if not total:
                raise DataError(
                    f"data.labeled: {self.source.where}: no image of the class {name} can be read", "replace its images"
                )

    def _check_training_left(self) -> None:
        for name, total, left in zip(self.source.classes, self.totals, self._count_open(), strict=True):
            if not left:
                raise DataError(
                    f"data.labeled: {self.source.where}: none of the {total} images of the class {name} is left to train on after the "
                    "test and probe sets",
                    "add images, set data.probe to 0, or name other images in data.test",
                )

    def _note_conflicts(self) -> None:
        first: dict[str, int] = {}
        second: dict[str, int] = {}
        for i, digest in enumerate(self.digests):
            if digest and np.any(self.labels[first.setdefault(digest, i)] != self.labels[i]):
                second.setdefault(digest, i)
        if second:
            names = self.source.names
            pairs = [f"{names[first[digest]]} = {names[i]}" for digest, i in second.items()]
            shown = "; ".join(pairs[:_SHOWN]) + ("; …" if len(pairs) > _SHOWN else "")
            found = (
                counted(len(pairs), "image has", "images have") + " different labels in"
                if self.several
                else counted(len(pairs), "image is", "images are") + " in more than one class of"
            )
            self.notes.append(f"{found} {self.source.where}: {shown}")

    def _count_open(self) -> list[int]:
        return class_counts(self.labels[self.open], len(self.source.classes))
