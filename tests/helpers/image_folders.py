"""Folders of small pictures for the tests of data and init."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: str, width: int = 12, height: int = 10) -> Image.Image:
    """An RGB picture of noise that depends on `seed` alone."""
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    """Save a picture (by default one that depends on the path's last three parts) as the file's extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture("/".join(path.parts[-3:]))).save(path, **options)
    return path


def class_folders(root: Path, counts: Mapping[str, int]) -> Path:
    """`counts[name]` different pictures root/name/000.png, …"""
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i:03}.png")
    return root
