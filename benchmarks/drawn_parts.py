"""Drawn images of one part, nearly identical, with planted defects and their masks: a second kind of set for anomaly detection.

A steel flange with a ring of bolt holes, a slot and a milled surface lies on a dark mat. Normal images differ by a small turn and shift, by the
light and by noise; nothing else. Defects: a scratch, a dent, a burr at the rim, a closed bolt hole, a stain. All of it depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.textures import write_mvtec

SIDE = 128  # pixels
DEFECTS = ("scratch", "dent", "burr", "closed", "stain")
_PURPOSES = {"train": 0, "test": 1}
_RADIUS, _BORE, _BOLTS, _RING, _BOLT = 50.0, 15.0, 6, 33.0, 5.0  # pixels
_TURN, _SHIFT = 3.0, 1.5  # degrees and pixels, at most each way
Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


def part(purpose: str, defect: str, number: int, seed: int) -> tuple[NDArray[np.uint8], Mask]:
    """Draw one image: uint8 (128, 128, 3), and bool (128, 128), the pixels of the defect.

    Args:
        purpose: train or test.
        defect: `good`, or one of `DEFECTS`.
        number: of the image.
        seed: of the set.
    """
    random = np.random.default_rng([seed, _PURPOSES[purpose], ("good", *DEFECTS).index(defect), number])
    x, y = _coordinates(random)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    bolts = [(np.cos(a) * _RING, np.sin(a) * _RING) for a in 2 * np.pi * np.arange(_BOLTS) / _BOLTS]
    closed = int(random.integers(_BOLTS)) if defect == "closed" else None
    rim = np.full_like(radius, _RADIUS)
    mask = np.zeros((SIDE, SIDE), bool)
    if defect == "burr":
        where, high = random.uniform(-np.pi, np.pi), random.uniform(2.5, 5.0)
        away = np.abs((angle - where + np.pi) % (2 * np.pi) - np.pi)
        rim = rim + high * np.exp(-0.5 * (away / random.uniform(0.04, 0.09)) ** 2)
        mask |= (radius > _RADIUS - 0.5) & (radius < rim + 0.5) & (rim > _RADIUS + 0.5)
    # The mat is woven, the surface is milled in circles; light falls from the upper left.
    image = 38 + 9 * np.sin(x * 1.3) * np.sin(y * 1.3)
    surface = 150 + 12 * np.sin(radius * 1.7) + 18 * np.cos(angle * 2 + 0.7) - 6 * np.cos(angle + 0.8)
    steel = _inside(rim - radius) * _inside(radius - _BORE)
    for i, (bx, by) in enumerate(bolts):
        away = np.hypot(x - bx, y - by)
        if i == closed:
            mask |= away <= _BOLT
        else:
            surface = surface - 45 * np.clip(1 - np.abs(away - _BOLT - 1.0), 0, 1)  # the chamfer
            steel = steel * _inside(away - _BOLT)
    slot = np.maximum(np.abs(x) - 2.2, np.abs(y + _BORE + 2) - 5)
    steel = steel * _inside(slot)
    surface = surface + 35 * np.clip(1 - np.abs(radius - _RADIUS + 2), 0, 1)  # the bright edge
    image = image * (1 - steel) + surface * steel
    colored = image[:, :, None] * np.array([1.0, 0.99, 0.96])
    if defect in {"scratch", "dent", "stain"}:
        colored, mask = {"scratch": _scratch, "dent": _dent, "stain": _stain}[defect](colored, x, y, random)
    light = random.uniform(0.95, 1.05) + random.uniform(-0.04, 0.04) * np.linspace(-1, 1, SIDE)[None, :, None]
    noisy = colored * light + random.normal(0, 2.5, colored.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), mask


def write_parts(folder: Path, seed: int, train: int, test_good: int, test_each: int) -> None:
    """Write a set in MVTec AD's layout."""
    write_mvtec(
        folder, _drawn(seed, {"train/good": train, "test/good": test_good} | {f"test/{d}": test_each for d in DEFECTS})
    )


def _drawn(seed: int, counts: dict[str, int]) -> Iterator[tuple[str, NDArray[np.uint8], Mask]]:
    for where, count in counts.items():
        purpose, defect = where.split("/")
        for number in range(count):
            yield f"{where}/{number:03}.png", *part(purpose, defect, number, seed)


def _coordinates(random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """x and y of each pixel in the part's own system: turned and shifted a little."""
    turn, (down, right) = np.deg2rad(random.uniform(-_TURN, _TURN)), random.uniform(-_SHIFT, _SHIFT, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = columns - right, rows - down
    return np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x


def _inside(distance: Pixels) -> Pixels:
    """The share of a pixel that lies inside an edge, from its signed distance."""
    return np.clip(distance + 0.5, 0, 1)


def _place(random: np.random.Generator) -> tuple[float, float]:
    """A place on the steel."""
    radius, angle = random.uniform(_BORE + 6, _RADIUS - 6), random.uniform(-np.pi, np.pi)
    return radius * np.cos(angle), radius * np.sin(angle)


def _scratch(image: Pixels, x: Pixels, y: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    (px, py), angle, half = _place(random), random.uniform(-np.pi, np.pi), random.uniform(5, 14)
    along = (x - px) * np.cos(angle) + (y - py) * np.sin(angle)
    across = (y - py) * np.cos(angle) - (x - px) * np.sin(angle)
    distance = np.hypot(np.maximum(np.abs(along) - half, 0), across)
    alpha = np.clip(random.uniform(0.6, 1.1) - distance + 0.5, 0, 1) * random.uniform(0.4, 0.8)
    return image + alpha[:, :, None] * (random.choice([40.0, 235.0]) - image), alpha > 0.15


def _dent(image: Pixels, x: Pixels, y: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    """A shallow hollow: dark on the side of the light, bright on the other."""
    (px, py), radius = _place(random), random.uniform(3, 5.5)
    shape = np.exp(-0.5 * (np.hypot(x - px, y - py) / (0.6 * radius)) ** 2)
    slope = ((x - px) + (y - py)) / radius * shape * random.uniform(35, 60)
    return image + slope[:, :, None], np.hypot(x - px, y - py) <= radius


def _stain(image: Pixels, x: Pixels, y: Pixels, random: np.random.Generator) -> tuple[Pixels, Mask]:
    (px, py), radius = _place(random), random.uniform(3, 7)
    alpha = np.exp(-0.5 * (np.hypot(x - px, y - py) / (0.6 * radius)) ** 2) * random.uniform(0.35, 0.7)
    color = np.array([[[120.0, 80.0, 40.0]], [[60.0, 70.0, 90.0]]])[random.integers(2)]
    return image + alpha[:, :, None] * (color - image), alpha > 0.1
