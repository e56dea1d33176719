"""Decode and split a set for anomaly detection: training images, held-out normal images, test images with their masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.data.anomaly_layouts import GOOD, KEY, AnomalyImages, list_images
from edgekit.data.decode import Decoded, decode
from edgekit.data.divide import Rows, copies_of
from edgekit.data.images import ImageSet, Skipped
from edgekit.data.labels import share, shuffled
from edgekit.data.masks import seen_by_model
from edgekit.data.ranges import stated, with_range
from edgekit.data.source import ImageSource, at
from edgekit.errors import DataError
from edgekit.pixel_range import PixelRange
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig
from edgekit.run import Run
from edgekit.text import counted

Mask = NDArray[np.bool_]
CLASSES = (GOOD, "anomalous")  # of the labels 0 and 1


@dataclass(frozen=True, eq=False)
class AnomalySets:
    """The sets of a run of `task: anomaly`. No two of them share a picture; within a set, copies are kept.

    Attributes:
        source: where the images are, for reading one of them at its own size: `source.rgb(i)`, with i from `rows`.
        normal: images to train on and to fill the memory bank from: (mostly) normal, without labels, with evaluation preprocessing.
        normal_rows: int64 (n,), their positions in `source`.
        held_out: normal images that no model learns from, for the threshold; may be empty.
        test: labels are 0 for normal and 1 for anomalous images; may be empty.
        test_rows: int64 (n,), the positions of the test images in `source`.
        defects: of each test image: `good`, or the name of its defect.
        preprocessing: from an upright image to that of the sets.
        skipped: files that could not be decoded.
        notes: notes for the user, one sentence each.
        pixel_range: range that images of more than 8 bits were read with; None without such images.
    """

    source: ImageSource
    normal: ImageSet
    normal_rows: Rows
    held_out: ImageSet
    test: ImageSet
    test_rows: Rows
    defects: list[str]
    preprocessing: Preprocessing
    skipped: list[Skipped]
    notes: list[str]
    pixel_range: PixelRange | None
    read_mask: Callable[[int], Mask | None]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (n,) of the test images: 0 normal, 1 anomalous."""
        return np.array([defect != GOOD for defect in self.defects], dtype=np.uint8)

    def mask(self, i: int) -> Mask | None:
        """Return the defect of test image i at the image's own size, bool (height, width); None for an anomalous image without a mask.

        Raises:
            DataError: it cannot be read.
        """
        return self.read_mask(int(self.test_rows[i]))

    def seen_mask(self, i: int) -> Mask | None:
        """Return the mask of test image i as the model sees the image: resized and cropped, at the size of `test.images`."""
        mask = self.mask(i)
        return None if mask is None else seen_by_model(mask, self.preprocessing)

    def seen_masks(self) -> list[Mask | None]:
        """Return the masks of all test images as the model sees them."""
        return [self.seen_mask(i) for i in range(len(self.test))]


def load_anomaly_sets(data: DataConfig, run: Run | None = None) -> AnomalySets:
    """Decode the images of `data.normal` and split them.

    Of the normal training images, the share `data.probe` is held out for the threshold, unless the set has `validation/good`. Draws depend
    only on the content of the pictures and on `data.split_seed`.

    Args:
        data: the recipe's part, with `normal`.
        run: the run of the recipe; see `edgekit.data.splits.load_splits`.

    Raises:
        DataError: as in `edgekit.data.anomaly_layouts.list_images`; or too many files cannot be decoded; or no image is left to train on.
    """
    listed = list_images(data)
    trained_on = listed.source.subset([i for i, part in enumerate(listed.parts) if part != "test"])
    sets, pixel_range = with_range(
        stated(data, run),
        [[trained_on], [listed.source]],
        lambda known: _divided(data, replace(listed, source=listed.source.ranged(known))),
    )
    return replace(sets, source=sets.source.ranged(pixel_range), pixel_range=pixel_range)


def training_images(sets: AnomalySets, data: DataConfig, preprocessing: Preprocessing) -> Decoded:
    """Decode `sets.normal` with another preprocessing (the larger square that augmentation crops from), in the same order.

    Args:
        sets: the sets.
        data: the recipe's part: `max_skipped`, `stream`.
        preprocessing: as `edgekit.data.splits.training_preprocessing` gives it.
    """
    return decode(sets.source.subset(sets.normal_rows), preprocessing, data.max_skipped, data.stream)


def _divided(data: DataConfig, listed: AnomalyImages) -> AnomalySets:
    source, preprocessing = listed.source, data.preprocessing()
    decoded = decode(source, preprocessing, data.max_skipped)
    notes = [*source.notes, *decoded.notes]
    parts, digests = np.array(listed.parts), decoded.digests
    readable = np.array([bool(d) for d in digests], dtype=bool)

    def drawn(candidates: NDArray[np.bool_], fraction: float, purpose: str) -> NDArray[np.bool_]:
        """A share of the candidates, by content."""
        rows = np.flatnonzero(candidates)
        count = share(len(rows), fraction) if fraction and len(rows) > 1 else 0
        order = shuffled([source.names[i] for i in rows], [digests[i] for i in rows], purpose, data.split_seed)
        chosen = np.zeros(len(parts), dtype=bool)
        chosen[rows[order[:count]]] = True
        return chosen

    def without_copies(rows: NDArray[np.bool_], of: NDArray[np.bool_], name: str) -> NDArray[np.bool_]:
        copies = rows & copies_of(digests, (digests[i] for i in np.flatnonzero(of)))
        if copies.any():
            notes.append(
                f"took {counted(int(copies.sum()), 'normal image')} out of {source.where}: also in the {name} set"
            )
        return rows & ~copies

    normal = np.isin(parts, ("train", "any")) & readable
    test = (parts == "test") & readable
    if isinstance(data.test, float):
        test |= drawn((parts == "any") & readable, data.test, "test")
    normal = without_copies(normal & ~test, test, "test")
    held_out = without_copies((parts == "validation") & readable, test, "test")
    if not held_out.any():
        held_out = drawn(normal, data.probe, "probe")
    normal = without_copies(normal & ~held_out, held_out, "held-out")
    if not normal.any():
        raise DataError(
            f"{at(KEY, source.where)}: no normal image is left to train on",
            "add normal images, or lower data.probe and data.test",
        )
    labels = np.array([defect != GOOD for defect in listed.defects], dtype=np.int64)
    normal_rows, held_out_rows, test_rows = (np.flatnonzero(rows) for rows in (normal, held_out, test))
    return AnomalySets(
        source=source,
        normal=_set(source, decoded, normal_rows),
        normal_rows=normal_rows,
        held_out=_set(source, decoded, held_out_rows),
        test=replace(_set(source, decoded, test_rows), labels=labels[test_rows]),
        test_rows=test_rows,
        defects=[listed.defects[i] for i in test_rows],
        preprocessing=preprocessing,
        skipped=decoded.skipped,
        notes=notes,
        pixel_range=None,
        read_mask=listed.mask,
    )


def _set(source: ImageSource, decoded: Decoded, rows: Rows) -> ImageSet:
    return ImageSet(
        np.ascontiguousarray(decoded.images[rows]), [source.names[i] for i in rows], [decoded.digests[i] for i in rows]
    )
