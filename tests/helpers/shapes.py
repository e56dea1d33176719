"""Drawn shapes, several in an image, with a CSV file of their classes in each of its forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ["bar", "box", "disc"]
SIDE = 16
_SHARES = (0.3, 0.4, 0.5)


def drawn(labels: NDArray[np.int64], seed: int) -> list[Image.Image]:
    """A picture of SIDE pixels for each row of labels (n, 3): a red bar, a green box, a blue disc, each where it likes, on noise."""
    generator = np.random.default_rng(seed)
    images = []
    for row in labels:
        image = Image.fromarray(generator.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        for c in np.flatnonzero(row):
            x, y = generator.integers(0, SIDE - 6, 2).tolist()
            if c == 0:
                draw.line((x, y, x + 6, y + 6), fill=(250, 60, 60), width=2)
            elif c == 1:
                draw.rectangle((x, y, x + 5, y + 5), fill=(60, 250, 60))
            else:
                draw.ellipse((x, y, x + 6, y + 6), fill=(90, 90, 250))
        images.append(image)
    return images


def random_labels(count: int, seed: int) -> NDArray[np.int64]:
    """Rows (n, 3) of 0 and 1, some of them without a class."""
    return (np.random.default_rng(seed).random((count, len(CLASSES))) < _SHARES).astype(np.int64)


def write_labels(
    path: Path, names: Sequence[str], labels: NDArray[np.int64], form: Literal[";", "|", "pairs", "columns"]
) -> Path:
    """Write a CSV file of the classes of the images."""
    lines = [",".join(["file", *CLASSES]) if form == "columns" else "file,classes"]
    for name, row in zip(names, labels, strict=True):
        found = [CLASSES[c] for c in np.flatnonzero(row)]
        if form == "columns":
            lines.append(",".join([name, *map(str, row)]))
        elif form == "pairs":
            lines += [f"{name},{one}" for one in found] or [f"{name},"]
        else:
            lines.append(f"{name},{form.join(found)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_set(
    folder: Path, count: int, form: Literal[";", "|", "pairs", "columns"] = ";", seed: int = 0, file: str = "labels.csv"
) -> Path:
    """Write `count` pictures folder/images/000.png, … and folder/FILE; return the file."""
    labels = random_labels(count, seed)
    stem = Path(file).stem
    names = [f"images/{stem}-{i:03}.png" for i in range(count)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, drawn(labels, seed), strict=True):
        image.save(folder / name)
    return write_labels(folder / file, names, labels, form)
