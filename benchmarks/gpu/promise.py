"""The promise: what one GPU buys in five minutes.

CIFAR-10 without labels is pretrained on; with 1 % and with 10 % of the labels, a teacher is fine-tuned, its student distilled, and the
student's architecture trained from scratch beside it. recipe.yaml says how. The number of epochs follows from the time: each kind of step
is timed first, a stage gets its share of the seconds that are left when it begins, and its accuracy is written down when it ends.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from record import SEED, Options, Record, Unexecuted

from edgekit import recipe as recipes
from edgekit.data.splits import Splits, load_splits
from edgekit.recipe import Recipe
from edgekit.run import Run
from edgekit.train.loop.engine import fit
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.stages import pipeline as stages

BUDGETS = (0.01, 0.1)
# Of the seconds that are left when a stage begins; the last one leaves a fifth for loading, evaluation and the end.
SHARES = {
    ("pretrain", 0.01): 0.50, ("finetune", 0.01): 0.16, ("distill", 0.01): 0.28, ("supervised", 0.01): 0.18,
    ("finetune", 0.1): 0.26, ("distill", 0.1): 0.50, ("supervised", 0.1): 0.55,
}  # fmt: skip
MOST = {"pretrain": 200, "finetune": 60, "distill": 60, "supervised": 200}
WARMUP, TIMED = 8, 24  # steps


class Done(Exception):
    """Enough steps were timed."""


def run(record: Record) -> None:
    options = record.options
    record.about["what"] = __doc__
    with tempfile.TemporaryDirectory() as folder:
        work, state = Path(folder), {}

        def load() -> dict[str, Any]:
            state["settings"] = settings(options, work)
            state["splits"] = load_splits(recipe_for(state["settings"], 0.01, {}).data)
            return {
                "images": {name: len(getattr(state["splits"], name)) for name in ("pool", "labeled", "probe", "test")}
            }

        if record.check("images", load, needs=20)["outcome"] != "measured":
            return
        seconds: dict[str, float] = {}
        epochs: dict[str, int] = {}
        for budget in BUDGETS:
            for stage in ("pretrain", "finetune", "distill", "supervised"):
                if (stage, budget) in SHARES:
                    entry = record.check(
                        f"{stage}, {budget:.0%} of the labels" if stage != "pretrain" else "pretrain",
                        lambda s=stage, b=budget: train(s, b, state, seconds, epochs, work, options), needs=3,  # type: ignore[misc]
                    )  # fmt: skip
                    if entry["outcome"] not in {"measured", "passed"}:
                        return


def settings(options: Options, work: Path) -> dict[str, Any]:
    """The recipe as it is in its file, with the images that are here; small in a rehearsal."""
    content = yaml.safe_load(Path(__file__).with_name("recipe.yaml").read_text())
    images = options.carried / "cifar10"
    if options.rehearse and not images.is_dir():
        images = digits(work / "digits")
    if not images.is_dir():
        raise Unexecuted(f"{images} is not there: CIFAR-10 was not carried (see --prepare and --unpack)")
    content["data"] |= {"labeled": str(images / "train"), "test": str(images / "test")}
    if options.rehearse:
        small = {"batch_size": 64}
        content["data"] |= {"image_size": 16}
        content["pretrain"] |= small | {"encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"}}
        content["distill"] |= small | {"student": {"name": "resnet10", "width": 0.125, "stem": "strided"}}
        content["hardware"] |= {"accelerator": "cpu"}
    return content


def digits(folder: Path) -> Path:
    """scikit-learn's digits as two folders of PNG files, for a rehearsal where CIFAR-10 is not at hand."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / ("test" if i % 5 == 0 else "train") / f"digit {label}" / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.reshape(8, 8) * 15.9).astype(np.uint8)).resize((16, 16)).convert("RGB").save(path)
    return folder


def recipe_for(content: dict[str, Any], labels: float, epochs: dict[str, int]) -> Recipe:
    """The recipe with a label budget and the epochs that fit."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    made["data"]["labels"] = labels
    for stage, count in epochs.items():
        made[stage]["epochs"] = count
        optimizer = dict(made[stage].get("optimizer", {}))
        optimizer["warmup_epochs"] = min(optimizer.get("warmup_epochs", 0), count / 4)
        made[stage]["optimizer"] = optimizer
    return recipes.parse(made)


def train(
    stage: str,
    budget: float,
    state: dict[str, Any],
    seconds: dict[str, float],
    epochs: dict[str, int],
    work: Path,
    options: Options,
) -> dict[str, Any]:
    """Time a step of the stage, choose the epochs, train it, and say what came out."""
    if budget not in state:  # the label budget decides the splits
        state[budget] = (
            state["splits"] if budget == BUDGETS[0] else load_splits(recipe_for(state["settings"], budget, {}).data)
        )
    splits: Splits = state[budget]
    run = Run(work / f"{budget:g}")
    if stage not in seconds:
        seconds[stage] = step_seconds(stage, recipe_for(state["settings"], budget, epochs), run, splits)
    recipe = recipe_for(state["settings"], budget, epochs)
    pool = splits.pool if stage in {"pretrain", "distill"} else splits.labeled
    steps = max(1, len(pool) // min(getattr(recipe, stage).batch_size, len(pool)))
    limit = min(options.left, 60.0) if options.rehearse else options.left
    share = SHARES[stage, budget] * (limit - 3)
    epochs[stage] = max(
        1, min(MOST[stage], 3 if options.rehearse else MOST[stage], int(share / (seconds[stage] * steps)))
    )
    recipe = recipe_for(state["settings"], budget, epochs)
    reuse = [Run.open(work / f"{BUDGETS[0]:g}")] if budget != BUDGETS[0] else []
    began = time.time()
    reports: list[stages.Report] = []
    stages.train(recipe, run, reuse=reuse, splits=splits, until=stage, on_stage=reports.append)
    metrics = {k: v for k, v in reports[-1].record.metrics.items() if isinstance(v, (int, float))}
    return {
        "epochs": epochs[stage], "steps_an_epoch": steps, "step_ms_timed_before": seconds[stage] * 1e3, "training_and_evaluation_seconds":
        round(time.time() - began, 2), "labels": len(splits.labeled), "metrics": metrics, "recipe": recipes.dump(recipe),
    }  # fmt: skip


def step_seconds(stage: str, recipe: Recipe, run: Run, splits: Splits) -> float:
    """Seconds of a step of a stage, through the engine, after a warm-up; the network that is timed is thrown away."""
    made, times = stages.Stages(recipe, run, splits), []

    def timed_fit(
        task: torch.nn.Module, name: str, images: Any, folder: Path, observe: Any = None, config: Any = None
    ) -> dict[str, float]:
        class Timed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.task = task

            def forward(self, *arguments: Any, **named: Any) -> Any:
                if len(times) in {WARMUP, WARMUP + TIMED} and torch.cuda.is_available():
                    torch.cuda.synchronize()
                times.append(time.perf_counter())
                if len(times) > WARMUP + TIMED:
                    raise Done
                return self.task(*arguments, **named)

        config = config or getattr(recipe, stage)
        batches = ShuffledImages(images, min(config.batch_size, len(images)), SEED)
        return fit(
            Timed(), batches, folder, stage=stage, epochs=10_000, optimizer=config.optimizer, seed=SEED, hardware=recipe.hardware
        )  # fmt: skip

    made._fit = timed_fit  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Done):
        getattr(made, stage)(Path(folder))
    return (times[-1] - times[WARMUP]) / TIMED
