"""Every pretraining method on the embedded digits: the same encoder, augmentation, optimizer and number of steps; three seeds.

    python benchmarks/methods_digits.py [--epochs 80] [--seeds 3] [--rows simclr,byol] [--work runs/methods_digits]

Beside the methods there are rows for what theory says about those without negatives: SimSiam without stop-gradient, and each
without predictor, with and without guided stop-gradient (BYOL's also with normalized projections, as SimSiam's are). The row
`random weights` is the encoder that all of them start from. Each cell is a run of `edgekit train` in WORK:
interrupted, the same command goes on where it was. The settings were chosen once for all methods and are nobody's optimum. The
result, with machine, versions, seeds and every number, is written to benchmarks/results/methods_digits.json after every cell.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from edgekit import recipe as recipes
from edgekit.data.splits import Splits, load_splits
from edgekit.files import write_json, write_text
from edgekit.machine import this_machine
from edgekit.models.store import load_pretrained, save_pretrained
from edgekit.recipe import Recipe
from edgekit.result import now
from edgekit.run import Run
from edgekit.train.evaluate import device_of, encoder_scores
from edgekit.train.loop.loader import seed_for
from edgekit.train.pretrain import METHODS, build_method
from edgekit.train.stages.pipeline import Stages

HERE = Path(__file__).resolve().parent
RANDOM = "random weights"

SMALL_HEAD = {"hidden": 128, "output": 64}
BYOL = {"projection": {"layers": 2, **SMALL_HEAD}, "predictor": {"hidden": 128}, "momentum": 0.97}
SIMSIAM = {"projection": {"layers": 3, **SMALL_HEAD}, "predictor": {"hidden": 32, "constant_lr": True}}
SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {"projection": {"layers": 3, **SMALL_HEAD}, "temperature": 0.2},
    "moco": {"projection": {"layers": 2, **SMALL_HEAD}, "queue": 1024, "temperature": 0.2},
    "instdisc": {"projection": {"layers": 1, "output": 64}, "negatives": 1024},
    "byol": BYOL,
    "simsiam": SIMSIAM,
    "byol+gsg": BYOL,
    "simsiam+gsg": SIMSIAM,
    "triplet": {"projection": {"layers": 3, **SMALL_HEAD}},
}
ALONE = {"predictor": {"enabled": False}}
NORMALIZED = {"projection": {**BYOL["projection"], "normalize_output": True}}
# Row -> method and what differs from its settings.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "byol without predictor": ("byol", ALONE),
    "byol+gsg without predictor": ("byol+gsg", ALONE),
    "byol+gsg normalized without predictor": ("byol+gsg", {**NORMALIZED, **ALONE}),
    "byol normalized without predictor": ("byol", {**NORMALIZED, **ALONE}),
    "simsiam without predictor": ("simsiam", ALONE),
    "simsiam+gsg without predictor": ("simsiam+gsg", ALONE),
    "simsiam without stop-gradient": ("simsiam", {"stop_gradient": False}),
}


def recipe_of(method: str, changes: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """The digits example with another pretraining; the teacher starts at the encoder's features, so that heads of any depth compare."""
    content = yaml.safe_load((HERE.parent / "examples" / "digits.yaml").read_text())
    pretrain = content["pretrain"]
    content["seed"] = content["data"]["label_seed"] = seed
    content["pretrain"] = {
        "method": method,
        "encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "epochs": epochs,
        "batch_size": 128,
        "optimizer": {**pretrain["optimizer"], "warmup_epochs": min(5, epochs // 2)},
        "augmentation": pretrain["augmentation"],
        **SETTINGS[method],
        **changes,
    }
    content["finetune"]["keep_projection_layers"] = 0
    return content


def train(row: str, seed: int, work: Path, epochs: int) -> dict[str, Any]:
    """Pretrain, fine-tune and measure one row with one seed."""
    name = row.replace(" ", "-")
    path, folder = work / "recipes" / f"{name}-{seed}.yaml", work / f"{name}-{seed}"
    content = recipe_of(*ROWS[row], seed, epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    print(f"$ edgekit train {path} --run {folder} --until finetune", flush=True)
    command = [sys.executable, "-m", "edgekit", "train", str(path), "--run", str(folder), "--until", "finetune"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    run = Run(folder)
    pretrain, finetune = run.require("pretrain"), run.require("finetune")
    encoder = load_pretrained(run.stage_path("pretrain")).encoder
    return {
        "row": row,
        "seed": seed,
        "recipe": content["pretrain"],
        **scores(encoder, run.recipe, load_splits(run.recipe.data)),
        "teacher": finetune.metrics["test_top1"],
        "loss": pretrain.metrics["loss"],
        "collapse_std": pretrain.metrics["collapse_std"],
        "effective_rank": pretrain.metrics["effective_rank"],
        "pretrain_seconds": round(pretrain.seconds, 1),
    }


def untrained(seed: int, epochs: int) -> dict[str, Any]:
    """The same numbers for the encoder that the methods start from; its fine-tuning is the same, too."""
    recipe = recipes.parse(recipe_of("simclr", {}, seed, epochs))
    splits = load_splits(recipe.data)
    torch.manual_seed(seed_for(seed, "pretrain", "weights"))
    model = build_method(recipe.pretrain, recipe.data.image_size, len(splits.pool)).model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in ("pretrain", "finetune"):
            (folder / stage).mkdir()
        save_pretrained(folder / "pretrain", model)
        _, metrics = Stages(recipe, Run(folder), splits).finetune(folder / "finetune")
    return {"row": RANDOM, "seed": seed, **scores(model.encoder, recipe, splits), "teacher": metrics["test_top1"]}


def scores(encoder: torch.nn.Module, recipe: Recipe, splits: Splits) -> dict[str, float]:
    """kNN and linear probe of the frozen encoder."""
    return encoder_scores(encoder, splits, recipe, device_of(recipe), knn_too=True, linear_too=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", help=f"some of: {', '.join([RANDOM, *ROWS])}. Default all")
    parser.add_argument("--work", type=Path, default=Path("runs/methods_digits"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "methods_digits.json")
    told = parser.parse_args()
    rows = told.rows.split(",") if told.rows else [RANDOM, *ROWS]
    unknown = [row for row in rows if row not in {RANDOM, *ROWS}]
    if unknown:
        parser.error(f"unknown rows: {', '.join(unknown)}")
    cells: list[dict[str, Any]] = []
    tasks = [(row, seed) for seed in range(told.seeds) for row in rows]
    for row, seed in tasks:
        cell = untrained(seed, told.epochs) if row == RANDOM else train(row, seed, told.work, told.epochs)
        cells.append(cell)
        write(told, cells, complete=len(cells) == len(tasks))  # after every cell: what is measured is kept
    show(rows, cells)
    print(f"written to {told.output}")


def write(told: argparse.Namespace, cells: list[dict[str, Any]], complete: bool) -> None:
    splits = load_splits(recipes.parse(recipe_of("simclr", {}, 0, told.epochs)).data)
    content = {
        "what": "pretraining methods on the embedded digits, one encoder, optimizer, augmentation and number of steps",
        "created": now(),
        "complete": complete,
        "command": ["python", "benchmarks/methods_digits.py", *sys.argv[1:]],
        "machine": this_machine().model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        "protocol": {
            "encoder": f"frozen, weights of the last epoch; kNN and linear probe as `edgekit evaluate` measures them, "
            f"bank of {len(splits.probe)} images outside the pool, {len(splits.test)} test images",
            "teacher": f"fine-tuned on {len(splits.labeled)} labels from the encoder's features (no projection layer kept), top-1",
            "collapse": "collapse_std and effective_rank on the last batch of the last epoch",
        },
        "seeds": {"of weights, batches and label draw": list(range(told.seeds)), "of test and probe sets": 0},
        "cells": cells,
    }
    write_json(told.output, content)


def show(rows: list[str], cells: list[dict[str, Any]]) -> None:
    """Mean and, over several seeds, standard deviation of every number."""
    columns = {
        "kNN": ("knn", 100, ".1f"), "linear": ("linear", 100, ".1f"), "teacher": ("teacher", 100, ".1f"), "spread": ("collapse_std", 1, ".2f"),
        "rank": ("effective_rank", 1, ".1f"), "seconds": ("pretrain_seconds", 1, ".0f"),
    }  # fmt: skip
    print(f"\n{'':<40}" + "".join(f"{name:>14}" for name in columns))
    for row in rows:
        texts = []
        for key, scale, form in columns.values():
            values = [cell[key] * scale for cell in cells if cell["row"] == row and key in cell]
            spread = f" ±{statistics.stdev(values):{form}}" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):{form}}{spread}" if values else "")
        print(f"{row:<40}" + "".join(f"{text:>14}" for text in texts))


if __name__ == "__main__":
    main()
