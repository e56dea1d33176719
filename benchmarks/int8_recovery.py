"""The accuracy search: a depthwise student on which plain INT8 loses more than three points, and the strategy that keeps the accuracy.

    python benchmarks/int8_recovery.py RUN [--work runs/int8_recovery] [--epochs 15] [--quick] [--output FILE]

RUN is a trained run with a teacher (for instance one of benchmarks/cifar10). A MNASNet-0.5 of timm (depthwise convolutions, ReLU, no
squeeze-and-excitation) is distilled from it on the run's pool, resumable epoch by epoch in --work, and exported three times:

- as it was trained;
- with its channels scaled by up to e^3 between neighboring layers, which no float computation notices;
- with the channels of its residual streams scaled likewise.

An export that is in --work already is read, not made again.

For each, in both runtimes and for TensorRT's graph (simulated): what plain INT8 loses (calibration alone, whatever the loss), then
what the accuracy search reaches with --recover: the strategy, every attempt, the seconds, and the latency of both and of float.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.data.augment import Augment
from edgekit.data.splits import Splits, load_splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import load_classifier, save_classifier
from edgekit.progress import progress
from edgekit.quantization import Quantization
from edgekit.quantize.selection import CalibrationPool, digest_of_arrays
from edgekit.recipe import Architecture
from edgekit.result import now
from edgekit.run import Run
from edgekit.train.distill.losses import distillation

HERE = Path(__file__).resolve().parent
SPREAD = 3.0  # channels differ by up to e^6, four hundred times
STUDENT = Architecture(name="mnasnet_050")
TARGETS = ["onnx", "openvino", "trt"]
BATCH, LEARNING_RATE, TEMPERATURE = 128, 3e-3, 2.0


def student(run: Run, splits: Splits, work: Path, epochs: int, architecture: Architecture = STUDENT) -> Classifier:
    """The student, distilled from the run's teacher on its pool without labels; goes on where it was interrupted."""
    done = work / "student"
    if (done / "model.safetensors").is_file():
        return load_classifier(done)
    done.mkdir(parents=True, exist_ok=True)
    data, checkpoint = run.recipe.data, work / "checkpoint.pt"
    torch.manual_seed(0)
    teacher = load_classifier(run.stage_path("finetune")).requires_grad_(False)
    model = Classifier.build(architecture, data.image_size, splits.classes, [])
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    steps = len(splits.pool) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.1)
    augment = Augment(run.recipe.distill.augmentation, data.image_size, data.mean, data.std)
    begin = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        begin = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    model.train()
    with progress("student", epochs * steps, begin * steps, "steps") as advance:
        for epoch in range(begin, epochs):
            generator = torch.Generator().manual_seed(epoch)
            order = torch.randperm(len(splits.pool), generator=generator)
            for rows in order.split(BATCH)[:steps]:
                images = augment(torch.from_numpy(np.asarray(splits.pool.images[rows.numpy()])), generator)
                with torch.no_grad():
                    target = teacher(images)
                loss = distillation(model(images), target, TEMPERATURE)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(note=f"loss {loss.item():.3f}")
            state = {
                "epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    save_classifier(done, model.eval())
    return model.eval()


def imbalanced(model: Classifier, where: str, spread: float, seed: int = 0) -> Classifier:
    """The same function, its channels scaled by up to exp(+-spread): `between` layers of a block, or in the residual `streams`."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    network = model.encoder.network
    stages = [list(stage) for stage in network.blocks]
    blocks = [block for stage in stages for block in stage]

    def scale(made: Sequence[nn.Module], read: Sequence[nn.Conv2d]) -> None:
        """Multiply what some BatchNorms make by random factors, and divide them out of the convolutions that read it."""
        factor = torch.exp((torch.rand(made[0].weight.shape[0], generator=generator) * 2 - 1) * spread)
        with torch.no_grad():
            for norm in made:
                norm.weight.mul_(factor)
                norm.bias.mul_(factor)
            for convolution in read:
                depthwise = convolution.groups > 1
                convolution.weight.div_(factor.view(-1, 1, 1, 1) if depthwise else factor.view(1, -1, 1, 1))

    if where == "between":
        for block in blocks:
            if hasattr(block, "conv_pwl"):
                scale([block.bn1], [block.conv_dw])
                scale([block.bn2], [block.conv_pwl])
            else:
                scale([block.bn1], [block.conv_pw])
        return model
    for stage, following in zip(stages[1:], [*stages[2:], None], strict=True):
        after = following[0].conv_pw if following is not None else network.conv_head
        scale([block.bn3 for block in stage], [*(block.conv_pw for block in stage[1:]), after])
    return model


def measure(model: nn.Module, splits: Splits, run: Run, folder: Path) -> dict[str, Any]:
    """Plain INT8 and the result of the accuracy search, for each target."""
    data, test = run.recipe.data, splits.test
    rows = np.linspace(0, len(splits.pool) - 1, min(4396, len(splits.pool))).round().astype(int)
    pool = np.asarray(splits.pool.subset(rows).center_crop(data.image_size).images)
    candidates = CalibrationPool(len(pool), lambda chosen: pool[chosen], digest_of_arrays(pool))
    assert test.labels is not None
    found: dict[str, Any] = {}
    for name, options in (
        ("plain", ExportOptions(max_drop=100.0)),
        ("accuracy_search", ExportOptions(max_drop=1.0, recover=True)),
    ):
        bundle = export_classifier(
            PixelClassifier(model, data.mean, data.std),
            classes=splits.classes,
            preprocessing=data.preprocessing(),
            calibration=candidates,
            evaluation=(np.asarray(test.images), test.labels),
            output=folder / name,
            targets=TARGETS,
            precisions=["int8"],
            options=options,
        )
        assert bundle.manifest.accuracy is not None
        found["float_top1"] = bundle.manifest.accuracy.value
        for variant in bundle.manifest.variants:
            made = (variant.quantization or Quantization()).model_dump(mode="json")
            found.setdefault(variant.id, {})[name] = {
                "status": variant.status,
                "drop": variant.drop,
                "agreement": variant.agreement,
                "strategy": made.get("strategy"),
                "configuration": made.get("configuration"),
                "seconds_of_the_search": sum(t["seconds"] for t in made.get("tried", [])),
                "speed": variant.speed.model_dump() if variant.speed else None,
                "tried": made.get("tried"),
                "sensitivity": made.get("sensitivity"),
            }
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--work", type=Path, default=Path("runs/int8_recovery"))
    arguments.add_argument("--epochs", type=int, default=15)
    arguments.add_argument("--quick", action="store_true", help="a rehearsal: one epoch, few images")
    arguments.add_argument("--output", type=Path, default=HERE / "results" / "int8_recovery.json")
    told = arguments.parse_args()
    run = Run.open(told.run)
    splits = load_splits(run.recipe.data)
    if told.quick:
        few = {"pool": 1024, "test": 500}  # spread: sets may be sorted by class
        rows = {name: np.linspace(0, len(getattr(splits, name)) - 1, n).astype(int) for name, n in few.items()}
        splits = replace(splits, pool=splits.pool.subset(rows["pool"]), test=splits.test.subset(rows["test"]))
    trained = student(run, splits, told.work, 1 if told.quick else told.epochs)
    cases = {
        "as trained": trained,
        "channels imbalanced between layers": imbalanced(trained, "between", SPREAD),
        "channels imbalanced in the residual streams": imbalanced(trained, "streams", SPREAD),
    }
    measured = {}
    for i, (name, model) in enumerate(cases.items()):
        measured[name] = measure(model, splits, run, told.work / f"case-{i}")
        for id_ in (f"{target}-int8" for target in TARGETS):
            plain, found = (measured[name][id_][which] for which in ("plain", "accuracy_search"))
            print(
                f"{name}, {id_}: {100 * plain['drop']:.2f} points lost, then {100 * found['drop']:.2f} by {found['strategy']}"
            )
        content = {
            "what": "INT8 that loses too much, and the strategy that keeps the accuracy",
            "created": now(),
            "command": sys.argv,
            "architecture": STUDENT.model_dump(mode="json"),
            "epochs": told.epochs,
            "test_images": len(splits.test),
            "spread": SPREAD,
            "quick": told.quick,
            "machine": this_machine().model_dump(mode="json"),
            "measured": measured,
        }
        write_json(told.output, content)


if __name__ == "__main__":
    main()
