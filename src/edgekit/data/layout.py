"""Inspect a folder for `edgekit init`: where the classes, the test set and the unlabeled images are, and how large they are."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from edgekit.data.label_table import read_label_table
from edgekit.data.labeled_csv import is_label_file, listing_in
from edgekit.data.labels import class_counts
from edgekit.data.sources import (
    DIGITS,
    ImageSource,
    check_same_classes,
    existing_folder,
    in_classes_of,
    is_digits,
    open_labeled,
    open_pool,
)
from edgekit.errors import DataError
from edgekit.image_files import MAX_PIXELS, image_header
from edgekit.pixel_range import DEEP
from edgekit.recipe import DataConfig
from edgekit.sizes import ImageSize
from edgekit.text import counted
from edgekit.walk import is_system

SIZES = (32, 64, 96, 128, 224)
_TRAIN = ("train", "training", "labelled", "labeled")  # codespell:ignore
_TEST = ("test", "testing", "val", "valid", "validation")  # a test set before a validation set
_FILES = ("labels", "train", "classes", "annotations", "data")  # names of label files that say nothing of their images
_POOL = ("unlabelled", "unlabeled", "pool", "unsup")  # codespell:ignore
_SAMPLED = 256  # images whose header is read for their size
# When the proposed size is not square: nearly all images have nearly the same shape, and it is clearly not a square.
_SAME_SHAPE = 0.05  # relative difference of an aspect ratio from the median
_NEARLY_ALL = 0.9
_ELONGATED = 1.2, 4.0  # longer by shorter side: below, a square loses little; above, the shorter side would become tiny
_FEWEST, _TINY = 4, 32  # images; pixels of the shorter side
_NAMED = ("5:4", "4:3", "3:2", "16:10", "16:9", "2:1")


@dataclass(frozen=True)
class Layout:
    """The parts of a folder, as paths from the current directory.

    Args:
        name: of the folder, without its path.
        labeled: folder with one sub-folder per class, a CSV file of images and classes, or `digits`; None if the images have no labels.
        test: folder with one sub-folder per class for testing, or None.
        pool: folder of unlabeled images, or None.
        classes: names of the classes.
        labeled_images: number of images in `labeled`.
        smallest_class: number of images of the smallest class.
        test_images: number of images in `test`.
        pool_images: number of images in `pool`.
        side: median of the shorter side, in pixels, of a sample of the training images.
        aspect: width by height that nearly all of the sample have, if it is clearly not a square, else 1.
        notes: notes for the user, one sentence each.
        several: whether images have any number of classes.
        class_images: number of images of each class in `labeled`.
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
    aspect: float = 1.0
    several: bool = False
    class_images: tuple[int, ...] = ()

    @property
    def standard_side(self) -> int:
        """The standard side of a square that is nearest to the images' own shorter side, by ratio."""
        return standard_size(self.side)

    @property
    def image_size(self) -> ImageSize:
        """The proposed size: `standard_side`, or about as many pixels in the images' own shape."""
        return shaped(self.standard_side, self.aspect)


def standard_size(side: int) -> int:
    """Return the size of `SIZES` that is nearest to a side, by ratio."""
    return min(SIZES, key=lambda size: abs(math.log(size / side)))


def shaped(side: int, aspect: float) -> ImageSize:
    """Return a size of about side x side pixels and an aspect ratio, width by height.

    Both sides are multiples of 16, of 8 for fewer than 128 x 128 pixels, so that networks halve them evenly. Among those, it is the size that is
    nearest in its number of pixels and, four times as important, in its aspect ratio, both by the logarithm.
    """
    if aspect == 1:
        return ImageSize(side, side)
    step = 16 if side >= 128 else 8
    heights = range(step, 4 * side, step)
    sizes = [ImageSize(height, max(step, round(height * aspect / step) * step)) for height in heights]
    return min(sizes, key=lambda s: abs(math.log(s.pixels / side**2)) + 4 * abs(math.log(s.aspect / aspect)))


def ratio_name(aspect: float) -> str:
    """Return an aspect ratio, width by height, as people write it: 4:3, or 1:1.62."""
    longer = max(aspect, 1 / aspect)
    parts = [f"{longer:.2f}", "1"]
    for name in _NAMED:
        across, down = name.split(":")
        if abs(int(across) / int(down) / longer - 1) < 0.02:
            parts = [across, down]
    return ":".join(parts if aspect > 1 else parts[::-1])


