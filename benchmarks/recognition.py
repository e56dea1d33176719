"""Which network embeds best for recognition? CIFAR-10 with four classes that no stage ever sees.

    python benchmarks/recognition.py --data CIFAR10 [--work runs/recognition] [--images 1000] [--epochs 40] [--output FILE]

CIFAR10 holds train/ and test/, each with one folder a class. Pretraining, fine-tuning and distillation see six classes alone: the unlabeled
pool does not hold the four others (frog, horse, ship, truck) either, and calibration and evaluation at export do not.

For each representation (raw pixels, a random encoder, the pretrained encoder, the teacher, the student distilled with `kd` and with `feature`,
and each student's ONNX and OpenVINO variants):

- 1, 5 and 20 images a class of the four new classes (from train/) make a gallery, and the test images of these four are recognized: top-1 by
  the nearest image's cosine, mean and standard deviation over 20 draws;
- 20 images of each of the six known classes make a gallery: AUROC of the similarity, test images of the six against those of the four new
  ones, mean over the same number of draws; and the share of new images that the threshold for 5 % false accepts lets pass, which the
  gallery sets without them.

INT8 and FP32 of one student are compared with the gallery of the FP32 variant, too: that is how a device uses it. Interrupted, it goes on
where it was: runs and bundles lie below --work.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import edgekit
from edgekit.bundle import Bundle
from edgekit.files import write_json
from edgekit.gallery.search import nearest_of_each_class, unit
from edgekit.gallery.testing import auroc
from edgekit.gallery.threshold import calibrate
from edgekit.machine import this_machine
from edgekit.models.encoders import build_encoder
from edgekit.models.trained import TrainedNetwork
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture, Recipe
from edgekit.result import now
from edgekit.runtimes.predictor import Predictor

KNOWN = ["airplane", "automobile", "bird", "cat", "deer", "dog"]
NEW = ["frog", "horse", "ship", "truck"]
SHOTS = (1, 5, 20)
DRAWS = 20
QUERIES = 250  # test images of each class
Images = NDArray[np.uint8]
Embed = Callable[[Images], NDArray[np.float32]]


def link_known(data: Path, work: Path, images: int) -> Path:
    """A folder with the first so many images of each known class: all that training ever sees."""
    root = work / f"known-{images}"
    for part, count in (("train", images), ("test", QUERIES)):
        for name in KNOWN:
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((data / part / name).iterdir())[:count]:
                if not (folder / file.name).exists():
                    (folder / file.name).symlink_to(file.resolve())
    return root


def recipe_of(folder: Path, loss: str, epochs: int) -> dict[str, Any]:
    """A short training: minutes on one core, far from what the networks could reach."""
    weak = {"name": "adamw", "lr": 0.003, "scale_lr": False}
    return {
        "name": f"recognition-{loss}",
        "data": {
            "labeled": str(folder / "train"), "test": str(folder / "test"), "image_size": 32, "probe": 0.1,
            "labels": {"per_class": 500, "at_most": True},
        },
        "pretrain": {
            "method": "simclr", "encoder": {"name": "resnet10", "width": 0.25, "stem": "strided"}, "epochs": epochs, "batch_size": 256,
            "optimizer": weak,
        },
        "finetune": {"epochs": 15, "consistency": {"enabled": False}},
        "distill": {
            "student": {"name": "resnet10", "width": 0.125, "stem": "strided"}, "loss": loss, "epochs": epochs // 2,
            "batch_size": 256, "optimizer": weak,
        },
        "supervised": {"enabled": False},
        "monitor": {"every": 0},
        "hardware": {"threads": 1},
    }  # fmt: skip


def read(data: Path, part: str, names: list[str], skip: int, count: int) -> tuple[Images, NDArray[np.int64]]:
    """The images `skip` to `skip + count` of each class, as pixels, and their classes."""
    files = [sorted((data / part / name).iterdir())[skip : skip + count] for name in names]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for one in files for file in one]
    return np.stack(pixels), np.repeat(np.arange(len(names)), [len(one) for one in files])


def network_of(network: TrainedNetwork) -> Embed:
    def embed(images: Images) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [
                network.embed(network.normalize(torch.from_numpy(images[i : i + 256])))
                for i in range(0, len(images), 256)
            ]
        return torch.cat(parts).numpy()

    return embed


def variant_of(bundle: Bundle, variant: str) -> Embed:
    def embed(images: Images) -> NDArray[np.float32]:
        with Predictor(bundle, variant, threads=1) as predictor:
            parts = [predictor.predict_pixels(images[i : i + 100]) for i in range(0, len(images), 100)]
        return np.stack([answer.embedding for part in parts for answer in part])

    return embed


def representations(work: Path, data: Path, images: int, epochs: int) -> Iterator[tuple[str, Embed]]:
    """Everything that embeds, by name; trains and exports what is missing."""
    folder = link_known(data, work, images)
    yield "raw pixels", lambda pixels: pixels.reshape(len(pixels), -1) / np.float32(127.5) - 1
    run: Any = None
    for loss in ("kd", "feature"):
        recipe = Recipe.read(recipe_of(folder, loss, epochs))
        run = edgekit.train(recipe, run=work / f"run-{loss}-{images}-{epochs}", reuse=run)
        if loss == "kd":
            torch.manual_seed(0)
            architecture = Architecture(name="resnet10", width=0.25, stem="strided")
            random = TrainedNetwork(
                build_encoder(architecture, 32, ""), Preprocessing(image_size=32, resize_to=32), 0.5, 0.25
            )
            yield "random encoder", network_of(random.eval())
            yield "encoder", network_of(run.encoder())
            yield "teacher", network_of(run.teacher())
        yield f"student, {loss}", network_of(run.student())
        bundle = edgekit.export(
            run, target=["onnx", "openvino"], precision=["fp32", "int8"], embedding=True, gate=False, timing=False
        )
        for variant in bundle.manifest.variants:
            yield f"student, {loss}: {variant.id}", variant_of(bundle, variant.id)


def few_shot(
    gallery: tuple[NDArray[np.float32], NDArray[np.int64]], queries: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> dict[str, Any]:
    """Top-1 of the nearest image's class for each number of images a class."""
    vectors, labels = gallery
    scores: dict[str, Any] = {}
    for shots in SHOTS:
        top1 = []
        for draw in range(DRAWS):
            rows = drawn(labels, shots, draw)
            starts = np.arange(0, len(rows), shots)
            decided = [block.argmax(1) for _, block in nearest_of_each_class(queries[0], vectors[rows], starts)]
            top1.append(float((np.concatenate(decided) == queries[1]).mean()))
        scores[f"{shots}-shot"] = {"top1": round(float(np.mean(top1)), 4), "std": round(float(np.std(top1)), 4)}
    return scores


