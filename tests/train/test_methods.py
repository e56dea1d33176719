"""What every pretraining method must do: learn, keep its whole state in the checkpoint, and leave a model that fine-tunes."""

from __future__ import annotations

import copy
import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from edgekit import recipe as recipes
from edgekit.data.augment import Augment
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.recipe import METHODS as CONFIGS
from edgekit.recipe import Augmentation
from edgekit.run import Run
from edgekit.train.loop.collapse import verdict
from edgekit.train.loop.step import Batch, StepDraws
from edgekit.train.pretrain import METHODS, build_method
from edgekit.train.pretrain.method import Method, Views
from edgekit.train.stages.pipeline import train
from edgekit.train.stages.training_tasks import ClassifyTask

POOL, BATCH = 64, 32
ADAMW = {"name": "adamw", "lr": 2e-3, "scale_lr": False, "weight_decay": 1e-4, "warmup_epochs": 0}
SGD = {"name": "sgd", "lr": 0.5, "scale_lr": False, "weight_decay": 1e-4, "warmup_epochs": 0}
ENCODER = {"name": "resnet10", "width": 0.125, "stem": "strided"}
# What the methods need beside their defaults to train small heads on small batches.
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.2},
    "moco": {"queue": 512},
    "instdisc": {"negatives": 512},
    "byol": {"predictor": {"hidden": 128}, "momentum": 0.9},
    "byol+gsg": {"predictor": {"hidden": 128}, "momentum": 0.9},
    "simsiam": {"predictor": {"hidden": 32, "constant_lr": True}},
    "simsiam+gsg": {"predictor": {"hidden": 32, "constant_lr": True}},
}


def settings(method: str) -> dict[str, Any]:
    """A method's part of the recipe for the tests, with the depth of its default head."""
    layers = CONFIGS[method]().projection.layers
    return {
        "method": method,
        "encoder": ENCODER,
        "projection": {"layers": layers, "hidden": 128, "output": 128},
        "batch_size": BATCH,
        "optimizer": ADAMW,
        **SMALL.get(method, {}),
    }


def build(method: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return build_method(recipes.parse({"pretrain": settings(method)}).pretrain, 16, POOL).train()


def views(method: Method, seed: int) -> Views:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(BATCH, 3, 16, 16, generator=generator) for _ in range(method.views)]
    return Views(images, torch.randperm(POOL, generator=generator)[:BATCH], generator)


def step(method: Method, seed: int) -> float:
    """One step of plain gradient descent; the loss before it."""
    loss = method(views(method, seed)).value
    method.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p.add_(p.grad, alpha=-0.1)
    method.after_step((seed + 1) / 10)
    return loss.item()


@pytest.mark.parametrize("name", METHODS)
def test_a_step_gives_a_loss_and_what_the_monitor_looks_at(name: str) -> None:
    method = build(name)
    loss = method(views(method, 0))
    assert loss.value.shape == ()
    assert loss.value.dtype == torch.float32
    assert math.isfinite(loss.value.item())
    count = len(loss.features)
    assert count % BATCH == 0
    assert loss.features.shape == (count, method.model.encoder.feature_dim)
    assert loss.projections.shape == (count, 128)


@pytest.mark.parametrize("name", METHODS)
def test_steps_change_every_parameter_of_encoder_and_head(name: str) -> None:
    method = build(name)
    before = copy.deepcopy(method.model)
    for seed in range(
        2
    ):  # in the first step, blocks are the identity: only the normalization that makes them so learns
        step(method, seed)
    after = dict(method.model.named_parameters())
    for parameter, value in before.named_parameters():
        assert not torch.equal(value, after[parameter]), parameter


@pytest.mark.parametrize("name", METHODS)
def test_the_checkpoint_holds_the_whole_state(name: str) -> None:
    """A fresh method with the state of a trained one goes on as the trained one does, bit for bit."""
    method, fresh = build(name), build(name, seed=1)
    for seed in range(3):
        step(method, seed)
    fresh.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    for seed in range(3, 5):
        assert step(fresh, seed) == step(method, seed)
    mine, its = fresh.state_dict(), method.state_dict()
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        torch.testing.assert_close(
            value, its[key], rtol=0, atol=0, equal_nan=True, msg=key
        )  # InstDisc has one that is not set yet


