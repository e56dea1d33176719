"""Generated images of a product, with planted defects and their masks: a set for anomaly detection that needs no download.

A product is a plate with a texture and four round parts of two materials, A B over B A. Texture and materials come from the two photographs
that scikit-learn ships. Normal images differ by a few pixels in the place of the texture and of each part, and in the light and the noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import DataError
from edgekit.files import write_bytes

TEXTURES = "textures"  # as a recipe names the set
GOOD = "good"
DEFECTS = ("scratch", "spot", "hole", "missing", "swapped")
SIDE = 128  # pixels
TRAIN, TEST_GOOD, TEST_EACH = (
    160,
    40,
    10,
)  # images of the built-in set: normal ones to train with, and in the test set normal ones and of each defect

_CENTERS = ((36, 36), (36, 92), (92, 36), (92, 92))  # of the parts: row and column
_MATERIALS = (0, 1, 1, 0)
_RADIUS = 15.0
# In pixels: as in a fixture. With textures from anywhere, normal patches are so various that a bank of them tells little.
_PLATE_MOVES, _MATERIAL_MOVES = 3, 3
_PURPOSES = {"train": 0, "test": 1}

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


def textures(train: int = TRAIN, test_good: int = TEST_GOOD, test_each: int = TEST_EACH) -> list[tuple[str, str]]:
    """Return the images of a set in MVTec AD's layout: the names that `texture` takes, and their defects (`good` for a normal one)."""
    names = [(f"train/{GOOD}/{i:03}.png", GOOD) for i in range(train)]
    for defect, count in ((GOOD, test_good), *((defect, test_each) for defect in DEFECTS)):
        names += [(f"test/{defect}/{i:03}.png", defect) for i in range(count)]
    return names


def texture(name: str, seed: int = 0, planted: str | None = None) -> tuple[NDArray[np.uint8], Mask]:
    """Draw one image.

    Args:
        name: as `textures` gives it: `train/good/007.png`, `test/hole/003.png`.
        seed: of the set.
        planted: defect to plant; default: the one in the name.

    Returns:
        uint8 (128, 128, 3), and bool (128, 128): the pixels of the defect.
    """
    purpose, defect, file = name.split("/")
    defect = planted or defect
    key = [seed, _PURPOSES[purpose], (GOOD, *DEFECTS).index(defect), int(Path(file).stem)]
    random = np.random.default_rng(key)
    image = _plate(random)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    materials: list[int | None] = list(_MATERIALS)
    changed: list[int] = []
    if defect == "missing":
        changed = [int(random.integers(4))]
        materials[changed[0]] = None
    elif defect == "swapped":
        changed = [int(random.choice([0, 3])), int(random.choice([1, 2]))]
        for place in changed:
            materials[place] = 1 - _MATERIALS[place]
    for place, material in enumerate(materials):
        image, covered = _with_part(image, random, place, material)
        if place in changed:
            mask |= covered
    if defect in {"scratch", "spot", "hole"}:
        image, mask = {"scratch": _scratch, "spot": _spot, "hole": _hole}[defect](image, random)
    light = random.uniform(0.94, 1.06) + random.uniform(-0.05, 0.05) * np.linspace(-1, 1, SIDE)[:, None, None]
    noise = random.normal(0, 2.5, image.shape)
    return np.clip(np.rint(image * light + noise), 0, 255).astype(np.uint8), mask


def write_textures(
    folder: Path,
    seed: int = 0,
    train: int = TRAIN,
    test_good: int = TEST_GOOD,
    test_each: int = TEST_EACH,
    contamination: float = 0.0,
) -> None:
    """Write a set in MVTec AD's layout: `train/good`, `test/<defect>`, `ground_truth/<defect>/*_mask.png`.

    Args:
        folder: to write into; it must not exist, or be empty.
        seed: of the set.
        train, test_good, test_each: numbers of images.
        contamination: share of the images in `train/good` that have a defect all the same, evenly of each kind.

    Raises:
        DataError: the folder holds something.
        EdgekitError: it cannot be written.
    """
    write_mvtec(folder, _drawn(seed, train, test_good, test_each, contamination))


