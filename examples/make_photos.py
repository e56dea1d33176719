"""Draw photographs of products, for trying edgekit without images of your own.

    python examples/make_photos.py photos/                        # train/ (10 a class), test/ (25 a class), unlabeled/ (500)
    python examples/make_photos.py new/ --first 5 --products 1 --per-class 5 --flat   # one further product: new/product-5/

A product is a colored outline with a pattern, decided by its number; a photograph shows it at some place, angle, size and brightness on a
table. The same numbers always give the same files. Only NumPy and Pillow are needed.
"""

from __future__ import annotations

import argparse
import colorsys
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96  # pixels of a photograph


def color(random: np.random.Generator, brightness: tuple[float, float] = (0.45, 0.95)) -> tuple[int, ...]:
    """Return a random RGB color, 0 to 255."""
    hue, saturation = random.random(), random.uniform(0.35, 0.9)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, random.uniform(*brightness)))


def draw_product(number: int, side: int = 160) -> Image.Image:
    """Return what product `number` looks like from above: RGBA, (side, side), transparent around it."""
    random = np.random.default_rng([7, number])
    corners = int(random.integers(3, 9))
    radii = (
        random.uniform(0.55, 1.0, corners)
        if random.random() < 0.6
        else np.tile([1.0, random.uniform(0.4, 0.7)], corners)
    )
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii)
    points = [
        (side / 2 * (1 + 0.95 * r * math.cos(a)), side / 2 * (1 + 0.95 * r * math.sin(a)))
        for r, a in zip(radii, angles, strict=True)
    ]
    outline = Image.new("L", (side, side))
    ImageDraw.Draw(outline).polygon(points, fill=255)
    surface = Image.new("RGB", (side, side), color(random))
    draw, second = ImageDraw.Draw(surface), color(random)
    step, kind = int(random.integers(14, 30)), int(random.integers(3))
    for at in range(0, side, step):
        if kind == 0:
            draw.line([(at, 0), (at, side)], fill=second, width=step // 3)
        elif kind == 1:
            for other in range(0, side, step):
                draw.ellipse([at, other, at + step // 2, other + step // 2], fill=second)
        else:
            draw.ellipse([at / 2, at / 2, side - at / 2, side - at / 2], outline=second, width=step // 4)
    surface.putalpha(outline)
    return surface


def photograph(product: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return an RGB photograph, (96, 96), of a product on a table, with other light, place and angle each time."""
    grain = random.normal(0, 1, (SIDE // 8, SIDE // 8, 1)).repeat(3, 2)
    table = np.kron(grain, np.ones((8, 8, 1))) * 8 + np.array(color(random, (0.3, 0.7)))
    picture = Image.fromarray(np.clip(table, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    for _ in range(int(random.integers(0, 3))):  # things that lie around
        x, y, w, h = random.uniform(0, SIDE, 4)
        ImageDraw.Draw(picture).rectangle([x, y, x + w / 6, y + h / 6], fill=color(random))
    size = round(SIDE * random.uniform(0.45, 0.75))
    turned = product.rotate(random.uniform(0, 360), Image.Resampling.BICUBIC).resize(
        (size, size), Image.Resampling.LANCZOS
    )
    picture.paste(turned, tuple(int(v) for v in random.uniform(0, SIDE - size, 2)), turned)
    lit = np.asarray(picture, np.float64) * random.uniform(0.7, 1.2) + random.normal(0, 4, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def write(folder: Path, number: int, part: int, count: int, prefix: str = "") -> None:
    """Write `count` photographs of a product; `part` keeps the photographs of train, test and unlabeled apart."""
    folder.mkdir(parents=True, exist_ok=True)
    product, random = draw_product(number), np.random.default_rng([part, number])
    for i in range(count):
        photograph(product, random).save(folder / f"{prefix}{i:04}.jpg", quality=90)


def main() -> None:
    """Read the command line, and write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--products", type=int, default=5, help="how many classes")
    parser.add_argument("--first", type=int, default=0, help="number of the first product")
    parser.add_argument("--per-class", type=int, default=10, help="labeled images of a class")
    parser.add_argument("--test", type=int, default=25, help="test images of a class")
    parser.add_argument("--unlabeled", type=int, default=500, help="images without labels, in all")
    parser.add_argument("--flat", action="store_true", help="write the labeled images alone: one sub-folder a class")
    options = parser.parse_args()
    for number in range(options.first, options.first + options.products):
        name = f"product-{number}"
        if options.flat:
            write(options.folder / name, number, 1, options.per_class)
            continue
        write(options.folder / "train" / name, number, 1, options.per_class)
        write(options.folder / "test" / name, number, 2, options.test)
        write(options.folder / "unlabeled", number, 3, options.unlabeled // options.products, f"{number}-")


if __name__ == "__main__":
    main()
