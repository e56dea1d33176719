"""Split the images into pool, label budget, probe set and test set, which share no picture by content."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.anomaly_sets import AnomalySets, load_anomaly_sets, training_images
from edgekit.data.decode import Decoded, Stream, decode
from edgekit.data.divide import NO_ROWS, Rows, copies_of, divide
from edgekit.data.images import ImageSet, Skipped
from edgekit.data.labels import class_counts
from edgekit.data.pile import OwnTestSet, divide_pile
from edgekit.data.pixels import Pixels, choose, read_only
from edgekit.data.ranges import stated, with_range
from edgekit.data.sources import ImageSource, in_classes_of, official_test, open_labeled, open_pool
from edgekit.errors import DataError
from edgekit.files import write_bytes, write_json
from edgekit.pixel_range import PixelRange
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig
from edgekit.run import Run
from edgekit.text import counted

_MANY_BYTES = 1 << 30  # a label budget above this size is streamed if the pool is


@dataclass(frozen=True)
class Splits:
    """The sets of a run. Test, probe and (pool with label budget) share no picture.

    Args:
        classes: names of the classes; labels are indices into it. Empty if nothing is labeled yet: then all sets except the pool are empty.
        pool: no labels; stored with the shorter side `resize_to` (`fit: crop`) or at `image_size` (`stretch`), for augmentation.
        labeled: the label budget, stored like the pool.
        probe: labeled, with evaluation preprocessing; empty if `probe` is 0.
        test: labeled, with evaluation preprocessing.
        skipped: files that could not be decoded.
        notes: notes for the user, one sentence each.
        pixel_range: range that images of more than 8 bits were read with; None without such images.
        anomaly: the sets of `task: anomaly`, whose training images are the pool; None for other tasks.
    """

    classes: list[str]
    pool: ImageSet
    labeled: ImageSet
    probe: ImageSet
    test: ImageSet
    skipped: list[Skipped]
    notes: list[str]
    pixel_range: PixelRange | None = None
    anomaly: AnomalySets | None = None


def set_sizes(splits: Splits) -> dict[str, int]:
    """Return the number of images of each set."""
    return {name: len(getattr(splits, name)) for name in ("pool", "labeled", "probe", "test")}


def training_preprocessing(data: DataConfig) -> Preprocessing:
    """Return how training images are stored: the center in the models' shape, with the shorter side `resize_to`; the augmentation crops from it."""
    evaluation = data.preprocessing()
    if evaluation.fit == "stretch":
        return evaluation
    return evaluation.model_copy(update={"image_size": evaluation.image_size.with_shorter(evaluation.resize_to)})


def load_splits(data: DataConfig, run: Run | None = None) -> Splits:
    """Decode the images of a recipe and split them.

    The draws depend only on the content of the pictures and the seeds. On repeated calls, decoded images come from the cache.

    Args:
        data: the recipe's part.
        run: the run of the recipe; a run that is older than `data.pixel_range` keeps the pixels that it was trained with.

    Raises:
        DataError: a folder is missing, empty or not a folder, there are too few classes or they conflict, a class has too few images,
            the label file is invalid, or too many files cannot be decoded.
    """
    if data.normal is not None:
        return _normal_splits(data, run)
    if data.labeled is None:
        return _pile_splits(data, run)
    source = open_labeled(data.labeled, "data.labeled", data)
    test_source = open_labeled(official_test(data.test), "data.test", data) if isinstance(data.test, str) else None
    pool_source = open_pool(data.pool, "data.pool", data) if data.pool is not None else None
    if test_source is not None:
        test_source = in_classes_of(test_source, source)
    training = [source] if pool_source is None else [source, pool_source]
    splits, pixel_range = with_range(
        stated(data, run),
        [training, [test_source] if test_source is not None else []],
        lambda known: _divided(
            data,
            source.ranged(known),
            test_source.ranged(known) if test_source is not None else None,
            pool_source.ranged(known) if pool_source is not None else None,
        ),
    )
    return replace(splits, pixel_range=pixel_range)


def _pile_splits(data: DataConfig, run: Run | None) -> Splits:
    """Split a pool without class folders: the held-out images depend only on content, so that later labels move no image."""
    assert data.pool is not None
    source = open_pool(data.pool, "data.pool", data)
    test_source = open_labeled(official_test(data.test), "data.test", data) if isinstance(data.test, str) else None
    splits, pixel_range = with_range(
        stated(data, run),
        [[source], [test_source] if test_source is not None else []],
        lambda known: _divided_pile(
            data, source.ranged(known), test_source.ranged(known) if test_source is not None else None
        ),
    )
    return replace(splits, pixel_range=pixel_range)


