"""Who may see which image: pool, label budget, probe set and test set, apart from each other by content."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.decode import Decoded, decode
from edgekit.data.images import ImageSet, Skipped
from edgekit.data.labels import budget_counts, draw, read_label_file, share, shuffled
from edgekit.data.sources import Source, open_labelled, open_pool
from edgekit.errors import DataError
from edgekit.files import write_bytes, write_json
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Data

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """The sets of a run. Test, probe and (pool with label budget) share no picture.

    Args:
        classes: names of the classes; labels are indices into it.
        pool: no labels; stored at side `resize_to` (`fit: crop`) or `image_size` (`stretch`), for augmentation.
        labelled: the label budget, stored like the pool.
        probe: labelled, evaluation preprocessing; empty where `probe` is 0.
        test: labelled, evaluation preprocessing.
        skipped: files that could not be decoded.
        notes: what a user should know, one sentence each.
    """

    classes: list[str]
    pool: ImageSet
    labelled: ImageSet
    probe: ImageSet
    test: ImageSet
    skipped: list[Skipped]
    notes: list[str]


def training_preprocessing(data: Data) -> Preprocessing:
    """How training images are stored: the whole of the shorter side, for the augmentation to crop from."""
    evaluation = data.preprocessing()
    if evaluation.fit == "stretch":
        return evaluation.model_copy(update={"resize_to": evaluation.image_size})
    return evaluation.model_copy(update={"image_size": evaluation.resize_to})


def load_splits(data: Data) -> Splits:
    """Decode a recipe's images and divide them.

    The draws depend on the pictures' content and the seeds alone. Decoded images come from the cache on repeated calls.

    Raises:
        DataError: a folder is missing, empty or no folder, the classes do not suffice or conflict, a class has too few images, the
            label file is wrong, or too many files cannot be decoded.
    """
    return _Loader(data).load()


def write_splits(splits: Splits, folder: Path) -> list[str]:
    """Write down who saw which image: labels.csv, probe.csv, test.csv (file, class, digest), skipped.csv (file, reason) and
    splits.json (counts, digests, notes).

    Returns:
        The file names.
    """
    sets = {"labels": splits.labelled, "probe": splits.probe, "test": splits.test}
    for name, images in sets.items():
        assert images.labels is not None
        rows = zip(images.names, (splits.classes[c] for c in images.labels), images.digests, strict=True)
        _write_csv(folder / f"{name}.csv", ("file", "class", "digest"), rows)
    _write_csv(folder / "skipped.csv", ("file", "reason"), ((s.path, s.reason) for s in splits.skipped))
    summary: dict[str, Any] = {"classes": splits.classes}
    for name, images in {"pool": splits.pool, **sets}.items():
        summary[name] = {"images": len(images), "side": images.side, "digest": images.digest}
        if images.labels is not None:
            summary[name]["per_class"] = dict(zip(splits.classes, _count(images.labels, splits.classes), strict=True))
    write_json(folder / "splits.json", summary | {"skipped": len(splits.skipped), "notes": splits.notes})
    return [*(f"{name}.csv" for name in sets), "skipped.csv", "splits.json"]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))  # a file's name may be no UTF-8


class _Loader:
    """The state of one `load_splits`."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.skipped: list[Skipped] = []
        self.notes: list[str] = []
        self.training = training_preprocessing(data)
        self.evaluation = data.preprocessing()
        if self.evaluation.fit == "stretch":  # resize_to has no effect: the same squares serve both
            self.evaluation = self.training

    def load(self) -> Splits:
        data = self.data
        source = open_labelled(data.labelled, "data.labelled")
        self.notes += source.notes
        separate_test = open_labelled(data.test, "data.test") if isinstance(data.test, str) else None
        if separate_test is not None:
            self.notes += separate_test.notes
            _check_classes(separate_test, source)
        separate_pool = open_pool(data.pool, "data.pool") if data.pool is not None else None
        assert source.labels is not None
        labels, classes = source.labels, source.classes

        decoded = self._decode(source)
        readable = np.array([bool(d) for d in decoded.digests])
        totals = _count(labels[readable], classes)
        if 0 in totals:
            name = classes[totals.index(0)]
            raise DataError(f"data.labelled: {source.where}: no image of class {name} can be read", "replace them")
        self._note_conflicts(decoded.digests, labels)

        # Test, then probe, then the label budget; each is closed to what follows by content.
        closed = ~readable
        test: ImageSet | None = None
        test_rows: Rows = np.zeros(0, dtype=np.int64)
        if separate_test is not None:
            test_decoded = self._decode(separate_test, self.evaluation)
            test = _set(separate_test, test_decoded, _readable(test_decoded), in_place=True)
            self._close(closed, decoded.digests, test.digests, f"images of {source.where} are also in the test set")
        else:
            assert isinstance(data.test, float)
            counts = [share(n, data.test) for n in totals]
            order = shuffled(source.names, decoded.digests, "test", data.split_seed)
            test_rows = np.array(draw(order, labels, counts, ~closed), dtype=np.int64)
            closed[test_rows] = True
            taken = [decoded.digests[i] for i in test_rows]
            self._close(closed, decoded.digests, taken, f"images of {source.where} are copies of test images")
        base = _count(labels[~closed], classes)

        listed = None
        if isinstance(data.labels, str):
            listed = np.array(
                read_label_file(Path(data.labels).expanduser(), source.names, labels, classes), dtype=np.int64
            )
            self._check_listed(listed, source, decoded, closed)
        probe_rows = self._draw_probe(source, decoded, totals, closed, listed)
        closed[probe_rows] = True
        taken = [decoded.digests[i] for i in probe_rows]
        self._close(closed, decoded.digests, taken, f"images of {source.where} are copies of probe images")
        open_counts = _count(labels[~closed], classes)
        if 0 in open_counts:
            c = open_counts.index(0)
            raise DataError(
                f"data.labelled: {source.where}: class {classes[c]} has {totals[c]} images and none is left to train on after the test "
                "and probe sets",
                "add images, set data.probe to 0, or give data.test a folder of other images",
            )
        budget = listed if listed is not None else self._draw_budget(source, decoded, base, open_counts, closed)

        labelled = _set(source, decoded, budget)
        probe = self._evaluation_set(source, decoded, probe_rows)
        if test is None:
            test = self._evaluation_set(source, decoded, test_rows)
        if separate_pool is None:
            pool_source, pool_decoded, rows = source, decoded, np.flatnonzero(~closed)
        else:
            pool_source, pool_decoded = separate_pool, self._decode(separate_pool)
            shut = np.array([not d for d in pool_decoded.digests])
            self._close(shut, pool_decoded.digests, test.digests, "images of the pool are also in the test set")
            self._close(shut, pool_decoded.digests, probe.digests, "images of the pool are also in the probe set")
            rows = np.flatnonzero(~shut)
            if not len(rows):
                raise DataError(
                    f"data.pool: {pool_source.where}: all its images are in the test or probe set",
                    "give a pool of other images, or leave data.pool out",
                )
        if labelled.names == [pool_source.names[i] for i in rows] and pool_decoded is decoded:
            pool = ImageSet(labelled.images, labelled.names, labelled.digests)  # one copy serves both
        else:
            pool = _set(pool_source, pool_decoded, rows, in_place=True, with_labels=False)
        copies = len(pool) - len(set(pool.digests))
        if copies:
            self.notes.append(f"{copies} images of the pool are copies of others in it and were kept")
        return Splits(classes, pool, labelled, probe, test, self.skipped, self.notes)

    def _decode(self, source: Source, preprocessing: Preprocessing | None = None) -> Decoded:
        decoded = decode(source, preprocessing or self.training, self.data.max_skipped)
        self.notes += decoded.notes
        self.skipped += [s for s in decoded.skipped if s not in self.skipped]
        return decoded

    def _evaluation_set(self, source: Source, decoded: Decoded, rows: Rows) -> ImageSet:
        """Images of the labelled folder as evaluation sees them; decoded again where training stores another size."""
        if self.training == self.evaluation:
            return _set(source, decoded, rows)
        if not len(rows):
            side = self.evaluation.image_size
            return ImageSet(np.zeros((0, side, side, 3), np.uint8), [], [], np.zeros(0, np.int64))
        part = source.subset(rows)
        again = self._decode(part, self.evaluation)
        return _set(part, again, _readable(again), in_place=True)

    def _draw_probe(
        self, source: Source, decoded: Decoded, totals: list[int], closed: NDArray[np.bool_], listed: Rows | None
    ) -> Rows:
        if not self.data.probe:
            return np.zeros(0, dtype=np.int64)
        allowed = ~closed
        if listed is not None:  # a label that somebody chose by hand is not to be lost to the probe set
            chosen = {decoded.digests[i] for i in listed}
            allowed &= np.array([d not in chosen for d in decoded.digests])
        assert source.labels is not None
        counts = [share(n, self.data.probe) for n in totals]
        order = shuffled(source.names, decoded.digests, "probe", self.data.split_seed)
        return np.array(draw(order, source.labels, counts, allowed), dtype=np.int64)

    def _draw_budget(
        self, source: Source, decoded: Decoded, base: list[int], available: list[int], closed: NDArray[np.bool_]
    ) -> Rows:
        assert source.labels is not None
        assert not isinstance(self.data.labels, str)
        counts = budget_counts(self.data.labels, base, available, source.classes)
        order = shuffled(source.names, decoded.digests, "labels", self.data.label_seed)
        return np.array(draw(order, source.labels, counts, ~closed), dtype=np.int64)

    def _check_listed(self, listed: Rows, source: Source, decoded: Decoded, closed: NDArray[np.bool_]) -> None:
        lost = [i for i in listed if closed[i]]
        if not lost:
            return
        first = source.names[lost[0]]
        why = "cannot be read" if not decoded.digests[lost[0]] else "is in the test set"
        raise DataError(
            f"data.labels: {self.data.labels}: {first} {why}"
            + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""),
            "take it out of the file"
            + ("" if why == "cannot be read" else ", or give data.test a folder of other images"),
        )

    def _close(self, closed: NDArray[np.bool_], digests: Sequence[str], taken: Sequence[str], what: str) -> None:
        """Close the images whose content is among `taken`, and say how many."""
        known = set(taken)
        copies = np.array([d in known for d in digests]) & ~closed
        closed |= copies
        if copies.any():
            self.notes.append(f"{int(copies.sum())} {what} and were taken out")

    def _note_conflicts(self, digests: Sequence[str], labels: NDArray[np.int64]) -> None:
        seen: dict[str, int] = {}
        conflicts = {
            d for d, label in zip(digests, labels, strict=True) if d and seen.setdefault(d, int(label)) != label
        }
        if conflicts:
            self.notes.append(f"{len(conflicts)} pictures occur in more than one class of {self.data.labelled}")


