"""The built-in data sets of torchvision, by name, read from disk by torchvision, in their official splits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.source import ImageSource, at
from edgekit.errors import DataError, near
from edgekit.files import cache_folder
from edgekit.preprocess import open_image
from edgekit.recipe import DataConfig

_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _named(*splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": split} for split in splits}


@dataclass(frozen=True)
class _Set:
    """The arguments of torchvision for each split, and the files that it needs."""

    splits: dict[str, dict[str, Any]]
    files: str


_SETS = {
    "CIFAR10": _Set(_FLAG, "cifar-10-batches-py/ (unpack cifar-10-python.tar.gz)"),
    "CIFAR100": _Set(_FLAG, "cifar-100-python/ (unpack cifar-100-python.tar.gz)"),
    "EuroSAT": _Set({"train": {}}, "eurosat/2750/CLASS/ (unpack EuroSAT.zip)"),
    "FashionMNIST": _Set(_FLAG, "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
    "Food101": _Set(_named("train", "test"), "food-101/ (unpack food-101.tar.gz)"),
    "Imagenette": _Set(
        {"train": {"split": "train"}, "test": {"split": "val"}}, "imagenette2/ (unpack imagenette2.tgz)"
    ),
    "KMNIST": _Set(_FLAG, "KMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
    "MNIST": _Set(_FLAG, "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
    "STL10": _Set(_named("train", "test", "unlabeled"), "stl10_binary/ (unpack stl10_binary.tar.gz)"),
    "SVHN": _Set(_named("train", "test", "extra"), "train_32x32.mat, test_32x32.mat or extra_32x32.mat"),
}


def open_set(where: str, key: str, data: DataConfig, labeled: bool) -> ImageSource:
    """Open a split of a torchvision data set.

    The files of CIFAR-10 and CIFAR-100 are pickles: torchvision compares their MD5 with its own list before it unpickles them.

    Args:
        where: `torchvision:NAME` (its training split) or `torchvision:NAME:SPLIT`.
        key: the recipe's key that named it, for error messages.
        data: the recipe's part: `torchvision_root`, `download`.
        labeled: whether labels are wanted.

    Raises:
        DataError: there is no such set or split, its files are missing or damaged, or the split has no labels.
    """
    _, name, *rest = where.split(":")
    known = _SETS.get(name)
    if known is None:
        raise DataError(
            f"{at(key, where)}: not a torchvision data set that edgekit reads",
            near(name, _SETS) or f"it reads {', '.join(_SETS)}; convert others to a folder of images",
        )
    split = ":".join(rest) or "train"
    if split not in known.splits:
        only = " (set data.test to a share like 0.2)" if "test" not in known.splits else ""
        raise DataError(
            f"{at(key, where)}: {name} has no split {split}", f"its splits are {', '.join(known.splits)}{only}"
        )
    root = Path(data.torchvision_root).expanduser() if data.torchvision_root else cache_folder() / "torchvision"
    dataset = _load(name, known, split, root, data.download, at(key, where))
    labels = _labels(dataset)
    if labeled and labels.min() < 0:
        raise DataError(f"{at(key, where)}: the split {split} has no labels", "use it in data.pool")
    classes = [str(c) for c in getattr(dataset, "classes", range(int(labels.max()) + 1))] if labeled else []
    files = _files(dataset)
    if files is None:
        return ImageSource(
            where=where,
            names=[f"{split}/{i:06}" for i in range(len(labels))],
            read=lambda i: dataset[i][0].convert("RGB"),
            labels=labels if labeled else None,
            classes=classes,
        )
    home = os.fspath(root.resolve())
    paths = [Path(file) for file in files]
    return ImageSource(
        where=where,
        names=[os.path.relpath(path, root).replace(os.sep, "/") for path in paths],
        read=lambda i: open_image(paths[i], data.max_pixels),
        stamp=[(home, os.fspath(path), *_size_and_time(path)) for path in paths],
        labels=labels if labeled else None,
        classes=classes,
        base=os.fspath(root),
    )


def _load(name: str, known: _Set, split: str, root: Path, download: bool, where: str) -> Any:
    from torchvision import datasets

    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(root, download=download, **known.splits[split])
    # Missing files raise RuntimeError, damaged ones anything, a missing network URLError.
    except Exception as error:
        if download:
            hint = f"check the network, or put {known.files} into {root}"
        else:
            hint = f"put {known.files} into {root}, name another folder with data.torchvision_root, or set data.download to true"
        reason = str(error).split(" You can use download=True")[0] or type(error).__name__
        raise DataError(f"{where}: cannot be read from {root}: {reason}", hint) from error


def _labels(dataset: Any) -> np.ndarray:
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            return np.asarray(getattr(dataset, name), dtype=np.int64)
    return np.array([label for _, label in getattr(dataset, "_samples", None) or dataset.samples], dtype=np.int64)


def _files(dataset: Any) -> list[Any] | None:
    """Return the paths of the images, or None if torchvision holds the pixels in memory."""
    if hasattr(dataset, "_image_files"):
        return list(dataset._image_files)
    samples = getattr(dataset, "_samples", None) or getattr(dataset, "samples", None)
    return [path for path, _ in samples] if samples else None


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it will fail, and it counts as unreadable
        return -1, -1
    return status.st_size, status.st_mtime_ns