def write_mvtec(folder: Path, images: Iterable[tuple[str, NDArray[np.uint8], Mask]]) -> None:
    """Write images in MVTec AD's layout, and the masks of the test images that have a defect.

    Args:
        folder: to write into; it must not exist, or be empty.
        images: of each its path below `folder` (`train/good/000.png`, `test/<defect>/000.png`), its pixels, (height, width, 3), and its mask,
            (height, width), true where the defect is.

    Raises:
        DataError: the folder holds something.
        EdgekitError: it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty", "name a new folder")
    for name, pixels, mask in images:
        _write(folder / name, Image.fromarray(pixels))
        if mask.any() and name.startswith("test/"):
            path = Path(name)
            _write(folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png", Image.fromarray(mask))


def _drawn(
    seed: int, train: int, test_good: int, test_each: int, contamination: float
) -> Iterator[tuple[str, NDArray[np.uint8], Mask]]:
    bad = round(train * contamination)
    every = train / bad if bad else 0.0
    planted = {int(i * every): DEFECTS[i % len(DEFECTS)] for i in range(bad)}
    for name, _ in textures(train, test_good, test_each):
        number = int(Path(name).stem)
        pixels, mask = texture(name, seed, planted.get(number) if name.startswith("train/") else None)
        yield name, pixels, mask


def _write(path: Path, image: Image.Image) -> None:
    from io import BytesIO

    content = BytesIO()
    image.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())


@cache
def _materials() -> tuple[Pixels, Pixels, Pixels]:
    """The plate's texture, and the materials A and B: each a square of 64 pixels and its mirror images, so that it repeats without a seam."""
    from sklearn.datasets import load_sample_image

    china, flower = (np.asarray(load_sample_image(name), dtype=np.float64) for name in ("china.jpg", "flower.jpg"))
    squares = china[300:364, 180:244], flower[160:224, 250:314], china[330:394, 420:484]
    return tuple(_mirrored(square) for square in squares)  # type: ignore[return-value]


def _mirrored(square: Pixels) -> Pixels:
    wide = np.concatenate([square, square[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]], axis=0)


def _cut(material: Pixels, random: np.random.Generator, reach: int) -> Pixels:
    """The material, moved by up to `reach` pixels each way, (128, 128, 3)."""
    down, right = (int(n) for n in random.integers(-reach, reach + 1, 2))
    return np.roll(material, (down, right), (0, 1))[:SIDE, :SIDE]


def _plate(random: np.random.Generator) -> Pixels:
    return _cut(_materials()[0], random, _PLATE_MOVES)


def _distance(row: float, column: float) -> Pixels:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(y - row, x - column)


def _blend(image: Pixels, alpha: Pixels, other: Pixels | float) -> Pixels:
    return image + alpha[:, :, None] * (other - image)


def _with_part(image: Pixels, random: np.random.Generator, place: int, material: int | None) -> tuple[Pixels, Mask]:
    """Lay a part on its place, or none; also return the pixels where it is or should be."""
    row, column = np.array(_CENTERS[place]) + random.uniform(-1.5, 1.5, 2)
    distance = _distance(row, column)
    surface = _cut(_materials()[1 + (material or 0)], random, _MATERIAL_MOVES)
    if material is not None:
        shadow = np.clip((_RADIUS + 2.5 - distance) / 2.5, 0, 1) * 0.5
        image = _blend(image, shadow, 0.0)
        image = _blend(image, np.clip(_RADIUS - distance + 0.5, 0, 1), surface)
    return image, distance <= _RADIUS


def _scratch(image: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    """A quadratic Bezier curve, lighter or darker than what it crosses."""
    start = random.uniform(10, SIDE - 10, 2)
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(25, 70)
    end = np.clip(start + length * np.array([np.sin(angle), np.cos(angle)]), 4, SIDE - 4)
    bend = (start + end) / 2 + random.uniform(-10, 10, 2)
    t = np.linspace(0, 1, 160)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.full((SIDE, SIDE), np.inf)
    for row, column in curve:
        distance = np.minimum(distance, np.hypot(y - row, x - column))
    alpha = np.clip(random.uniform(0.7, 1.4) - distance + 0.5, 0, 1) * random.uniform(0.45, 0.9)
    return _blend(image, alpha, random.choice([15.0, 240.0])), alpha > 0.15


def _spot(image: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    """A stain with soft borders."""
    row, column = random.uniform(12, SIDE - 12, 2)
    radius = random.uniform(3, 7)
    alpha = np.exp(-0.5 * (_distance(row, column) / (0.6 * radius)) ** 2) * random.uniform(0.5, 0.9)
    color = np.array([[[200.0, 190.0, 60.0]], [[70.0, 30.0, 90.0]], [[235.0, 235.0, 240.0]]])[random.integers(3)]
    return _blend(image, alpha, color), alpha > 0.15


def _hole(image: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    """A black disc with a bright rim on one side."""
    row, column = random.uniform(12, SIDE - 12, 2)
    radius = random.uniform(2.5, 6)
    distance = _distance(row, column)
    rim = np.clip(radius + 1.2 - distance + 0.5, 0, 1) * (np.mgrid[:SIDE, :SIDE][0] > row) * 0.5
    image = _blend(image, rim, 230.0)
    return _blend(image, np.clip(radius - distance + 0.5, 0, 1), 8.0), distance <= radius + 1.7