def _set(source: Source, decoded: Decoded, rows: Rows, *, in_place: bool = False, with_labels: bool = True) -> ImageSet:
    """The images at `rows` (sorted): a copy, or `in_place`, what takes no second copy but spoils `decoded.images`.

    In place, the images beyond the new length move into the gaps; the array is a copy-on-write map, so that only the pages
    with gaps take memory.
    """
    order = rows.copy()
    if in_place:
        count = len(rows)
        gaps = np.setdiff1d(np.arange(count), rows)
        movers = rows[rows >= count]
        decoded.images[gaps] = decoded.images[movers]
        order = np.arange(count)
        order[gaps] = movers
        images = decoded.images[:count]
    else:
        images = decoded.images[rows]
    images.flags.writeable = False
    labels = source.labels[order] if source.labels is not None and with_labels else None
    return ImageSet(images, [source.names[i] for i in order], [decoded.digests[i] for i in order], labels)


def _readable(decoded: Decoded) -> Rows:
    return np.flatnonzero([bool(d) for d in decoded.digests])


def _count(labels: NDArray[np.int64], classes: Sequence[str]) -> list[int]:
    return [int(n) for n in np.bincount(labels, minlength=len(classes))]


def _check_classes(test: Source, labelled: Source) -> None:
    if test.classes != labelled.classes:
        extra = [c for c in test.classes if c not in labelled.classes]
        missing = [c for c in labelled.classes if c not in test.classes]
        parts = [f"{where} alone has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
                 for where, names in ((test.where, extra), (labelled.where, missing)) if names]  # fmt: skip
        raise DataError(
            f"data.test: its classes are not those of data.labelled: {'; '.join(parts)}",
            "both need a sub-folder with images for every class, of the same names",
        )
