"""What fine-tuning is made of, one thing at a time, on four sets: the teacher's test accuracy beside the linear probe's on the same labels.

    python benchmarks/finetune_ablation.py --data DATA [--sets digits,textures] [--labels 1,10,50] [--draws 1] [--work runs/finetune_ablation]

The sets are those of benchmarks/image_sets.py. Each set's encoder is pretrained once (SimCLR, ResNet-10 a quarter as wide); the rows
share it. Interrupted, the same command goes on where it was. The result, with machine, versions, seeds and every number, is written to
benchmarks/results/finetune_ablation.json after every cell. The last row is what `edgekit train` does by default.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.files import write_json
from edgekit.foreign import read_json
from edgekit.machine import installed_packages, this_machine
from edgekit.result import now
from edgekit.run import Run
from edgekit.train.stages.pipeline import Stages, train
from image_sets import SETS, prepare

HERE = Path(__file__).resolve().parent
SIDE = {"digits": 16, "mnist": 28, "textures": 32, "cifar10": 32}
EPOCHS = {"digits": 80, "mnist": 40, "textures": 40, "cifar10": 60}
STEPS, BATCH, POOL_BATCH = 150, 64, 128
OFF = {"enabled": False}
STRONG = {"crop_scale": [0.08, 1.0]}
# What differs from the last row.
ROWS: dict[str, dict[str, Any]] = {
    "before: zero head, one projection layer, strong crops": {
        "linear_first": False, "ema": 0.0, "keep_projection_layers": 1, "augmentation": STRONG, "consistency": OFF,
    },
    "linear first, no consistency": {"consistency": OFF},
    "linear first, one projection layer, no consistency": {"keep_projection_layers": 1, "consistency": OFF},
    "linear first, strong crops, no consistency": {"augmentation": STRONG, "consistency": OFF},
    "linear first, no crops, no consistency": {"augmentation": {"crop": 0.0}, "consistency": OFF},
    "linear first, layer decay 0.7, no consistency": {"layer_decay": 0.7, "consistency": OFF},
    "linear first, frozen BatchNorm, no consistency": {"freeze_batchnorm": True, "consistency": OFF},
    "zero head, no consistency": {"linear_first": False, "consistency": OFF},
    "consistency, threshold adaptive": {"consistency": {"threshold": "adaptive"}},
    "consistency, aligned to the start": {"consistency": {"align": "start"}},
    "consistency, not aligned": {"consistency": {"align": "none"}},
    "before, four times the steps": {
        "linear_first": False, "ema": 0.0, "keep_projection_layers": 1, "augmentation": STRONG, "consistency": OFF, "steps": 600,
    },
    "linear first, no consistency, four times the steps": {"consistency": OFF, "steps": 600},
    "default, four times the steps": {"steps": 600},
    "default": {},
}  # fmt: skip


def recipe_of(name: str, work: Path, labels: int, draw: int) -> dict[str, Any]:
    """A set's recipe; what is pretrained does not depend on labels and draw."""
    gray_digits = {"crop_scale": [0.4, 1.0], "flip": 0.0, "jitter": 0.0, "gray": 0.0}
    data: dict[str, Any] = {
        "labeled": name,
        "probe": 0.1,
        "image_size": SIDE[name],
        "labels": labels,
        "label_seed": draw,
    }
    if name != "digits":
        data |= {"labeled": str(work / "data" / name / "train"), "test": str(work / "data" / name / "test")}
    return {
        "name": name,
        "data": data,
        "pretrain": {
            "encoder": {"name": "resnet10", "width": 0.25},
            "projection": {"layers": 3, "output": 128},
            "temperature": 0.2,
            "epochs": EPOCHS[name],
            "batch_size": 256,
            "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup_epochs": 5},
            "augmentation": gray_digits if name == "digits" else {"crop_scale": [0.2, 1.0]},
        },
        "finetune": {
            "batch_size": BATCH,
            "consistency": {"images": POOL_BATCH},
            "augmentation": {"crop_scale": [0.4, 1.0], "flip": 0.0 if name == "digits" else 0.5},
        },
        "hardware": {"precision": "bf16", "threads": 1},
    }