def _normal_splits(data: DataConfig, run: Run | None) -> Splits:
    """Return the images that anomaly detection trains on as the pool, and no labels: its test set has masks, see `Splits.anomaly`."""
    sets = load_anomaly_sets(data, run)
    pool, stored = sets.normal, training_preprocessing(data)
    if stored != sets.preprocessing:
        pool = ImageSet(training_images(sets, data, stored).images, pool.names, pool.digests)
    none = ImageSet(np.zeros((0, *sets.preprocessing.image_size, 3), np.uint8), [], [], np.zeros(0, np.int64))
    return Splits([], pool, none, none, none, sets.skipped, sets.notes, sets.pixel_range, sets)


def _divided_pile(data: DataConfig, source: ImageSource, test_source: ImageSource | None) -> Splits:
    store = _Store(data)
    decoded = store.decode(source, stream=data.stream)
    test, own_test = None, None
    if test_source is not None:
        test = _whole(test_source, store.decode(test_source, data.preprocessing()))
        own_test = OwnTestSet(test_source.where, test_source.classes, test.digests)
    pile = divide_pile(data, source, decoded.digests, own_test)
    store.notes += pile.notes
    labeled = replace(source, labels=pile.labels, classes=pile.classes)
    budget = store.budget(labeled, decoded, pile.budget)
    test = test if test is not None else store.evaluation_set(labeled, decoded, pile.test)
    probe = store.evaluation_set(labeled, decoded, NO_ROWS)
    pool = _without_labels(_chosen(source, decoded, pile.training))
    return Splits(pile.classes, pool, budget, probe, test, store.skipped, store.notes)


def _divided(
    data: DataConfig, source: ImageSource, test_source: ImageSource | None, pool_source: ImageSource | None
) -> Splits:
    store = _Store(data)
    decoded = store.decode(source, stream=data.stream)
    test: ImageSet | None = None
    if test_source is not None:
        test = _whole(test_source, store.decode(test_source, data.preprocessing()))
    division = divide(data, source, decoded.digests, test.digests if test is not None else None)
    store.notes += division.notes

    labeled = store.budget(source, decoded, division.budget)
    probe = store.evaluation_set(source, decoded, division.probe)
    if test is None:
        test = store.evaluation_set(source, decoded, division.test)
    if pool_source is not None:
        pool = _pool(pool_source, store.decode(pool_source, stream=data.stream), test, probe, store.notes)
    elif len(division.budget) == len(division.training):
        pool = ImageSet(labeled.images, labeled.names, labeled.digests)  # one array serves both
    else:
        pool = _without_labels(_chosen(source, decoded, division.training))
    copies = len(pool) - len(set(pool.digests))
    if copies:
        store.notes.append(
            f"kept in the pool: {counted(copies, 'image that is a copy', 'images that are copies')} of another one"
        )
    return Splits(source.classes, pool, labeled, probe, test, store.skipped, store.notes)


def write_splits(splits: Splits, folder: Path) -> list[str]:
    """Record the splits: labels.csv, probe.csv, test.csv (file, class, digest), skipped.csv (file, reason) and
    splits.json (counts, digests, notes).

    Returns:
        The file names.
    """
    sets = {"labels": splits.labeled, "probe": splits.probe, "test": splits.test}
    for name, images in sets.items():
        assert images.labels is not None
        rows = zip(images.names, class_names(images.labels, splits.classes), images.digests, strict=True)
        _write_csv(folder / f"{name}.csv", ("file", "class", "digest"), rows)
    _write_csv(folder / "skipped.csv", ("file", "reason"), ((s.path, s.reason) for s in splits.skipped))
    summary: dict[str, Any] = {"classes": splits.classes, "pixel_range": splits.pixel_range}
    for name, images in {"pool": splits.pool, **sets}.items():
        summary[name] = {"images": len(images), "side": images.size.plain, "digest": images.digest}
        if images.labels is not None:
            counts = class_counts(images.labels, len(splits.classes))
            summary[name]["per_class"] = dict(zip(splits.classes, counts, strict=True))
    write_json(folder / "splits.json", summary | {"skipped": len(splits.skipped), "notes": splits.notes})
    return [*(f"{name}.csv" for name in sets), "skipped.csv", "splits.json"]


