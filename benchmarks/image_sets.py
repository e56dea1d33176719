"""The sets that defaults are chosen on, each a folder that `edgekit init` takes.

digits come with scikit-learn. photographs are 32-pixel tiles of fourteen photographs that scikit-image brings (`pip install
scikit-image`): the left two thirds of each train, the right third tests. textures are tiles of scikit-learn's two photographs, a class for
each sixth of a photograph, test tiles from another part of it than training tiles: hard to tell apart. mnist and cifar10 are read from
DATA/NAME/{train,test}/CLASS/*.png, of which 500 and 600 training images and 100 test images a class are taken.

No default was chosen on the sets in FURTHER, which try them afterwards: fashion is Fashion-MNIST (benchmarks/get_fashion_mnist.py), read
like cifar10, 600 training and 100 test images a class; shapes are eight drawn shapes of any color, size and rotation
on a cluttered background, 64 pixels wide, where the outline alone tells the class; tiles are 128-pixel tiles of ten of scikit-image's
photographs, few of each.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

SETS = ["digits", "mnist", "photographs", "textures", "cifar10"]
FURTHER = ["fashion", "shapes", "tiles"]
_PHOTOGRAPHS = [
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
    "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "rocket.jpg",
]  # fmt: skip
_TAKEN = {"mnist": 500, "cifar10": 600, "fashion": 600}


def prepare(name: str, data: Path | None, work: Path) -> None:
    """A set's folder of images in WORK/data; done once."""
    folder = work / "data" / name
    if name == "digits" or folder.is_dir():
        return
    if name in _MADE:
        _MADE[name](folder)
        return
    if data is None:
        sys.exit(f"{name}: give the folder that holds {name}/train and {name}/test with --data")
    for split, count in (("train", _TAKEN[name]), ("test", 100)):
        for source in sorted((data / name / split).iterdir()):
            files = sorted(source.iterdir(), key=lambda path: path.name)
            random.Random(f"{name}{split}{source.name}").shuffle(files)
            (folder / split / source.name).mkdir(parents=True)
            for path in files[:count]:
                (folder / split / source.name / path.name).symlink_to(path.resolve())


def _tiles(folder: Path) -> None:
    """32-pixel tiles of twelve blocks of 213 pixels; the left two thirds of a block train, the right third tests."""
    from sklearn.datasets import load_sample_images

    for number, photograph in enumerate(load_sample_images().images):
        for row in range(2):
            for column in range(3):
                block = photograph[row * 213 : (row + 1) * 213, column * 213 : (column + 1) * 213]
                for split, part, stride in (("train", block[:, :143], 7), ("test", block[:, 143:], 8)):
                    into = folder / split / f"photo{number}-{row}{column}"
                    into.mkdir(parents=True)
                    for y in range(0, part.shape[0] - 31, stride):
                        for x in range(0, part.shape[1] - 31, stride):
                            Image.fromarray(part[y : y + 32, x : x + 32]).save(into / f"{y}-{x}.png")


def _photographs(folder: Path, side: int = 64, size: int = 32, counts: tuple[int, int] = (350, 100)) -> None:
    """Of each photograph so many tiles for training and for testing, `side` pixels wide in the photograph, of parts that do not overlap."""
    import skimage

    for name in _PHOTOGRAPHS:
        with Image.open(Path(skimage.data_dir) / name) as opened:
            photograph, draws = opened.convert("RGB"), random.Random(name)
        border = 2 * photograph.width // 3
        if photograph.width - border < side or photograph.height < side:
            continue  # too small for tiles of this size
        for split, left, right, count in (
            ("train", 0, border, counts[0]),
            ("test", border, photograph.width, counts[1]),
        ):
            into = folder / split / name.partition(".")[0]
            into.mkdir(parents=True)
            for _ in range(count):
                x, y = draws.randint(left, right - side), draws.randint(0, photograph.height - side)
                photograph.crop((x, y, x + side, y + side)).resize((size, size)).save(into / f"{y}-{x}.png")


_OUTLINES = {
    # Corners on the unit circle, in turns of the circle; None: a circle. Every second corner of a star lies at the second radius.
    "circle": (None, 1.0), "triangle": (3, 1.0), "square": (4, 1.0), "hexagon": (6, 1.0),
    "star": (10, 0.45), "cross": (8, 0.4), "ring": (None, 0.55), "kite": (4, 0.55),
}  # fmt: skip


def _shapes(folder: Path) -> None:
    """400 training and 100 test images of each of eight shapes."""
    for split, count in (("train", 400), ("test", 100)):
        for name in _OUTLINES:
            into = folder / split / name
            into.mkdir(parents=True)
            for number in range(count):
                _shape(name, random.Random(f"{split}{name}{number}")).save(into / f"{number}.png")


def _shape(name: str, draws: random.Random) -> Image.Image:
    """One shape, drawn at 128 pixels and halved."""

    def color() -> tuple[int, int, int]:
        return (draws.randrange(256), draws.randrange(256), draws.randrange(256))

    image = Image.effect_noise((128, 128), 60).convert("RGB")
    image = Image.blend(image, Image.new("RGB", (128, 128), color()), 0.6)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        draw.line([draws.randrange(128) for _ in range(4)], color(), draws.randint(1, 5))
    corners, second = _OUTLINES[name]
    radius, turn = draws.uniform(22, 46), draws.uniform(0, 2 * math.pi)
    x, y = draws.uniform(radius, 128 - radius), draws.uniform(radius, 128 - radius)
    fill = color()
    if corners is None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
        if second < 1:
            inner = radius * second
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), color())
    else:
        points = []
        for corner in range(corners):
            length, angle = radius * (second if corner % 2 else 1.0), turn + 2 * math.pi * corner / corners
            points.append((x + length * math.cos(angle), y + length * math.sin(angle)))
        draw.polygon(points, fill)
    return image.resize((64, 64))


_MADE: dict[str, Callable[[Path], None]] = {
    "textures": _tiles,
    "photographs": _photographs,
    "shapes": _shapes,
    "tiles": lambda folder: _photographs(folder, side=128, size=128, counts=(60, 30)),
}