def inspect_folder(folder: str, *, unlabeled: bool = False) -> Layout:
    """Recognize FOLDER/{train,test,val,unlabeled,pool}/ by name, or FOLDER/CLASS/, a CSV file of images and classes in FOLDER, or that file itself,
    or images without class folders, or `digits`.

    Args:
        folder: its path.
        unlabeled: the sub-folders are not classes (but dates, cameras): all images in them are unlabeled.

    Raises:
        DataError: it is missing, empty, or mixes classes with folders of other purpose.
    """
    if is_digits(folder):
        return _layout(DIGITS, open_labeled(folder), None, None)
    if is_label_file(folder):
        return _listed(Path(folder), [])
    root = existing_folder(folder)
    name = root.resolve().name
    if unlabeled:
        return _pile(name, open_pool(str(root)))
    listing = listing_in(root)
    return _in_folders(folder, root, name) if listing is None else _listed(listing.path, listing.others)


def _in_folders(folder: str, root: Path, name: str) -> Layout:
    """The layout of a folder without a CSV file of images and classes."""
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
            f"{folder}: holds {counted(len(open_pool(folder).names), 'image')} and no labels",
            f"put some images of each class (20 are enough to begin) into {where}/train/CLASS/ and all others into {where}/unlabeled/",
        )


def _pile(name: str, pool: ImageSource, test: ImageSource | None = None) -> Layout:
    sample = HeaderSample(pool)
    return Layout(
        name=name, labeled=None, test=test.where if test is not None else None, pool=pool.where, classes=test.classes if test is not None else [],
        labeled_images=0, smallest_class=0, test_images=len(test.names) if test is not None else 0,
        pool_images=len(pool.names), side=sample.median_side(), notes=[*pool.notes, *sample.notes()],
        aspect=sample.aspect(),
    )  # fmt: skip


def _layout(name: str, labeled: ImageSource, test: ImageSource | None, pool: ImageSource | None) -> Layout:
    assert labeled.labels is not None
    sample = HeaderSample(pool or labeled)
    several = labeled.labels.ndim == 2
    notes = dict.fromkeys(note for source in (labeled, test, pool) if source is not None for note in source.notes)
    counts = class_counts(labeled.labels, len(labeled.classes))
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
        aspect=1.0 if is_digits(labeled.where) else sample.aspect(),
        several=several,
        class_images=tuple(counts),
    )


def _listed(file: Path, others: list[Path]) -> Layout:
    """The layout of a CSV file of images and classes; a second one, named like a test set, is the test set."""
    table = read_label_table(file.expanduser(), str(file))
    data = DataConfig(classes_per_image="one" if table.one_each else "any")
    labeled = open_labeled(str(file), data=data)
    test_file = next((path for name in _TEST for path in others if path.stem.lower() == name), None)
    test = in_classes_of(open_labeled(str(test_file), data=data), labeled) if test_file is not None else None
    everything = open_pool(str(file.parent))
    known = len(labeled.names) + (len(test.names) if test is not None else 0)
    pool = everything if len(everything.names) > known else None
    name = file.expanduser().resolve()
    return _layout(name.stem if name.stem not in _FILES else name.parent.name, labeled, test, pool)


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
        self.shapes: list[tuple[int, int]] = []
        for i in range(0, len(source.names), math.ceil(len(source.names) / _SAMPLED)):
            self.count += 1
            # Pillow's plugins raise many kinds of errors; training lists the files that it cannot read, with reasons.
            with suppress(Exception):
                self._look(i)

    def _look(self, i: int) -> None:
        path = Path(self.source.path(i)).expanduser()
        # Only the header of a file in a folder; an image in a shard or a table is read as a whole.
        mode, (width, height) = image_header(path) if path.is_file() else _of(self.source.read(i))
        self.shapes.append((width, height))
        self.deep += mode in DEEP
        self.large += width * height > MAX_PIXELS

    def median_side(self) -> int:
        """Return the median of the shorter sides, in pixels.

        Raises:
            DataError: no image can be read.
        """
        if not self.shapes:
            raise DataError(f"{self.source.where}: no image can be read, of {self.count} sampled", "replace them")
        return round(float(statistics.median(min(shape) for shape in self.shapes)))

    def aspect(self) -> float:
        """Return width by height that nearly all images have, if it is clearly not a square, else 1."""
        ratios = [width / height for width, height in self.shapes]
        median = statistics.median(ratios)
        alike = sum(abs(ratio / median - 1) <= _SAME_SHAPE for ratio in ratios)
        clearly = _ELONGATED[0] <= max(median, 1 / median) <= _ELONGATED[1]
        enough = len(ratios) >= _FEWEST and self.median_side() >= _TINY
        return median if clearly and enough and alike >= _NEARLY_ALL * len(ratios) else 1.0

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