def cell(name: str, work: Path, labels: int, draw: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune one row on one draw of labels; both the network's and the probe's test accuracy."""
    content = recipe_of(name, work, labels, draw)
    parsed = recipes.parse(content)
    train(parsed, Run(work / "runs" / name), until="pretrain")
    splits = load_splits(parsed.data)
    batch = min(BATCH, len(splits.labeled))
    steps = changes.get("steps", STEPS)
    finetune = content["finetune"] | {
        "batch_size": batch,
        "epochs": max(1, round(steps / (len(splits.labeled) // batch))),
    }
    for key, value in changes.items():
        if key == "steps":
            continue
        finetune[key] = {**finetune.get(key, {}), **value} if isinstance(value, dict) else value
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pretrain").symlink_to((work / "runs" / name / "pretrain").resolve())
        (folder / "finetune").mkdir()
        _, metrics = Stages(recipes.parse({**content, "finetune": finetune}), Run(folder), splits).finetune(
            folder / "finetune"
        )
    return {
        "finetuned": metrics["choice"]["test"]["finetuned"],
        "frozen": metrics["choice"]["test"]["frozen"],
        "left": metrics["choice"]["left"],
        "choice": metrics["choice"],
        "train_top1": metrics["train_top1"],
        "pseudo_counted": metrics.get("pseudo_counted"),
        "seconds": round(time.monotonic() - began, 1),
        "recipe": finetune,
        "test_images": len(splits.test),
        "pool_images": len(splits.pool),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of mnist/ and cifar10/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--labels", default="1,5,10,50", help="labels a class")
    parser.add_argument("--draws", type=int, default=3, help="label draws of each cell")
    parser.add_argument(
        "--rows", help=f"numbers of rows, from 0: {'; '.join(f'{i} {row}' for i, row in enumerate(ROWS))}. Default all"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/finetune_ablation"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "finetune_ablation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = list(ROWS)
    rows = names if arguments.rows is None else [names[int(i)] for i in arguments.rows.split(",")]
    cells: list[dict[str, Any]] = read_json(arguments.output)["cells"] if arguments.output.exists() else []
    for draw in range(arguments.draws):
        for labels in map(int, arguments.labels.split(",")):
            for name in arguments.sets.split(","):
                prepare(name, arguments.data, arguments.work)
                for row in rows:
                    key = {"set": name, "labels": labels, "draw": draw, "row": row}
                    if not any(all(done[k] == v for k, v in key.items()) for done in cells):
                        cells.append({**key, **cell(name, arguments.work, labels, draw, ROWS[row])})
                        write(arguments.output, cells)
    show(cells)


def write(output: Path, cells: list[dict[str, Any]]) -> None:
    content = {
        "what": "test accuracy of the fine-tuned network (before any fallback) and of the frozen encoder's linear probe on the same labels",
        "created": now(),
        "command": ["python", "benchmarks/finetune_ablation.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json"),
        "packages": installed_packages(),
        "threads": torch.get_num_threads(),
        "protocol": f"encoder pretrained once a set; {STEPS} steps (or what the row says) of at most {BATCH} labels and {POOL_BATCH} images "
        "of the pool, bf16 autocast",
        "seeds": {"of weights, batches, test and probe sets": 0, "of the label draw": "`draw` of each cell"},
        "cells": cells,
    }
    write_json(output, content)


def show(cells: list[dict[str, Any]]) -> None:
    """Mean difference from the linear probe in points, and where there are several draws its standard deviation."""
    places = list(dict.fromkeys((cell["set"], cell["labels"]) for cell in cells))
    print(f"{'':<54}" + "".join(f"{f'{name} {labels}':>14}" for name, labels in places))
    for row in ["linear probe", *ROWS]:
        texts = []
        for place in places:
            here = [c for c in cells if (c["set"], c["labels"]) == place and (row == "linear probe" or c["row"] == row)]
            values = [100 * c["frozen" if row == "linear probe" else "finetuned"] for c in here]
            spread = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        print(f"{row:<54}" + "".join(f"{text:>14}" for text in texts))


if __name__ == "__main__":
    main()
