"""A training that is killed and goes on, beside two that are not.

On a GPU two uninterrupted trainings differ in their last bits (atomic sums, and cuDNN chooses its kernels by trial). The one that was
killed may differ from the first as much as the second does, times four, or by a thousandth of how far the training moved the
weights; a lost momentum (planted once: 200 times that), a step done twice or another order of the images changes more.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import ERROR, SEED, Options

EPOCHS, STEPS, BATCH, KILL_AFTER = 4, 8, 32, 13  # the kill is in the middle of the second epoch


def compare(folder: Path, options: Options) -> dict[str, Any]:
    """Three trainings at a time, the fourth goes on from where the third was killed."""
    logs = {name: (folder / f"{name}.log").open("wb") for name in ("first", "second", "killed", "resumed")}

    def start(name: str, run: str, kill_after: int = 0) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
        command = [
            sys.executable,
            str(Path(__file__)),
            str(folder / run),
            str(kill_after),
            str(int(options.rehearse)),
            str(options.carried),
        ]
        return subprocess.Popen(command, stderr=logs[name], stdout=logs[name], env=environment)

    running = {name: start(name, name, KILL_AFTER if name == "killed" else 0) for name in ("first", "second", "killed")}
    killed = running["killed"].wait()
    running["resumed"] = start("resumed", "killed")
    codes = {name: process.wait() for name, process in running.items()}
    said = {name: (folder / f"{name}.log").read_text(errors="replace") for name in logs}
    if killed != -signal.SIGKILL or any(codes[name] for name in ("first", "second", "resumed")):
        tails = {name: text.splitlines()[-4:] for name, text in said.items()}
        return {"passed": False, "why": ERROR, "exit_codes": codes, "logs": tails}
    weights = {name: _weights(folder / name / "pretrain") for name in ("first", "second", "killed")}
    size = np.linalg.norm(weights["first"] - _weights(folder / "first" / "initial"))
    twice, resumed = (float(np.linalg.norm(weights[name] - weights["first"]) / size) for name in ("second", "killed"))
    rows = list(csv.DictReader((folder / "killed" / "pretrain" / "history.csv").open()))
    whole = [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    went_on = f"goes on from step {KILL_AFTER} of {EPOCHS * STEPS}" in said["resumed"]
    return {
        "passed": whole and went_on and resumed <= max(4 * twice, 1e-3), "goes_on_where_it_was": went_on, "history_is_whole": whole,
        "two_uninterrupted_differ_by": twice, "resumed_differs_by": resumed, "same_bits": resumed == 0.0,
    }  # fmt: skip


def _weights(stage: Path) -> np.ndarray:
    """Of convolutions and linear layers; BatchNorm's running statistics move further than they and would hide them."""
    from safetensors.numpy import load_file

    stored = sorted(load_file(stage / "model.safetensors").items())
    return np.concatenate([values.astype(np.float64).ravel() for _, values in stored if values.ndim > 1])


def _train(folder: Path, kill_after: int, rehearse: bool) -> None:
    """One training in this process; with `kill_after`, it ends as by `kill -9` right after that step's checkpoint."""
    import torch

    from edgekit import recipe as recipes
    from edgekit.data.augment import Augment
    from edgekit.data.images import ImageSet
    from edgekit.models.store import save_pretrained
    from edgekit.train.loop import engine, history
    from edgekit.train.loop.loader import ShuffledImages
    from edgekit.train.pretrain import build_method
    from edgekit.train.stages.training_tasks import PretrainTask

    recipe = recipes.parse(
        {
            "pretrain": {
                "method": "byol", "encoder": {"name": "resnet10", "width": 0.25, "stem": "cifar"}, "batch_size": BATCH,
                "projection": {"layers": 2, "hidden": 128, "output": 64}, "predictor": {"hidden": 128}, "momentum": 0.9,
                "optimizer": {"name": "sgd", "lr": 0.05, "warmup_epochs": 0},
            },
            "hardware": {"accelerator": "cpu" if rehearse else "gpu", "precision": "fp32", "checkpoint_seconds": 0},
        }
    )  # fmt: skip
    save, saved = history.History._save, 0

    def save_and_die(self: Any, *arguments: Any) -> None:
        nonlocal saved
        save(self, *arguments)
        saved += 1
        if saved == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    history.History._save = save_and_die  # type: ignore[method-assign]
    count = BATCH * STEPS
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    pool = ImageSet(pixels, [f"{i}.png" for i in range(count)], [f"{i:032x}" for i in range(count)], None)
    torch.manual_seed(SEED)
    method = build_method(recipe.pretrain, 32, count)
    stage = folder / "pretrain"
    for made in (stage, folder / "initial"):
        made.mkdir(parents=True, exist_ok=True)
    save_pretrained(folder / "initial", method.model)
    engine.fit(
        PretrainTask(method, Augment(recipe.pretrain.augmentation, 32, 0.5, 0.25)), ShuffledImages(pool, BATCH, SEED), stage,
        stage="pretrain", epochs=EPOCHS, optimizer=recipe.pretrain.optimizer, seed=SEED, hardware=recipe.hardware,
    )  # fmt: skip
    save_pretrained(stage, method.model)


if __name__ == "__main__":
    from kit import paths

    paths(Path(sys.argv[4]))
    _train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
