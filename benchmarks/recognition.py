"""Which network embeds best for recognition? Images of which four classes are never seen by any stage.

    python benchmarks/recognition.py --data CIFAR10 [--work runs/recognition] [--images 600] [--epochs 15] [--output FILE]
    python benchmarks/recognition.py --data digits --images 90 --epochs 100

CIFAR10 holds train/ and test/, each with one folder a class; `digits` are scikit-learn's, with nothing to download. Pretraining, fine-tuning
and distillation see six classes alone: the unlabeled pool does not hold the four others (frog, horse, ship, truck; 6 to 9) either, and
calibration and evaluation at export do not.

For each representation (raw pixels, a random encoder, the pretrained encoder, the teacher, the student distilled with `kd` and with `feature`,
from plain and from mixed images, and the ONNX and OpenVINO variants of those from plain ones):

- 1, 5 and 20 images a class of the four new classes make a gallery, and other images of these four are recognized: top-1 of the gallery's
  answers, mean and standard deviation over 20 draws; beside it top-1 of the nearest image's class;
- 20 images of each of the six known classes make a gallery: AUROC of the similarity, further images of the six against those of the four new
  ones, mean over the same number of draws; and the share of new images that the threshold for 5 % false accepts lets pass, which the
  gallery sets without them.

Each INT8 and OpenVINO variant also answers with the gallery of the ONNX FP32 variant: that is how a device uses it. Interrupted, it goes on
where it was: runs and bundles lie below --work.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

SHOTS = (1, 5, 20)
DRAWS = 20
Images = NDArray[np.uint8]
Embed = Callable[[Images], NDArray[np.float32]]


@dataclass(frozen=True)
class Data:
    """The classes, and which images of each class serve for what.

    Attributes:
        root: holds train/CLASS and test/CLASS.
        known, new: the classes.
        size: side of the images that the networks take, in pixels.
        galleries: first image of train/CLASS that galleries draw from, and how many; training takes earlier ones of the known classes.
        judged: the first so many of test/CLASS are the runs' test set.
        queries: the next so many of test/CLASS are recognized.
        flip: whether a mirrored image is one of the same class.
    """

    root: Path
    known: list[str]
    new: list[str]
    size: int
    galleries: tuple[int, int]
    judged: int
    queries: int
    flip: bool

    @classmethod
    def cifar10(cls, root: Path) -> Data:
        known = ["airplane", "automobile", "bird", "cat", "deer", "dog"]
        return cls(root, known, ["frog", "horse", "ship", "truck"], 32, (4500, 500), 250, 250, True)

    @classmethod
    def digits(cls, root: Path) -> Data:
        """scikit-learn's digits as files: of each the first 130 in train/, the others (44 to 53) in test/."""
        from sklearn.datasets import load_digits

        found = load_digits()
        for digit in range(10):
            for i, row in enumerate(np.flatnonzero(found.target == digit)):
                folder = root / ("train" if i < 130 else "test") / str(digit)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray((found.images[row] * 255 / 16).astype(np.uint8)).save(folder / f"{i:03}.png")
        return cls(root, list("012345"), list("6789"), 16, (90, 40), 20, 24, False)

    def read(self, part: str, names: list[str], skip: int, count: int) -> tuple[Images, NDArray[np.int64]]:
        """The images `skip` to `skip + count` of each class, as the networks take them, and their classes."""
        files = [sorted((self.root / part / name).iterdir())[skip : skip + count] for name in names]
        preprocessing = Preprocessing(image_size=self.size, resize_to=self.size)
        pixels = [preprocessing.read(file) for one in files for file in one]
        return np.stack(pixels), np.repeat(np.arange(len(names)), [len(one) for one in files])


def link_known(data: Data, work: Path, images: int) -> Path:
    """A folder with the first so many images of each known class: all that training ever sees."""
    root = work / f"known-{images}"
    for part, count in (("train", images), ("test", data.judged)):
        for name in data.known:
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((data.root / part / name).iterdir())[:count]:
                if not (folder / file.name).exists():
                    (folder / file.name).symlink_to(file.resolve())
    return root


def recipe_of(data: Data, folder: Path, loss: str, mixup: float, epochs: int) -> dict[str, Any]:
    """A short training: minutes on one core, far from what the networks could reach."""
    optimizer = {"name": "adamw", "lr": 0.003, "scale_lr": False}
    recipe: dict[str, Any] = {
        "name": f"recognition-{loss}",
        "data": {
            "labeled": str(folder / "train"), "test": str(folder / "test"), "image_size": data.size, "probe": 0.1,
            "labels": {"per_class": 500, "at_most": True},
        },
        "pretrain": {
            "method": "simclr", "encoder": {"name": "resnet10", "width": 0.25, "stem": "strided"}, "epochs": epochs, "batch_size": 256,
            "optimizer": optimizer,
        },
        "finetune": {"epochs": 15, "consistency": {"enabled": False}},
        "distill": {
            "student": {"name": "resnet10", "width": 0.125, "stem": "strided"}, "loss": loss, "mixup": mixup,
            "epochs": epochs // 2, "batch_size": 256, "optimizer": optimizer,
        },
        "supervised": {"enabled": False},
        "monitor": {"every": 0},
        "hardware": {"threads": 1},
    }  # fmt: skip
    if not data.flip:  # a mirrored digit is another sign, and gray images have no colors to change
        for stage, crop in (("pretrain", 0.4), ("finetune", 0.6), ("distill", 0.6)):
            recipe[stage]["augmentation"] = {"crop_scale": [crop, 1.0], "flip": 0.0, "jitter": 0.0, "gray": 0.0}
    return recipe


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


