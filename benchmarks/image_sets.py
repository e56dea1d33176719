"""The sets that defaults are chosen on, each a folder that `edgekit init` takes.

digits come with scikit-learn. photographs are 32-pixel tiles of fourteen photographs that scikit-image brings (`pip install
scikit-image`): the left two thirds of each train, the right third tests. textures are tiles of scikit-learn's two photographs, a class for
each sixth of a photograph, test tiles from another part of it than training tiles: hard to tell apart. mnist and cifar10 are read from
DATA/NAME/{train,test}/CLASS/*.png, of which 500 and 600 training images and 100 test images a class are taken.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image

SETS = ["digits", "mnist", "photographs", "textures", "cifar10"]
_PHOTOGRAPHS = [
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
    "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "rocket.jpg",
]  # fmt: skip
_TAKEN = {"mnist": 500, "cifar10": 600}


def prepare(name: str, data: Path | None, work: Path) -> None:
    """A set's folder of images in WORK/data; done once."""
    folder = work / "data" / name
    if name == "digits" or folder.is_dir():
        return
    if name in ("textures", "photographs"):
        _tiles(folder) if name == "textures" else _photographs(folder)
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


def _photographs(folder: Path) -> None:
    """Of each photograph 350 tiles for training and 100 for testing, 64 pixels wide in the photograph, of parts that do not overlap."""
    import skimage

    for name in _PHOTOGRAPHS:
        with Image.open(Path(skimage.data_dir) / name) as opened:
            photograph, draws = opened.convert("RGB"), random.Random(name)
        border = 2 * photograph.width // 3
        for split, left, right, count in (("train", 0, border, 350), ("test", border, photograph.width, 100)):
            into = folder / split / name.partition(".")[0]
            into.mkdir(parents=True)
            for _ in range(count):
                x, y = draws.randint(left, right - 64), draws.randint(0, photograph.height - 64)
                photograph.crop((x, y, x + 64, y + 64)).resize((32, 32)).save(into / f"{y}-{x}.png")
