"""CIFAR-10 for the way: its images side by side in lossless WebP files, a quarter smaller than PNG sheets; and back into a folder a class."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.processors import usable_cpus

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHEETS = {
    "train": ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}
SIDE, ACROSS, EACH = 32, 50, 2_000  # pixels, images a row, images a file
LISTED = "images.json"


def pack(source: Path, folder: Path) -> None:
    """Pack CIFAR-10.

    Args:
        source: the six PNG sheets (an image a row of pixels) with their two lists of labels, or train/ and test/ with a folder a class.
        folder: receives the files.
    """
    folder.mkdir(parents=True)
    listed: dict[str, Any] = {}
    for split in ("train", "test"):
        images, labels, classes = (
            _sheets(source, split) if (source / SHEETS[split][0][0]).is_file() else _tree(source, split)
        )
        jobs = [
            (images[start : start + EACH], folder / f"{split}-{start:05}.webp") for start in range(0, len(images), EACH)
        ]
        with ProcessPoolExecutor(usable_cpus()) as pool:
            list(pool.map(_save, jobs))
        listed[split] = {
            "labels": labels,
            "classes": classes,
            "sha256": hashlib.sha256(images.tobytes()).hexdigest(),
            "files": [p.name for _, p in jobs],
        }
    (folder / LISTED).write_text(json.dumps(listed))


def unpack(packed: Path, carried: Path) -> None:
    """CIFAR10/{train,test}/CLASS/NNNNN.png below `carried`; the pixels are compared with their digest before one is written."""
    target = carried / "cifar10"
    if (target / LISTED).is_file():
        return
    listed = json.loads((packed / LISTED).read_text())
    with ProcessPoolExecutor(usable_cpus()) as pool:
        for split, content in listed.items():
            images = np.concatenate(list(pool.map(_load, [packed / name for name in content["files"]])))[
                : len(content["labels"])
            ]
            if hashlib.sha256(images.tobytes()).hexdigest() != content["sha256"]:
                raise ValueError(f"{packed}: the {split} images have other pixels than when they were packed")
            for name in content["classes"]:
                (target / split / name).mkdir(parents=True, exist_ok=True)
            paths = [
                target / split / content["classes"][label] / f"{i:05}.png" for i, label in enumerate(content["labels"])
            ]
            list(pool.map(_write, [(images[s : s + EACH], paths[s : s + EACH]) for s in range(0, len(images), EACH)]))
    (target / LISTED).write_text(json.dumps({split: len(content["labels"]) for split, content in listed.items()}))


def _sheets(source: Path, split: str) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    sheets, labels = SHEETS[split]
    images = np.concatenate([np.asarray(Image.open(source / sheet).convert("RGB")) for sheet in sheets]).reshape(
        -1, SIDE, SIDE, 3
    )
    return images, json.loads((source / labels).read_text()), list(CLASSES)


def _tree(source: Path, split: str) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    classes = sorted(folder.name for folder in (source / split).iterdir() if folder.is_dir())
    paths = [(path, i) for i, name in enumerate(classes) for path in sorted((source / split / name).iterdir())]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths]), [i for _, i in paths], classes


def _save(job: tuple[NDArray[np.uint8], Path]) -> None:
    images, path = job
    filled = np.zeros((-(-len(images) // ACROSS) * ACROSS, SIDE, SIDE, 3), np.uint8)
    filled[: len(images)] = images
    rows = filled.reshape(-1, ACROSS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(rows.reshape(-1, ACROSS * SIDE, 3)).save(path, lossless=True, method=4)


def _load(path: Path) -> NDArray[np.uint8]:
    whole = np.asarray(Image.open(path).convert("RGB"))
    return whole.reshape(-1, SIDE, ACROSS, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)


def _write(job: tuple[NDArray[np.uint8], list[Path]]) -> None:
    for pixels, path in zip(*job, strict=True):
        Image.fromarray(pixels).save(path, compress_level=1)
