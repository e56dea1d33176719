"""Open the images that a recipe names: folders, WebDataset shards, Parquet tables, torchvision data sets, scikit-learn's digits."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from PIL import Image

from edgekit.data.files import find_files
from edgekit.data.image_folders import existing_folder, labeled_folder, unlabeled_folder
from edgekit.data.labeled_csv import images_of, is_label_file, labeled_csv
from edgekit.data.source import ImageSource, at, extensions
from edgekit.errors import DataError, near
from edgekit.recipe import DataConfig
from edgekit.recipe.data import TORCHVISION

__all__ = [
    "DIGITS",
    "DIGITS_TO_KNOW",
    "ImageSource",
    "check_same_classes",
    "existing_folder",
    "extensions",
    "in_classes_of",
    "is_digits",
    "official_test",
    "open_labeled",
    "open_pool",
]

DIGITS = "digits"
DIGITS_TO_KNOW = "digits:0-5"  # for recognition: the others are in no training image, so that a gallery can show what it does with new classes
_RANGE = re.compile(r"digits:([0-9])-([0-9])")


def open_labeled(where: str, key: str = "", data: DataConfig | None = None) -> ImageSource:
    """Open labeled images: a folder with one sub-folder per class, a CSV file, shards, a table, a torchvision data set, or `digits`.

    Args:
        where: as the recipe names it.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.
        data: the recipe's part: names of columns and classes, torchvision's folder; default its defaults.

    Raises:
        DataError: it is missing or damaged, holds no images, has fewer than two classes, or two whose names differ only in case.
    """
    return _open(where, key, data or DataConfig(), labeled=True)


def open_pool(where: str, key: str = "", data: DataConfig | None = None) -> ImageSource:
    """Open images without labels: a folder, flat or nested, or anything that `open_labeled` accepts.

    Args:
        where: as the recipe names it.
        key: the recipe's key that named it, for error messages; empty where it was given on the command line.
        data: the recipe's part: name of the image column, torchvision's folder; default its defaults.

    Raises:
        DataError: it is missing or damaged, or holds no images.
    """
    return _open(where, key, data or DataConfig(), labeled=False)


def is_digits(where: str | None) -> bool:
    """Return whether scikit-learn's digits are named: all (`digits`), or some (`digits:0-5`)."""
    return where is not None and (where == DIGITS or where.startswith(f"{DIGITS}:"))


def official_test(where: str) -> str:
    """Return what `data.test` names: for a torchvision data set without a split, its test split."""
    return f"{where}:test" if where.startswith(TORCHVISION) and where.count(":") == 1 else where


def check_same_classes(test: ImageSource, labeled: ImageSource) -> None:
    """Refuse test images whose classes differ from those of the labeled images.

    Raises:
        DataError: the message names the classes that only one of them has.
    """
    if test.classes == labeled.classes:
        return
    parts = []
    for one, other in ((test, labeled), (labeled, test)):
        alone = [name for name in one.classes if name not in other.classes]
        if alone:
            parts.append(f"only {one.where} has {', '.join(alone[:5])}{', …' if len(alone) > 5 else ''}")
    raise DataError(
        f"data.test: its classes differ from those of data.labeled: {'; '.join(parts)}",
        "give both a sub-folder with images for every class, with the same name",
    )


def in_classes_of(test: ImageSource, labeled: ImageSource) -> ImageSource:
    """Return test images whose labels are those of the labeled images; where images have several classes, some may be in no test image.

    Raises:
        DataError: as `check_same_classes`.
    """
    several = test.labels is not None and test.labels.ndim == 2
    if test.labels is None or not several or test.classes == labeled.classes:
        check_same_classes(test, labeled)
        return test
    if unknown := [name for name in test.classes if name not in labeled.classes]:
        raise DataError(
            f"data.test: {test.where}: no image of {labeled.where} has the class {unknown[0]}",
            near(unknown[0], labeled.classes) or "name the classes of the test images as there",
        )
    labels = np.zeros((len(test.labels), len(labeled.classes)), dtype=np.int64)
    labels[:, [labeled.classes.index(name) for name in test.classes]] = test.labels
    return replace(test, labels=labels, classes=labeled.classes)


def _open(where: str, key: str, data: DataConfig, labeled: bool) -> ImageSource:
    if is_label_file(where):
        return labeled_csv(where, key, data) if labeled else images_of(where, key, data)
    if labeled and data.classes_per_image == "any":
        raise DataError(
            f"{at(key, where)}: holds one class for each image, and task: multilabel takes a CSV file with the classes of the images",
            "name such a file (file,classes with names separated by ;), or set task: classification",
        )
    if is_digits(where):
        return _digits(where, key, labeled)
    if where.startswith(TORCHVISION):
        from edgekit.data.torchvision_sets import open_set

        return open_set(where, key, data, labeled)
    files = find_files(where, key)
    if files is None:
        return (labeled_folder if labeled else unlabeled_folder)(where, key, data.max_pixels)
    if files.kind == "tar":
        from edgekit.data.shards import open_shards

        return open_shards(files, key, data, labeled)
    from edgekit.data.tables import open_tables

    return open_tables(files, key, data, labeled)


def _digits(where: str, key: str, labeled: bool) -> ImageSource:
    """Open the 1,797 gray 8x8 images that ship with scikit-learn, or those of a range; the values 0 to 16 are scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    first, last = 0, 9
    if where != DIGITS:
        match = _RANGE.fullmatch(where)
        first, last = (int(match[1]), int(match[2])) if match else (1, 0)
        if first >= last:
            raise DataError(
                f"{at(key, where)}: is not a range of at least two digits", f"write it like {DIGITS_TO_KNOW}"
            )
    digits = load_digits()
    rows = np.flatnonzero((digits.target >= first) & (digits.target <= last))
    pixels = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    return ImageSource(
        where=where,
        names=[f"{digits.target[i]}/{i:04}" for i in rows],
        read=lambda i: Image.fromarray(pixels[i]).convert("RGB"),
        labels=digits.target[rows].astype(np.int64) - first if labeled else None,
        classes=[str(digit) for digit in range(first, last + 1)] if labeled else [],
    )
