"""Plant mistakes in a recipe and record the advice; a run without a mistake must get none.

    python benchmarks/planted_mistakes.py [--only NAME ...] [--seeds 0] [--output benchmarks/results/planted_mistakes.json]

scikit-learn's digits (1,797 gray images of 8 px, ten classes, 10 labels each; 10 % probe set, 20 % test set), ResNet-10 with width 0.125,
120 epochs of pretraining. Each mistake changes one thing in the recipe or in the images. Each has one or more rules that must find it; all
other findings are listed as further ones. About a minute of one core each.

Not in the list: a learning rate of the pretraining that is too high. With AdamW and BatchNorm, 250 to 500,000 times the usual rate (2e-3) gave
better encoders than that rate (kNN 83 to 87 % against 79 %, 60 epochs, one seed), so it was no mistake.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now
from edgekit.run import Run
from edgekit.train.assess import advice_for
from edgekit.train.stages.pipeline import train

STUDENT = {"name": "resnet10", "width": 0.125, "stem": "cifar"}
NO_FLIP = {"flip": 0.0}
HEALTHY: dict[str, Any] = {
    "data": {"image_size": 8, "labels": 10},
    "pretrain": {
        "encoder": STUDENT, "projection": {"output": 64}, "epochs": 120, "batch_size": 128, "augmentation": {"flip": 0.0, "crop_scale": [0.3, 1.0]},
        "optimizer": {"name": "adamw", "lr": 2e-2, "scale_lr": False, "weight_decay": 1e-4, "warmup": 0.05},
    },
    "finetune": {"steps": 300, "augmentation": NO_FLIP, "consistency": {"images": 64}},
    "distill": {
        "student": STUDENT, "batch_size": 128, "steps": 400, "augmentation": NO_FLIP,
        "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup": 0.05},
    },
    "supervised": {"steps": 300, "search": False, "augmentation": {"flip": 0.0, "crop_scale": [0.5, 1.0]}},
    "hardware": {"accelerator": "cpu", "precision": "fp32", "threads": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Args:
        what: in words.
        rules: rules of the advice that must find it: all of them, or one if `any_of`.
        sets: changes of the healthy recipe, in the form of `--set`.
        class_of: class of an image, from its number and its digit.
        pool_lacks: a digit that is missing from the pool.
        teacher: `class_of` of the images of another teacher; None for none.
        any_of: whether one of the rules is enough.
    """

    what: str
    rules: tuple[str, ...]
    sets: tuple[str, ...] = ()
    class_of: Callable[[int, int], int] = lambda i, digit: digit
    pool_lacks: int | None = None
    teacher: Callable[[int, int], int] | None = None
    any_of: bool = field(default=False)


_RANDOM = np.random.default_rng(0).integers(0, 10, 2000).tolist()
MISTAKES = {
    "healthy": Mistake("nothing", ()),
    "lr-finetune": Mistake(
        "learning rate of the fine-tuning x 1,000",
        ("learning_rate", "teacher"),
        ("finetune.optimizer.lr=1.0",),
        any_of=True,
    ),
    "few-steps": Mistake(
        "4 epochs of pretraining, 4 steps of fine-tuning, one epoch of distillation",
        ("few_steps", "improving"),
        ("pretrain.epochs=4", "finetune.epochs=4", "distill.epochs=1", "supervised.epochs=10"),
        any_of=True,
    ),
    "shuffled-labels": Mistake("every label drawn at random", ("labels",), class_of=lambda i, digit: int(_RANDOM[i])),
    "augmentation-crop": Mistake(
        "pretraining with crops of 1 to 3 % of the image",
        ("views",),
        ("pretrain.augmentation.crop_scale=[0.01, 0.03]",),
    ),
    "missing-class": Mistake("the pool has no image of the digit 3", ("missing_class",), pool_lacks=3),
    "other-teacher": Mistake(
        "a teacher that learned each digit under the next one's name",
        ("other_teacher",),
        teacher=lambda i, digit: (digit + 1) % 10,
    ),
    "lr-supervised": Mistake(
        "learning rate of the network from scratch x 100",
        ("learning_rate", "training_accuracy"),
        ("supervised.optimizer.lr=10",),
        any_of=True,
    ),
    "lr-distill": Mistake(
        "learning rate of the distillation x 15,000", ("learning_rate",), ("distill.optimizer.lr=30",)
    ),
    "augmentation-cutout": Mistake(
        "pretraining with a square of 95 % of the view cut out",
        ("views",),
        ("pretrain.augmentation.cutout=1", "pretrain.augmentation.cutout_side=0.95"),
    ),
    "augmentation-flip": Mistake(
        "images that have a left and a right are flipped", ("mirrored",), ("pretrain.augmentation.flip=0.5",)
    ),
}


