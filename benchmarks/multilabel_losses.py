"""Binary cross-entropy against the asymmetric loss, and one threshold against one for each class, on two generated sets with several labels.

    python benchmarks/multilabel_losses.py [--seeds 3] [--steps 250]

The sets need no download: mosaics of scikit-learn's digits (2x2 tiles, some blank; ten classes, each in about a fifth of the images), and drawn
shapes (six classes, in 50 % to 3 % of the images; images without any), both of 16 pixels. Each network is a small ResNet from scratch on 300 labeled
images; 300 more set the thresholds, 1,000 test it.
The result is written to benchmarks/results/multilabel_losses.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from edgekit.data.augment import Augment
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Augmentation, Multilabel
from edgekit.result import now
from edgekit.tasks.multilabel_metrics import (
    FEWEST_POSITIVES,
    class_thresholds,
    f1_scores,
    fit_sigmoid_temperature,
    mean_average_precision,
    sigmoid,
)
from edgekit.train.evaluate import apply
from edgekit.train.objective import AnyClasses

HERE = Path(__file__).resolve().parent
LABELED, PROBE, TEST, BATCH = 300, 300, 1000, 50
FREQUENCIES = (0.5, 0.3, 0.2, 0.1, 0.06, 0.03)
LOSSES = {
    "bce": Multilabel(),
    "asymmetric 4, 0, 0.05": Multilabel(loss="asymmetric"),
}
Labeled = tuple[NDArray[np.uint8], NDArray[np.int64]]


def mosaics(count: int, generator: np.random.Generator) -> Labeled:
    """2x2 tiles of digits, each tile blank with probability 0.4: uint8 (n, 16, 16, 3), labels (n, 10)."""
    digits = load_digits()
    images = np.zeros((count, 16, 16), np.uint8)
    labels = np.zeros((count, 10), np.int64)
    for i in range(count):
        for y in (0, 8):
            for x in (0, 8):
                if generator.random() < 0.6:
                    row = int(generator.integers(len(digits.images)))
                    images[i, y : y + 8, x : x + 8] = np.rint(digits.images[row] * (255 / 16))
                    labels[i, digits.target[row]] = 1
    return np.repeat(images[..., None], 3, axis=3), labels


def shapes(count: int, generator: np.random.Generator) -> Labeled:
    """Drawn shapes on noise: uint8 (n, 16, 16, 3), labels (n, 6)."""
    labels = (generator.random((count, 6)) < FREQUENCIES).astype(np.int64)
    images = np.stack([_drawn(row, generator) for row in labels])
    return images, labels


def _drawn(classes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.uint8]:
    image = Image.fromarray(generator.integers(60, 110, (32, 32, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for c in np.flatnonzero(classes):
        x, y = generator.integers(0, 22, 2).tolist()
        color = tuple(generator.integers(130, 256, 3).tolist())
        s = int(generator.integers(7, 10))
        if c == 0:
            draw.ellipse((x, y, x + s, y + s), outline=color)
        elif c == 1:
            draw.rectangle((x, y, x + s, y + s), outline=color)
        elif c == 2:
            draw.line((x, y, x + s, y + s), fill=color, width=2)
        elif c == 3:
            draw.line((x, y + s, x + s, y), fill=color, width=2)
        elif c == 4:
            draw.polygon([(x, y + s), (x + s // 2, y), (x + s, y + s)], outline=color)
        else:
            draw.line((x + s // 2, y, x + s // 2, y + s), fill=color)
            draw.line((x, y + s // 2, x + s, y + s // 2), fill=color)
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX))


def train(images: NDArray[np.uint8], labels: NDArray[np.int64], loss: Multilabel, seed: int, steps: int) -> Classifier:
    """A small ResNet from scratch."""
    torch.manual_seed(seed)
    size, classes = images.shape[1], [str(c) for c in range(labels.shape[1])]
    model = Classifier.build(Architecture(name="resnet10", width=0.25, stem="strided"), size, classes, [])
    augment = Augment(Augmentation(crop_scale=(0.6, 1.0), flip=0.0, jitter=0.0, gray=0.0), size, 0.5, 0.25)
    objective, generator = AnyClasses(loss), torch.Generator().manual_seed(seed)
    objective.prepare(model.head, torch.from_numpy(labels))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(steps):
        rows = torch.randperm(len(pixels), generator=generator)[:BATCH]
        value = objective.loss(model(augment(pixels[rows], generator)), truth[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(model: Classifier, probe: Labeled, test: Labeled) -> dict[str, float]:
    """mAP, and F1 with 0.5, with one shared threshold and with one for each class."""
    logits, truth = (apply(model, images, 0.5, 0.25, torch.device("cpu")).numpy() for images, _ in (probe, test))
    temperature = fit_sigmoid_temperature(logits, probe[1])
    each, shared, own = class_thresholds(sigmoid(logits / temperature), probe[1])
    probabilities = sigmoid(truth / temperature)
    found = {"map": mean_average_precision(truth, test[1]), "own": float(own), "temperature": temperature}
    for name, threshold in (("half", None), ("shared", shared), ("each", np.array(each))):
        decided = truth >= 0 if threshold is None else probabilities >= threshold
        micro, macro = f1_scores(decided, test[1])
        found |= {f"f1_micro_{name}": micro, f"f1_macro_{name}": macro}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    arguments = parser.parse_args()
    sets: dict[str, Callable[[int, np.random.Generator], Labeled]] = {"mosaics of digits": mosaics, "shapes": shapes}
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for data, make in sets.items():
            images, labels = make(LABELED + PROBE + TEST, np.random.default_rng(seed))
            parts = [slice(0, LABELED), slice(LABELED, LABELED + PROBE), slice(LABELED + PROBE, None)]
            labeled, probe, test = ((images[part], labels[part]) for part in parts)
            for name, loss in LOSSES.items():
                found = measure(train(*labeled, loss, seed, arguments.steps), probe, test)
                rows.append({"data": data, "seed": seed, "loss": name, **found})
                print(data, seed, name, {key: round(value, 4) for key, value in found.items()}, flush=True)
                _write(rows, arguments)
    _print(rows)


def _write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    content = {
        "created": now(), "machine": this_machine().model_dump(mode="json"), "labeled": LABELED, "probe": PROBE, "test": TEST,
        "steps": arguments.steps, "batch": BATCH, "fewest_positives": FEWEST_POSITIVES, "rows": rows,
    }  # fmt: skip
    write_json(HERE / "results" / "multilabel_losses.json", content)


def _print(rows: list[dict[str, Any]]) -> None:
    for key in dict.fromkeys((row["data"], row["loss"]) for row in rows):
        own = [row for row in rows if (row["data"], row["loss"]) == key]
        names = (
            "map",
            "f1_micro_half",
            "f1_micro_shared",
            "f1_micro_each",
            "f1_macro_half",
            "f1_macro_shared",
            "f1_macro_each",
        )
        print(*key, *(f"{name} {100 * statistics.mean(row[name] for row in own):.1f}" for name in names), sep="  ")


if __name__ == "__main__":
    main()