def representations(work: Path, data: Data, images: int, epochs: int) -> Iterator[tuple[str, Embed]]:
    """Everything that embeds, by name; trains and exports what is missing."""
    folder = link_known(data, work, images)
    yield "raw pixels", lambda pixels: pixels.reshape(len(pixels), -1) / np.float32(127.5) - 1
    run: Any = None
    for loss, mixup in (("kd", 0.0), ("feature", 0.0), ("kd", 0.5), ("feature", 0.5)):
        recipe = Recipe.read(recipe_of(data, folder, loss, mixup, epochs))
        name = f"{'mixed' if mixup else 'run'}-{loss}-{images}-{epochs}"
        run = edgekit.train(recipe, run=work / name, reuse=run)
        if mixup:
            yield f"student, {loss}, mixed images", network_of(run.student())
            continue
        if loss == "kd":
            torch.manual_seed(0)
            architecture = Architecture(name="resnet10", width=0.25, stem="strided")
            random = TrainedNetwork(
                build_encoder(architecture, data.size, ""),
                Preprocessing(image_size=data.size, resize_to=data.size),
                0.5,
                0.25,
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
    """Top-1 for each number of images a class: as a gallery answers, and of the nearest image's class."""
    vectors, labels = gallery
    scores: dict[str, Any] = {}
    for shots in SHOTS:
        top1, nearest, neighbors = [], [], []
        for draw in range(DRAWS):
            rows = drawn(labels, shots, draw)
            counts = np.full(len(rows) // shots, shots)
            neighbors.append(calibrate(vectors[rows], counts)[0])
            for chosen, results in ((neighbors[-1], top1), (1, nearest)):
                decided = similarities(queries[0], vectors[rows], shots, chosen).argmax(1)
                results.append(float((decided == queries[1]).mean()))
        scores[f"{shots}-shot"] = {
            "top1": round(float(np.mean(top1)), 4),
            "std": round(float(np.std(top1)), 4),
            "top1_of_the_nearest_image": round(float(np.mean(nearest)), 4),
            "neighbors": sorted(neighbors),
        }
    return scores


def similarities(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], shots: int, neighbors: int
) -> NDArray[np.float32]:
    """With each class, of which so many rows lie beside each other."""
    starts = np.arange(0, len(vectors), shots)
    return np.concatenate([block for _, block in nearest_of_each_class(queries, vectors, starts, neighbors)])


def known_or_not(
    gallery: tuple[NDArray[np.float32], NDArray[np.int64]], known: NDArray[np.float32], new: NDArray[np.float32]
) -> dict[str, Any]:
    """AUROC of the similarity, and the false accepts at the threshold that the gallery itself gives for 5 %."""
    vectors, labels = gallery
    areas, accepted, rejected = [], [], []
    for draw in range(DRAWS):
        rows = drawn(labels, 20, draw)
        counts = np.full(len(rows) // 20, 20)
        neighbors, threshold = calibrate(vectors[rows], counts)
        near = [similarities(asked, vectors[rows], 20, neighbors).max(1) for asked in (known, new)]
        areas.append(auroc(near[0], near[1]))
        accepted.append(float((near[1] > threshold.value).mean()))
        rejected.append(float((near[0] <= threshold.value).mean()))
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
    parser.add_argument("--data", required=True, help="the folder of CIFAR-10, or digits")
    parser.add_argument("--work", type=Path, default=Path("runs/recognition"))
    parser.add_argument("--images", type=int, default=600, help="training images of each known class")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/recognition[_digits].json")
    arguments = parser.parse_args()
    digits = arguments.data == "digits"
    work = arguments.work / ("digits" if digits else "cifar10")
    work.mkdir(parents=True, exist_ok=True)
    data = Data.digits(work / "images") if digits else Data.cifar10(Path(arguments.data))
    output = arguments.output or Path(__file__).parent / "results" / f"recognition{'_digits' if digits else ''}.json"
    if arguments.images > data.galleries[0]:
        parser.error(f"--images: at most {data.galleries[0]}, since later ones are for the galleries")
    new, known = (data.read("train", names, *data.galleries) for names in (data.new, data.known))
    new_queries, known_queries = (
        data.read("test", names, data.judged, data.queries) for names in (data.new, data.known)
    )
    rows, float_vectors = [], {}
    for name, embed in representations(work, data, arguments.images, arguments.epochs):
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
            output,
            {
                "created": now(),
                "machine": this_machine().model_dump(mode="json"),
                "load": os.getloadavg()[0],
                "protocol": f"known {', '.join(data.known)}; new {', '.join(data.new)}, in neither pool nor labels; {arguments.images} images "
                f"a known class, {arguments.epochs} epochs; {DRAWS} draws, {data.queries} test images a class",
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