def write_digits(folder: Path, class_of: Callable[[int, int], int], lacks: int | None = None) -> Path:
    """Write scikit-learn's digits as PNG files, each in the folder of its class."""
    digits = load_digits()
    for i, (image, digit) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        if digit != lacks:
            path = folder / str(class_of(i, digit)) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    return folder


def run_with(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Train with a mistake; return the scores and the advice."""
    mistake = MISTAKES[name]
    images = write_digits(work / "images" / name, mistake.class_of)
    sets = [f"data.labeled={images}", f"seed={seed}", f"data.label_seed={seed}", *mistake.sets]
    if mistake.pool_lacks is not None:
        pool = write_digits(work / "pool" / name, mistake.class_of, mistake.pool_lacks)
        sets.append(f"data.pool={pool}")
    if mistake.teacher is not None:
        other = write_digits(work / "other" / name, mistake.teacher)
        theirs = recipes.recipe_of(HEALTHY, [f"data.labeled={other}", f"seed={seed}"])
        train(theirs, Run(work / "runs" / f"other-{seed}"), until="finetune")
        sets.append(f"distill.teachers=[{{model: '{work / 'runs' / f'other-{seed}'}'}}]")
    recipe = recipes.recipe_of(HEALTHY, sets)
    run, healthy = Run(work / "runs" / f"{name}-{seed}"), Run(work / "runs" / f"healthy-{seed}")
    train(recipe, run, reuse=[healthy] if healthy.path.exists() and run.path != healthy.path else [])
    advice = advice_for(run, load_splits(recipe.data, run))
    found_rules = {a.rule for a in advice}
    if name == "healthy":
        found = not found_rules
    else:
        found = bool(found_rules & set(mistake.rules)) if mistake.any_of else set(mistake.rules) <= found_rules
    stages = {stage: run.require(stage).metrics for stage in ("finetune", "distill", "supervised")}
    return {
        "mistake": name, "what": mistake.what, "seed": seed, "rules": list(mistake.rules), "found": found,
        "test_top1": {stage: round(metrics["test_top1"], 4) for stage, metrics in stages.items()},
        "consistency": stages["finetune"].get("consistency"),
        "advice": [
            {key: text.replace(str(work), "WORK") for key, text in a.model_dump(mode="json").items()} for a in advice
        ],
        "further_findings": sorted(found_rules - set(mistake.rules)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MISTAKES, default=list(MISTAKES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, help="keeps the runs")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = []
    protocol = {
        "created": now(),
        "command": "python benchmarks/planted_mistakes.py",
        "seeds": options.seeds,
        "machine": this_machine().model_dump(mode="json"),
        "healthy_recipe": HEALTHY,
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for seed in options.seeds:
            for name in options.only:
                shutil.rmtree(work / "images" / name, ignore_errors=True)
                results.append(one := run_with(name, seed, work))
                print(
                    f"{name} (seed {seed}), {one['what']}: {'found' if one['found'] else 'NOT FOUND'}; {one['test_top1']}",
                    flush=True,
                )
                for advice in one["advice"]:
                    mark = " " if advice["rule"] in one["rules"] else "+"
                    print(f"  {mark} {advice['rule']}: {advice['finding']}\n      -> {advice['change']}", flush=True)
                if options.output:
                    write_json(options.output, protocol | {"load_average": os.getloadavg()[0], "results": results})
    sys.exit(0 if all(one["found"] for one in results) else 1)


if __name__ == "__main__":
    main()
