"""How far other ways to resize are from Pillow's, in 8-bit levels and in decisions: what an application risks that resizes by other means.

python benchmarks/phone_resize.py [--output FILE]

"4 neighbors" is bilinear interpolation without antialiasing (OpenCV's INTER_LINEAR), which phones' own scaling of bitmaps is as well, by
their documentation; no phone was measured. The photographs are scikit-learn's two, 427 x 640 pixels. For decisions, scikit-learn's digits
are enlarged to 128 pixels with a camera's noise, and a linear classifier is trained on Pillow's 16 x 16 pixels of half of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

Pixels = NDArray[np.uint8]
SIDES = (224, 96)
_LARGE = 128  # pixels
NOISE = (0, 60)  # standard deviation, in levels


def pillow(image: Pixels, width: int, height: int) -> Pixels:
    """The reference: antialiased."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def opencv(how: int) -> Callable[[Pixels, int, int], Pixels]:
    """One of OpenCV's ways."""
    return lambda image, width, height: np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def other_order(image: Pixels, width: int, height: int) -> Pixels:
    """Pillow's with the horizontal pass first, as before its version 13 for tall images."""
    narrow = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(narrow.resize((width, height), Image.Resampling.BILINEAR))


WAYS: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "4 neighbors": opencv(cv2.INTER_LINEAR),
    "areas": opencv(cv2.INTER_AREA),
    "passes in another order": other_order,
}


def levels(side: int) -> dict[str, dict[str, float]]:
    """Mean and largest difference over the photographs, whole and their middle third as a tall one, the shorter side resized."""
    found: dict[str, list[NDArray[np.int16]]] = {name: [] for name in WAYS}
    for photo in load_sample_images().images:
        third = photo.shape[1] // 3
        for image in (photo, np.ascontiguousarray(photo[:, third : 2 * third])):
            scale = side / min(image.shape[:2])
            width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
            reference = pillow(image, width, height).astype(np.int16)
            for name, way in WAYS.items():
                found[name].append(np.abs(way(image, width, height) - reference).ravel())
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    return {
        name: {
            "mean": round(float(diff.mean()), 3), "largest": int(diff.max()), "over_16": round(float((diff > 16).mean()), 4),
        }
        for name, diff in whole.items()
    }  # fmt: skip


def accuracies(noise: int) -> dict[str, float]:
    """The accuracy on digits that are resized in each way, of a classifier that was trained on Pillow's pixels."""
    digits = load_digits()
    random = np.random.default_rng(0)
    large = []
    for values in digits.images:
        grown = cv2.resize((values * 15.9).astype(np.float32), (_LARGE, _LARGE), interpolation=cv2.INTER_CUBIC)
        gray = np.clip(grown + random.normal(0, max(noise, 1e-9), grown.shape), 0, 255).astype(np.uint8)
        large.append(np.repeat(gray[..., None], 3, axis=2))

    def features(way: Callable[[Pixels, int, int], Pixels], images: list[Pixels]) -> NDArray[np.float64]:
        return np.stack([way(image, 16, 16)[..., 0].ravel() / 255 for image in images])

    half = len(large) // 2
    model = LogisticRegression(max_iter=300).fit(features(pillow, large[:half]), digits.target[:half])
    ways = {"pillow": pillow, **WAYS}
    return {
        name: round(float(model.score(features(way, large[half:]), digits.target[half:])), 4)
        for name, way in ways.items()
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    result: dict[str, Any] = {
        "levels": {str(side): levels(side) for side in SIDES},
        "accuracy": {str(noise): accuracies(noise) for noise in NOISE},
    }
    text = json.dumps(result, indent=2)
    if chosen.output:
        chosen.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