@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_loads_and_fine_tunes_from_every_layer(name: str, tmp_path: Path) -> None:
    method = build(name)
    step(method, 0)
    save_pretrained(tmp_path, method.model)
    images = torch.randn(8, 3, 16, 16)
    loaded = load_pretrained(tmp_path)
    assert torch.equal(loaded(images), method.model.eval()(images))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 16, 16, 3), dtype=torch.uint8)
    batch = Batch(images=pixels, index=torch.arange(16), labels=torch.arange(16) % 2)
    for keep in range(len(method.model.head.layers)):
        pretrained = load_pretrained(tmp_path)
        kept = pretrained.head.keep(keep)
        classifier = Classifier(pretrained.architecture, 16, ["a", "b"], pretrained.encoder, kept)
        nn.init.normal_(classifier.head.weight)
        expected = pretrained.encoder(images)
        for layer in pretrained.head.layers[:keep]:
            expected = layer(expected)
        torch.testing.assert_close(classifier.embed(images), expected)
        task = ClassifyTask(classifier, Augment(Augmentation(), 16, 0.5, 0.25), 0.0).train()
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        task(batch, StepDraws(generator, generator), False)["loss"].backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())
        classifier.eval()
        save_classifier(tmp_path / str(keep), classifier)
        assert torch.equal(load_classifier(tmp_path / str(keep))(images), classifier(images))


def digits(method: str, **changes: Any) -> dict[str, Any]:
    """A recipe that trains a method on digits within seconds."""
    plain = {"flip": 0.0, "jitter": 0.0, "gray": 0.0}  # a mirrored digit is another sign; there is no color
    return {
        "data": {"labeled": "digits", "image_size": 16, "labels": 10},
        "pretrain": {
            **settings(method), "epochs": 12, "batch_size": 128, "augmentation": {"crop_scale": [0.4, 1.0], **plain}, **changes,
        },
        "finetune": {"keep_projection_layers": 0, "epochs": 2, "batch_size": 50},
        "distill": {"student": ENCODER, "epochs": 2, "batch_size": 256, "optimizer": ADAMW},
        "supervised": {"enabled": False},
        "hardware": {"accelerator": "cpu", "threads": 1},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in {"simclr", "moco", "byol+gsg"} else pytest.param(name, marks=pytest.mark.extra)
        for name in METHODS
    ],
)
def test_every_method_learns_digits_and_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(recipes.parse(digits(name)), run)
    metrics = run.require("pretrain").metrics
    assert metrics["knn"] > 2 * metrics["knn_random_weights"], metrics
    assert verdict(metrics["collapse_std"], metrics["effective_rank"]) is None, metrics
    run.require("distill")


@pytest.mark.extra
def test_simsiam_collapses_without_stop_gradient_and_is_warned_of(tmp_path: Path) -> None:
    """The same training with and without it: the loss falls further, the projections lose their spread, and the user is told."""
    spreads, losses, warnings = [], [], []
    for stop_gradient in (True, False):
        recipe, run = tmp_path / f"{stop_gradient}.yaml", tmp_path / str(stop_gradient)
        changes = {"stop_gradient": stop_gradient, "optimizer": SGD, "epochs": 20}
        recipe.write_text(yaml.safe_dump(digits("simsiam", **changes)))
        command = [sys.executable, "-m", "edgekit", "train", str(recipe), "--run", str(run), "--until", "pretrain"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        with open(run / "pretrain" / "history.csv") as file:
            last = list(csv.DictReader(file))[-1]
        spreads.append(float(last["collapse_std"]))
        losses.append(float(last["loss"]))
        warnings.append("pretrain: warning: the projections are collapsing to a point" in done.stderr)
    assert warnings == [False, True], (spreads, losses)
    assert spreads[1] < 0.5 * spreads[0]
    assert losses[1] < losses[0]
