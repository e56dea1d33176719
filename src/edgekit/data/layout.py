"""What a folder holds, for `edgekit init`: where the classes, the test set and the unlabelled images are, and how large they are."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgekit.data.sources import DIGITS, Source, check_same_classes, existing_folder, open_labelled, open_pool
from edgekit.errors import DataError

SIZES = (32, 64, 96, 128, 224)
_TRAIN = ("train", "training", "labelled", "labeled")
_TEST = ("test", "testing", "val", "valid", "validation")  # a test set before a validation set
_POOL = ("unlabelled", "unlabeled", "pool", "unsup")
_LOOKED_AT = 256  # images whose header is read for their size


@dataclass(frozen=True)
class Layout:
    """A folder's parts, as paths from the current directory.

    Args:
        name: the folder's own, without its path.
        labelled: folder with one sub-folder a class, or `digits`.
        test: the like for testing, or None.
        pool: folder of unlabelled images, or None.
        classes: names of the classes.
        labelled_images: number of images in `labelled`.
        smallest_class: number of images of the class that has fewest.
        test_images: number of images in `test`.
        pool_images: number of images in `pool`.
        side: median of the shorter side, in pixels, of a sample of the training images.
    """

    name: str
    labelled: str
    test: str | None
    pool: str | None
    classes: list[str]
    labelled_images: int
    smallest_class: int
    test_images: int
    pool_images: int
    side: int

    @property
    def image_size(self) -> int:
        """The usual size that is nearest to the images' own, by ratio."""
        return min(SIZES, key=lambda size: abs(math.log(size / self.side)))


def inspect_folder(folder: str) -> Layout:
    """Recognise FOLDER/{train,test,val,unlabelled,pool}/ by name, or FOLDER/CLASS/, or `digits`.

    Raises:
        DataError: it is missing, empty, has no labels, or mixes classes with folders of other purpose.
    """
    if folder == DIGITS:
        return _layout(DIGITS, open_labelled(DIGITS), None, None)
    root = existing_folder(folder)
    name = root.resolve().name
    parts = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    train, test, pool = (_first(parts, names) for names in (_TRAIN, _TEST, _POOL))
    if train is None:
        _check_classes_alone(folder, [path for path in parts.values() if not path.name.startswith(".")], pool or test)
        return _layout(name, open_labelled(str(root)), None, None)
    labelled = open_labelled(str(train))
    tests = open_labelled(str(test)) if test is not None else None
    if tests is not None:
        check_same_classes(tests, labelled)
    return _layout(name, labelled, tests, open_pool(str(pool)) if pool is not None else None)


def _check_classes_alone(folder: str, folders: list[Path], special: Path | None) -> None:
    """Refuse a folder without train/ that is not one of classes alone."""
    where = str(Path(folder))
    others = [path for path in folders if path != special]
    if special is not None and others:
        raise DataError(
            f"{folder}: holds {special.name}/ beside {others[0].name}/, and no train/",
            f"move the class folders into {where}/train/",
        )
    if special is not None or not folders:
        raise DataError(
            f"{folder}: holds {len(open_pool(folder).names)} images and no labels",
            f"put some images of each class, 20 will do to begin, into {where}/train/CLASS/ and all others into {where}/unlabelled/",
        )


def _layout(name: str, labelled: Source, test: Source | None, pool: Source | None) -> Layout:
    assert labelled.labels is not None
    counts = [int((labelled.labels == c).sum()) for c in range(len(labelled.classes))]
    return Layout(
        name=name,
        labelled=labelled.where,
        test=test.where if test is not None else None,
        pool=pool.where if pool is not None else None,
        classes=labelled.classes,
        labelled_images=len(labelled.names),
        smallest_class=min(counts),
        test_images=len(test.names) if test is not None else 0,
        pool_images=len(pool.names) if pool is not None else 0,
        side=8 if labelled.where == DIGITS else _median_side(pool or labelled),
    )


def _first(parts: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    return next((parts[name] for name in names if name in parts), None)


def _median_side(source: Source) -> int:
    sides = []
    looked_at = range(0, len(source.names), math.ceil(len(source.names) / _LOOKED_AT))
    for i in looked_at:
        try:
            path = Path(source.path(i)).expanduser()
            if path.is_file():
                with Image.open(path) as image:  # the header alone
                    sides.append(min(image.size))
            else:  # in a shard or a table
                sides.append(min(source.read(i).size))
        except Exception:  # as many kinds as Pillow has plugins; training lists what it cannot read, and why
            continue
    if not sides:
        raise DataError(f"{source.where}: none of the {len(looked_at)} images looked at can be read", "replace them")
    return round(float(statistics.median(sides)))
