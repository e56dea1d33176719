"""Whether the short trial of `edgekit init` chooses the augmentation that is better after longer pretraining.

    python benchmarks/view_trial.py --data DATA [--sets mnist,textures] [--epochs 30] [--threads 1] [--work runs/view_trial]

For each set of benchmarks/image_sets.py, the trial of `edgekit.train.view_trial` runs as in `edgekit init --labels 10`, without a limit of
time. Then a narrow ResNet-18 is pretrained for longer with each of the augmentations that it tried, and a logistic regression with ten labels
a class is tested on the test set (mean over draws of the labels from the probe set). Interrupted, the same command goes on where it was. The
result is written to benchmarks/results/view_trial.json after every pretraining.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgekit import recipe as recipes
from edgekit.data.layout import inspect_folder
from edgekit.data.splits import Splits, load_splits
from edgekit.data.template import RecipePlan, ViewStrength, recipe_text
from edgekit.files import write_json
from edgekit.foreign import read_json
from edgekit.machine import installed_packages, this_machine
from edgekit.models.store import load_pretrained
from edgekit.recipe import Architecture, Recipe
from edgekit.result import now
from edgekit.run import Run
from edgekit.train.evaluate.features import apply, labels_of
from edgekit.train.evaluate.few_shot import few_shot
from edgekit.train.stages.pipeline import train
from edgekit.train.view_trial import chosen_views, try_views
from image_sets import prepare

HERE = Path(__file__).resolve().parent
SETS = ["mnist", "fashion", "photographs", "textures", "cifar10"]
MIRRORED = {"photographs", "textures", "cifar10"}  # as `edgekit init` decides
ENCODER = Architecture(name="resnet18", width=0.25, stem="strided")
SHOTS, DRAWS = 10, 20
WITHOUT_LIMIT = 1e9  # seconds


def recipe_of(name: str, work: Path, views: ViewStrength, epochs: int, threads: int) -> Recipe:
    """The recipe that `init` writes for a set, with this network and these views."""
    layout = inspect_folder(str(work / "data" / name))
    plan = RecipePlan(layout.image_size, ENCODER, ENCODER, epochs, 1, flip=name in MIRRORED, views=views)
    content = recipes.read_yaml(recipe_text(layout, name, labels=str(SHOTS), plan=plan))
    return recipes.parse({**content, "hardware": {"threads": threads}, "monitor": {"every": 0}})


def few_label_accuracy(recipe: Recipe, splits: Splits, run: Run) -> tuple[float, tuple[float, float]]:
    """Pretrain, and return the test accuracy with `SHOTS` labels a class, and its interval over the draws."""
    train(recipe, run, splits=splits, until="pretrain")
    encoder = load_pretrained(run.stage_path("pretrain"), run.require("pretrain").outputs).encoder
    data, cpu = recipe.data, torch.device("cpu")
    known = apply(encoder, splits.probe.images, data.mean, data.std, cpu)
    queries = apply(encoder, splits.test.images, data.mean, data.std, cpu)
    truth = labels_of(splits.test)
    found = few_shot(known, splits.probe, queries, truth, splits.classes, [SHOTS], DRAWS, recipe.seed)
    logistic = next(shots for shots in found if shots.method == "logistic")
    return float(logistic.accuracies.mean()), logistic.interval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of mnist/, cifar10/ and fashion/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/view_trial"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "view_trial.json")
    arguments = parser.parse_args()
    work, epochs, threads = arguments.work, arguments.epochs, arguments.threads
    rows: list[dict[str, Any]] = read_json(arguments.output)["sets"] if arguments.output.exists() else []
    for name in arguments.sets.split(","):
        prepare(name, arguments.data, work)
        splits = load_splits(recipe_of(name, work, ViewStrength(), epochs, threads).data)
        row = next((row for row in rows if row["set"] == name), None)
        if row is None:
            recipe_with = partial(recipe_of, name, work, epochs=epochs, threads=threads)
            tried = try_views(recipe_with, splits, WITHOUT_LIMIT)
            chosen = chosen_views(tried)
            row = {
                "set": name,
                "images": len(splits.pool),
                "judges": len(tried[0].right),
                "chosen": str(chosen),
                "views": [],
            }
            row["views"] = [
                {
                    "mild_crops": each.views.mild_crops,
                    "weak_colors": each.views.weak_colors,
                    "name": str(each.views),
                    "trial": each.accuracy,
                }
                for each in tried
            ]
            rows.append(row)
            write(arguments.output, rows)
        for each in row["views"]:
            if "longer" not in each:
                views = ViewStrength(each["mild_crops"], each["weak_colors"])
                run = Run(work / "runs" / f"{name}-{views.mild_crops:d}{views.weak_colors:d}")
                recipe = recipe_of(name, work, views, epochs, threads)
                each["longer"], each["interval"] = few_label_accuracy(recipe, splits, run)
                each["epochs"] = epochs
                write(arguments.output, rows)
        show(row)


def write(output: Path, rows: list[dict[str, Any]]) -> None:
    content = {
        "what": "trial: accuracy of a linear classifier with ten labels a class after a short pretraining, on labeled images outside of the test "
        "set; longer: the same on the test set after so many epochs, with its 95 % interval over the draws of the labels",
        "created": now(),
        "command": ["python", "benchmarks/view_trial.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json"),
        "packages": installed_packages(),
        "seeds": {"of weights, batches and sets": 0},
        "sets": rows,
    }
    write_json(output, content)


def show(row: dict[str, Any]) -> None:
    """One set, in percent."""
    for each in row["views"]:
        mark = "  <- chosen" if each["name"] == row["chosen"] else ""
        print(
            f"{row['set']:<12}{each['name']:<58}{100 * each['trial']:>7.1f}{100 * each['longer']:>7.1f}{mark}",
            flush=True,
        )


if __name__ == "__main__":
    main()
