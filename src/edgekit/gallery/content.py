"""A gallery: unit vectors with their classes, and the record of what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.arguments import checked
from edgekit.errors import DataError, near
from edgekit.gallery import file
from edgekit.gallery.record import Agreement, GalleryRecord
from edgekit.gallery.search import nearest_of_each_class, unit
from edgekit.gallery.threshold import calibrate
from edgekit.text import counted


@dataclass(frozen=True, eq=False)
class Gallery:
    """The embeddings of some images of each class. It does not change: `added` and `removed` return another one.

    Attributes:
        record: the model that made the embeddings, the classes, and the threshold.
        vectors: float32 (n, features), each of length 1, grouped by class in the record's order; a large one is mapped from its file.
        keys: uint64 (n,), a digest of each image's file, so that none is in it twice.
    """

    record: GalleryRecord
    vectors: NDArray[np.float32]
    keys: NDArray[np.uint64]

    def __repr__(self) -> str:
        threshold = self.threshold
        at = "no threshold" if threshold is None else f"unknown up to {threshold:.3f}"
        size = f"{counted(len(self), 'image')} of {counted(len(self.classes), 'class', 'classes')}"
        return f"<Gallery {self.record.bundle} {self.record.variant}: {size}, {at}>"

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    @checked()
    def open(cls, path: Path | str) -> Gallery:
        """Read a gallery.

        Raises:
            DataError: it is missing, damaged, or of a newer edgekit.
        """
        return cls(*file.read(Path(path)))

    @checked()
    def write(self, path: Path | str) -> None:
        """Write the gallery; a reader of `path` sees the old gallery or the new one.

        Raises:
            EdgekitError: it cannot be written.
        """
        file.write(Path(path), self.record, self.vectors, self.keys)

    @property
    def classes(self) -> list[str]:
        """The names, sorted."""
        return self.record.classes

    @property
    def counts(self) -> dict[str, int]:
        """The number of images of each class."""
        return dict(zip(self.record.classes, self.record.counts, strict=True))

    @property
    def threshold(self) -> float | None:
        """At this similarity and below an image is unknown; None: every image gets a class."""
        return self.record.threshold.value

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(classes,) the first row of each class."""
        return np.concatenate([[0], np.cumsum(self.record.counts)[:-1]]).astype(np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) the class of each row, as a position in `classes`."""
        return np.repeat(np.arange(len(self.classes)), self.record.counts)

    def similarities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the similarity of each embedding (m, features) with each class, float32 (m, classes).

        It is the mean cosine with the nearest images of the class, `record.neighbors` of them.
        """
        found = np.empty((len(embeddings), len(self.classes)), np.float32)
        for part, block in nearest_of_each_class(unit(embeddings), self.vectors, self.starts, self.record.neighbors):
            found[part] = block
        return found

    def nearest(self, embeddings: NDArray[np.float32], top: int = 1) -> list[list[tuple[str, float]]]:
        """Return for each embedding (m, features) the `top` most similar classes with their similarities, the most similar first.

        Of equally similar classes the first by name comes first.
        """
        found: list[list[tuple[str, float]]] = []
        for row in self.similarities(embeddings):
            few = np.arange(len(row))
            if top < len(row):  # all that are as similar as the last one of the top, so that names decide among them
                few = np.flatnonzero(row >= np.partition(row, len(row) - top)[len(row) - top])
            order = few[np.argsort(-row[few], kind="stable")][:top]
            found.append([(self.classes[i], float(row[i])) for i in order])
        return found

    def added(
        self, classes: Sequence[str], embeddings: NDArray[np.float32], keys: NDArray[np.uint64]
    ) -> tuple[Gallery, int]:
        """Return the gallery with further images, its threshold calibrated again, and how many it held already.

        Args:
            classes: the class of each image, new or old.
            embeddings: (m, features), of any length.
            keys: uint64 (m,), digests of the images' files.

        Raises:
            DataError: an image is in the gallery in another class already.
        """
        names = np.array([*np.array(self.classes, object)[self.labels], *classes], object)
        vectors = np.concatenate([self.vectors, unit(embeddings)]) if len(embeddings) else self.vectors
        every = np.concatenate([self.keys, keys])
        kept = distinct(names, every)
        record, order = arranged(self.record, names[kept])
        grown = Gallery(record, np.ascontiguousarray(vectors[kept][order]), every[kept][order])
        return grown.recalibrated(), len(every) - len(kept)

    def removed(self, classes: Sequence[str]) -> Gallery:
        """Return the gallery without some classes, its threshold calibrated again.

        Raises:
            DataError: it has no such class, or no class would be left.
        """
        for name in classes:
            if name not in self.classes:
                hint = (
                    near(name, self.classes)
                    or f"it has {', '.join(self.classes[:8])}{' …' if self.classes[8:] else ''}"
                )
                raise DataError(f"the gallery has no class {name}", hint)
        gone = set(classes)
        if len(gone) == len(self.classes):
            raise DataError("no class would be left", "delete the gallery's file instead")
        names = np.array(self.classes, object)[self.labels]
        kept = np.flatnonzero([name not in gone for name in names])
        record, order = arranged(self.record, names[kept])
        return Gallery(record, np.ascontiguousarray(self.vectors[kept][order]), self.keys[kept][order]).recalibrated()

    def recalibrated(self, *, false_accepts: float | None = None, value: float | None = None) -> Gallery:
        """Return the gallery with another threshold, and with the number of neighbors that is best for its images.

        Args:
            false_accepts: share of the unknown images that may get a class.
            value: the threshold itself. With neither, the one that the gallery was made with is calibrated again.
        """
        if false_accepts is None and value is None:
            was = self.record.threshold
            false_accepts, value = was.false_accepts, was.value
        counts = np.array(self.record.counts)
        neighbors, found = calibrate(self.vectors, counts, false_accepts=false_accepts, value=value)
        return replace(self, record=self.record.model_copy(update={"neighbors": neighbors, "threshold": found}))

    def with_agreement(self, found: dict[str, Agreement]) -> Gallery:
        """Return the gallery with the agreement of other variants on some images, together with what it says already."""
        both = {name: value.and_also(self.record.agreement.get(name)) for name, value in found.items()}
        return replace(self, record=self.record.model_copy(update={"agreement": {**self.record.agreement, **both}}))


def distinct(names: NDArray[np.object_], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rows of the first image of each key, in order.

    Raises:
        DataError: the same image is in two classes.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    if (wrong := np.flatnonzero(names != names[first][group])).size:
        row = int(wrong[0])
        raise DataError(
            f"the same image is in two classes, {names[first][group][row]} and {names[row]}",
            "remove it from one of them",
        )
    return np.sort(first)


def arranged(record: GalleryRecord, names: NDArray[np.object_]) -> tuple[GalleryRecord, NDArray[np.int64]]:
    """Return the record for images of these classes, and the order in which they lie: by class, in each as they came."""
    classes = sorted(set(names.tolist()))
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.int64)
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return record.model_copy(update={"classes": classes, "counts": counts}), np.argsort(labels, kind="stable")
