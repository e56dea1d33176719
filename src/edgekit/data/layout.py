"""Inspect a folder for `edgekit init`: where the classes, the test set and the unlabeled images are, and how large they are."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from edgekit.data.sources import (
    DIGITS,
    ImageSource,
    check_same_classes,
    existing_folder,
    is_digits,
    open_labeled,
    open_pool,
)
from edgekit.errors import DataError
from edgekit.image_files import MAX_PIXELS, image_header
from edgekit.pixel_range import DEEP
from edgekit.walk import is_system

SIZES = (32, 64, 96, 128, 224)
_TRAIN = ("train", "training", "labelled", "labeled")  # codespell:ignore
_TEST = ("test", "testing", "val", "valid", "validation")  # a test set before a validation set
_POOL = ("unlabelled", "unlabeled", "pool", "unsup")  # codespell:ignore
_SAMPLED = 256  # images whose header is read for their size


@dataclass(frozen=True)
class Layout:
    """The parts of a folder, as paths from the current directory.

    Args:
        name: of the folder, without its path.
        labeled: folder with one sub-folder per class, or `digits`; None if the images have no labels.
        test: folder with one sub-folder per class for testing, or None.
        pool: folder of unlabeled images, or None.
        classes: names of the classes.
        labeled_images: number of images in `labeled`.
        smallest_class: number of images of the smallest class.
        test_images: number of images in `test`.
        pool_images: number of images in `pool`.
        side: median of the shorter side, in pixels, of a sample of the training images.
        notes: notes for the user, one sentence each.
    """

    name: str
    labeled: str | None
    test: str | None
    pool: str | None
    classes: list[str]
    labeled_images: int
    smallest_class: int
    test_images: int
    pool_images: int
    side: int
    notes: list[str] = field(default_factory=list)

    @property
    def image_size(self) -> int:
        """The standard size that is nearest to the images' own size, by ratio."""
        return standard_size(self.side)


def standard_size(side: int) -> int:
    """Return the size of `SIZES` that is nearest to a side, by ratio."""
    return min(SIZES, key=lambda size: abs(math.log(size / side)))


def inspect_folder(folder: str, *, unlabeled: bool = False) -> Layout:
    """Recognize FOLDER/{train,test,val,unlabeled,pool}/ by name, or FOLDER/CLASS/, or images without class folders, or `digits`.

    Args:
        folder: its path.
        unlabeled: the sub-folders are not classes (but dates, cameras): all images in them are unlabeled.

    Raises:
        DataError: it is missing, empty, or mixes classes with folders of other purpose.
    """
    if is_digits(folder):
        return _layout(DIGITS, open_labeled(folder), None, None)
    root = existing_folder(folder)
    name = root.resolve().name
    if unlabeled:
        return _pile(name, open_pool(str(root)))
    parts = {path.name.lower(): path for path in sorted(root.iterdir()) if _is_folder(path)}
    train, test, pool = (_first(parts, names) for names in (_TRAIN, _TEST, _POOL))
    if train is None:
        special = [path for path in (pool, test) if path is not None]
        _check_classes_alone(folder, list(parts.values()), special)
        if not parts or pool is not None:
            tests = open_labeled(str(test)) if test is not None else None
            return _pile(name, open_pool(str(pool or root)), tests)
        return _layout(name, open_labeled(str(root)), None, None)
    labeled = open_labeled(str(train))
    tests = open_labeled(str(test)) if test is not None else None
    if tests is not None:
        check_same_classes(tests, labeled)
    return _layout(name, labeled, tests, open_pool(str(pool)) if pool is not None else None)


def _check_classes_alone(folder: str, folders: list[Path], special: list[Path]) -> None:
    """Refuse a folder without train/ that mixes class folders with others."""
    where = str(Path(folder))
    others = [path for path in folders if path not in special]
    if special and others:
        raise DataError(
            f"{folder}: holds {special[0].name}/ and {others[0].name}/, but no train/",
            f"move the class folders into {where}/train/",
        )
    if special and special[0].name.lower() in _TEST:
        raise DataError(
            f"{folder}: holds {len(open_pool(folder).names)} images and no labels",
            f"put some images of each class (20 are enough to begin) into {where}/train/CLASS/ and all others into {where}/unlabeled/",
        )


def _pile(name: str, pool: ImageSource, test: ImageSource | None = None) -> Layout:
    sample = HeaderSample(pool)
    return Layout(
        name=name, labeled=None, test=test.where if test is not None else None, pool=pool.where, classes=test.classes if test is not None else [],
        labeled_images=0, smallest_class=0, test_images=len(test.names) if test is not None else 0,
        pool_images=len(pool.names), side=sample.median_side(), notes=[*pool.notes, *sample.notes()],
    )  # fmt: skip


def _layout(name: str, labeled: ImageSource, test: ImageSource | None, pool: ImageSource | None) -> Layout:
    assert labeled.labels is not None
    sample = HeaderSample(pool or labeled)
    notes = dict.fromkeys(note for source in (labeled, test, pool) if source is not None for note in source.notes)
    counts = [int((labeled.labels == c).sum()) for c in range(len(labeled.classes))]
    return Layout(
        name=name,
        labeled=labeled.where,
        test=test.where if test is not None else None,
        pool=pool.where if pool is not None else None,
        classes=labeled.classes,
        labeled_images=len(labeled.names),
        smallest_class=min(counts),
        test_images=len(test.names) if test is not None else 0,
        pool_images=len(pool.names) if pool is not None else 0,
        side=8 if is_digits(labeled.where) else sample.median_side(),
        notes=[*notes, *sample.notes()],
    )


def _first(parts: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    return next((parts[name] for name in names if name in parts), None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir() and not is_system(path.name)
    except OSError:  # a link to itself
        return False


class HeaderSample:
    """The headers of a sample of images of a source: at most about 256, evenly spaced."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.count = self.deep = self.large = 0
        self.sides: list[int] = []
        for i in range(0, len(source.names), math.ceil(len(source.names) / _SAMPLED)):
            self.count += 1
            # Pillow's plugins raise many kinds of errors; training lists the files that it cannot read, with reasons.
            with suppress(Exception):
                self._look(i)

    def _look(self, i: int) -> None:
        path = Path(self.source.path(i)).expanduser()
        # Only the header of a file in a folder; an image in a shard or a table is read as a whole.
        mode, (width, height) = image_header(path) if path.is_file() else _of(self.source.read(i))
        self.sides.append(min(width, height))
        self.deep += mode in DEEP
        self.large += width * height > MAX_PIXELS

    def median_side(self) -> int:
        """Return the median of the shorter sides, in pixels.

        Raises:
            DataError: no image can be read.
        """
        if not self.sides:
            raise DataError(f"{self.source.where}: none of the {self.count} sampled images can be read", "replace them")
        return round(float(statistics.median(self.sides)))

    def notes(self) -> list[str]:
        """Return notes for the user."""
        of = f"of {self.count} sampled images of {self.source.where}"
        notes = []
        if self.deep:
            notes.append(
                f"{self.deep} {of} have more than 8 bits: training measures the range of their values (data.pixel_range)"
            )
        if self.large:
            notes.append(
                f"{self.large} {of} have over {MAX_PIXELS:,} pixels: JPEGs are decoded at a reduced size, other formats need a higher data.max_pixels"
            )
        return notes


def _of(image: Image.Image) -> tuple[str, tuple[int, int]]:
    return image.mode, image.size
