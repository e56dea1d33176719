"""`last.ckpt` of somebody else, or half understood: refused before the training goes on, in one line that names what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.data.images import ImageSet
from edgekit.errors import RunError
from edgekit.recipe import Hardware, Optimizer
from edgekit.train.loop.engine import fit
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from tests.helpers.tiny_bundle import some_images

Change = Callable[[dict[str, Any]], object]


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        return {"loss": self.linear(self.norm(batch["images"].float().mean((1, 2)) / 255)).square().mean(), "logs": {}}


class Killed(BaseException):
    """Ends a training where SIGKILL could."""


def train(folder: Path, optimizer: str = "sgd", kill: bool = False) -> dict[str, float]:
    def die() -> dict[str, float]:
        raise Killed

    images = ImageSet(some_images(32), [str(i) for i in range(32)], [f"{i:032}" for i in range(32)])
    return fit(
        Task(), ShuffledImages(images, 16, 0), folder, stage="pretrain", epochs=2, seed=0,
        optimizer=Optimizer(name=optimizer, lr=0.01, warmup_epochs=0),
        hardware=Hardware(accelerator="cpu", checkpoint_seconds=0), observe=die if kill else None, observe_every=2 if kill else 0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The checkpoints that killed trainings left, by optimizer."""
    found = {}
    for name in ("sgd", "adamw", "lars"):
        folder = tmp_path_factory.mktemp(name)
        with pytest.raises(Killed):
            train(folder, name, kill=True)
        found[name] = torch.load(folder / CHECKPOINT, weights_only=True)
    return found


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_an_unchanged_one_is_gone_on_from(name: str, killed: dict[str, Any], tmp_path: Path) -> None:
    torch.save(killed[name], tmp_path / CHECKPOINT)
    went_on, whole = train(tmp_path, name), train(tmp_path / "whole", name)
    assert went_on["loss"] == whole["loss"]


def group(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["param_groups"][0]


def state(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"]


def loop(content: dict[str, Any]) -> dict[str, Any]:
    return content["loops"]["fit_loop"]


def history(content: dict[str, Any]) -> dict[str, Any]:
    return content["callbacks"]["_History"]


CHANGES: dict[str, tuple[Change, str]] = {
    "step": (lambda c: c.update(global_step=-5), "its global_step is -5"),
    "far": (lambda c: c.update(global_step=10**9), "its global_step is 1000000000 of"),
    "other step": (lambda c: c.update(global_step=1), "are at different steps"),
    "weights of text": (lambda c: c["state_dict"].update({"task.linear.bias": "x"}), "other weights than this training has: task.linear.bias"),
    "complex": (lambda c: c["state_dict"].update({"task.linear.bias": torch.zeros(2, dtype=torch.complex64)}), "other weights"),
    "sparse": (lambda c: c["state_dict"].update({"task.linear.bias": torch.zeros(2).to_sparse()}), "other weights"),
    "meta": (lambda c: c["state_dict"].update({"task.linear.bias": torch.zeros(2, device="meta")}), "other weights"),
    "name of escapes": (lambda c: c["state_dict"].update({"\x1b[2J": torch.zeros(2)}), r"other weights than this training has: \x1b[2J"),
    "two optimizers": (lambda c: c["optimizer_states"].append({}), "another number of optimizers"),
    "optimizer of text": (lambda c: c.update(optimizer_states=["x"]), "its optimizer is 'x'"),
    "rate of text": (lambda c: group(c).update(lr="x"), "its optimizer's param_groups is 'x'"),
    "rate of nan": (lambda c: group(c).update(lr=float("nan")), "its optimizer's param_groups is nan"),
    "no rate": (lambda c: group(c).pop("lr"), "lacks lr"),
    "other parameters": (lambda c: group(c).update(params=[3]), "other groups of parameters"),
    "momentum of another shape": (
        lambda c: state(c)[0].update(momentum_buffer=torch.zeros(7)),
        "momentum_buffer of the parameter 0 is a tensor (7,)",
    ),
    "momentum of nobody": (lambda c: state(c).update({99: {}}), "no parameter 99"),
    "something else kept": (lambda c: state(c)[0].update(x=1), "keeps ['momentum_buffer', 'x'] of the parameter 0"),
    "schedule": (lambda c: c["lr_schedulers"][0].update(base_lrs="x"), "its schedule's base_lrs is 'x'"),
    "schedule elsewhere": (lambda c: c["lr_schedulers"][0].update(last_epoch=99), "its schedule and its weights are at different steps"),
    "no loop": (lambda c: c["loops"].clear(), "its progress is None"),
    "counter": (lambda c: loop(c)["epoch_loop.batch_progress"]["current"].update(ready=-1), "its progress counts -1"),
    "half a counter": (lambda c: loop(c)["epoch_loop.batch_progress"]["current"].update(ready=1.5), "its progress counts"),
    "no history": (lambda c: c.update(callbacks={}), "it holds no history"),
    "rows": (lambda c: history(c).update(rows=[]), "another number of steps"),
    "row": (lambda c: history(c).update(rows=[{"epoch": 1, "loss": "x"}]), "values that are not numbers"),
    "time": (lambda c: history(c).update(seconds=float("inf")), "its time is inf"),
    "sums": (lambda c: history(c).update(sums={"loss": torch.zeros(5)}), "running sum of 'loss' is a tensor (5,)"),
    "counts": (lambda c: history(c).update(counts={"loss": 0}), "running sum of 'loss'"),
    "version": (lambda c: c.update({"pytorch-lightning_version": "x"}), "Invalid version"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_one_that_cannot_be_gone_on_from(name: str, killed: dict[str, Any], tmp_path: Path) -> None:
    change, reason = CHANGES[name]
    content = copy.deepcopy(killed["sgd"])
    change(content)
    torch.save(content, tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(RunError) as refused:
        train(tmp_path)
    message = str(refused.value)
    assert f"{tmp_path / CHECKPOINT}: damaged checkpoint: " in message
    assert reason in message
    assert message.isprintable()
    assert f"delete it to train the stage {tmp_path.name} again" in message
    assert (tmp_path / CHECKPOINT).read_bytes() == before