def known_or_not(
    gallery: tuple[NDArray[np.float32], NDArray[np.int64]], known: NDArray[np.float32], new: NDArray[np.float32]
) -> dict[str, Any]:
    """AUROC of the similarity, and the false accepts at the threshold that the gallery itself gives for 5 %."""
    vectors, labels = gallery
    areas, accepted, rejected = [], [], []
    for draw in range(DRAWS):
        rows = drawn(labels, 20, draw)
        starts = np.arange(0, len(rows), 20)
        near = [
            np.concatenate([block.max(1) for _, block in nearest_of_each_class(rows_, vectors[rows], starts)])
            for rows_ in (known, new)
        ]
        areas.append(auroc(near[0], near[1]))
        threshold = calibrate(vectors[rows], np.full(len(starts), 20)).value
        accepted.append(float((near[1] > threshold).mean()))
        rejected.append(float((near[0] <= threshold).mean()))
    return {
        "auroc": round(float(np.mean(areas)), 4),
        "auroc_std": round(float(np.std(areas)), 4),
        "false_accepts_at_5": round(float(np.mean(accepted)), 4),
        "false_rejects_at_5": round(float(np.mean(rejected)), 4),
    }


def drawn(labels: NDArray[np.int64], shots: int, draw: int) -> NDArray[np.int64]:
    """So many rows of each class, the same for every representation."""
    random = np.random.default_rng([draw, shots])
    return np.concatenate([random.choice(np.flatnonzero(labels == c), shots, False) for c in np.unique(labels)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/recognition"))
    parser.add_argument("--images", type=int, default=1000, help="training images of each known class")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "recognition.json")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    new = read(arguments.data, "train", NEW, 0, 500)  # of which the draws take 1, 5 and 20 a class
    new_queries = read(arguments.data, "test", NEW, 0, QUERIES)
    known = read(arguments.data, "train", KNOWN, 4500, 500)  # not among the training images, for galleries
    known_queries = read(arguments.data, "test", KNOWN, QUERIES, QUERIES)
    assert arguments.images <= 4500
    rows, float_vectors = [], {}
    for name, embed in representations(arguments.work, arguments.data, arguments.images, arguments.epochs):
        vectors = [unit(embed(pixels)) for pixels in (new[0], new_queries[0], known[0], known_queries[0])]
        row = {"representation": name, "features": vectors[0].shape[1]}
        row |= few_shot((vectors[0], new[1]), (vectors[1], new_queries[1]))
        row |= known_or_not((vectors[2], known[1]), vectors[3], vectors[1])
        student, _, variant = name.partition(": ")
        if variant == "onnx-fp32":
            float_vectors[student] = vectors[0]
        if variant and variant != "onnx-fp32":
            row["with_the_gallery_of_onnx-fp32"] = few_shot(
                (float_vectors[student], new[1]), (vectors[1], new_queries[1])
            )
            row["mean_cosine_with_onnx-fp32"] = round(float((vectors[0] * float_vectors[student]).sum(1).mean()), 5)
        rows.append(row)
        shots = "  ".join(f"{row[f'{s}-shot']['top1']:.3f} ± {row[f'{s}-shot']['std']:.3f}" for s in SHOTS)
        print(
            f"{name:<34} {shots}  AUROC {row['auroc']:.3f}  false accepts {row['false_accepts_at_5']:.3f}", flush=True
        )
        write_json(
            arguments.output,
            {
                "created": now(),
                "machine": this_machine().model_dump(mode="json"),
                "load": os.getloadavg()[0],
                "protocol": f"known {', '.join(KNOWN)}; new {', '.join(NEW)}, in neither pool nor labels; {arguments.images} images a known "
                f"class, {arguments.epochs} epochs; {DRAWS} draws, {QUERIES} test images a class",
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