def class_names(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Return the class of each image; where images have several, their names with `;` between them."""
    if labels.ndim == 1:
        return [classes[c] for c in labels]
    return [";".join(classes[c] for c in np.flatnonzero(row).tolist()) for row in labels]


class _Store:
    """Decodes the images of one recipe, and collects skipped files and notes."""

    def __init__(self, data: DataConfig) -> None:
        self.training = training_preprocessing(data)
        self.evaluation = data.preprocessing()
        self.max_skipped = data.max_skipped
        self.skipped: list[Skipped] = []
        self.notes: list[str] = []

    def decode(
        self, source: ImageSource, preprocessing: Preprocessing | None = None, stream: Stream | None = None
    ) -> Decoded:
        """Decode with the preprocessing of training images, or with `preprocessing`."""
        decoded = decode(source, preprocessing or self.training, self.max_skipped, stream)
        self.notes += [note for note in [*source.notes, *decoded.notes] if note not in self.notes]
        known = set(self.skipped)
        self.skipped += [s for s in decoded.skipped if s not in known]
        return decoded

    def budget(self, source: ImageSource, decoded: Decoded, rows: Rows) -> ImageSet:
        """Return the labeled training images; decoded into memory, unless the pool is streamed and they are large."""
        if decoded.lazy is None:
            return _copy(source, decoded, rows)
        if len(rows) * np.prod(decoded.images.shape[1:]) > _MANY_BYTES:
            return _set(source, decoded, decoded.lazy.subset(rows), rows)
        part = source.subset(rows)
        return _whole(part, self.decode(part))

    def evaluation_set(self, source: ImageSource, decoded: Decoded, rows: Rows) -> ImageSet:
        """Return labeled images with evaluation preprocessing; decoded again if training stores another size."""
        if (self.training == self.evaluation and decoded.lazy is None) or not len(rows):
            images = _copy(source, decoded, rows)
            empty = np.zeros((0, *self.evaluation.image_size, 3), np.uint8)
            return images if len(rows) else ImageSet(empty, [], [], images.labels)
        part = source.subset(rows)
        return _whole(part, self.decode(part, self.evaluation))


def _pool(source: ImageSource, decoded: Decoded, test: ImageSet, probe: ImageSet, notes: list[str]) -> ImageSet:
    """Return the images of the pool that are in neither the test nor the probe set."""
    free = np.array([bool(d) for d in decoded.digests], dtype=bool)
    for other, name in ((test, "test"), (probe, "probe")):
        copies = copies_of(decoded.digests, other.digests) & free
        free &= ~copies
        if copies.any():
            notes.append(f"took {counted(int(copies.sum()), 'image')} out of the pool: also in the {name} set")
    if not free.any():
        raise DataError(
            f"data.pool: {source.where}: all its images are in the test or probe set",
            "name other images in data.pool, or remove data.pool",
        )
    return _without_labels(_chosen(source, decoded, np.flatnonzero(free)))


def _copy(source: ImageSource, decoded: Decoded, rows: Rows) -> ImageSet:
    return _set(source, decoded, read_only(decoded.images[rows]), rows)


def _whole(source: ImageSource, decoded: Decoded) -> ImageSet:
    """Return all images that could be read."""
    return _chosen(source, decoded, np.flatnonzero([bool(d) for d in decoded.digests]))


def _chosen(source: ImageSource, decoded: Decoded, rows: Rows) -> ImageSet:
    """Return the images at `rows` (sorted), without copying their pixels.

    The images beyond the new length fill the gaps before it. The order is part of the digest of the set, which the stages of
    older runs recorded: in sorted order, those stages would be trained again.
    """
    order = np.arange(len(rows))
    gaps = np.setdiff1d(order, rows, assume_unique=True)
    order[gaps] = rows[rows >= len(rows)]
    return _set(source, decoded, choose(decoded.images, order), order)


def _set(source: ImageSource, decoded: Decoded, images: Pixels, order: Rows) -> ImageSet:
    return ImageSet(
        images=images,
        names=[source.names[i] for i in order],
        digests=[decoded.digests[i] for i in order],
        labels=source.labels[order] if source.labels is not None else None,
    )


def _without_labels(images: ImageSet) -> ImageSet:
    return ImageSet(images.images, images.names, images.digests)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))  # a file name may not be UTF-8
