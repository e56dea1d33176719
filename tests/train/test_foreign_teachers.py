"""Teachers of the user's own: which weights of their file are taken, and in which order their logits are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.data.images import ImageSet
from edgekit.errors import RecipeError
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier, save_classifier
from edgekit.recipe import Architecture, DataConfig, Recipe, TeacherSource
from edgekit.run import Run
from edgekit.train.distill.teachers import check_order, identity, load_teachers
from edgekit.train.records.inputs import _config

SIZE, LEVELS = 16, 12
NUMBERS = [str(i) for i in range(LEVELS)]
FACTORY = """
import torch
from torch import nn

class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(12)), nn.Parameter(torch.zeros(12))
    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * self.weight + self.bias

def levels():
    return Levels()
"""


def in_order(classes: list[str]) -> dict[str, torch.Tensor]:
    """Weights with which the i-th logit is the largest where the image's gray is that of `classes[i]`."""
    gray = (torch.tensor([float(name) for name in classes]) + 0.5) / LEVELS
    return {"weight": 2 * gray * 50, "bias": -(gray**2) * 50}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "teachers_in_order.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "teachers_in_order", raising=False)
    torch.save({"model": in_order(NUMBERS), "model_ema": in_order(sorted(NUMBERS))}, "w.pth")
    return tmp_path


def labeled(classes: list[str]) -> ImageSet:
    gray = [round(255 * (int(name) + 0.5) / LEVELS) for name in classes for _ in range(3)]
    images = np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in gray])
    names = [str(i) for i in range(len(gray))]
    return ImageSet(images=images, names=names, digests=names, labels=np.repeat(np.arange(len(classes)), 3))


def test_a_teacher_in_the_order_of_the_numbers_is_refused_where_ours_is_sorted(here: Path) -> None:
    classes, data = sorted(NUMBERS), DataConfig(image_size=SIZE, mean=0.0, std=1.0)
    images = labeled(classes)
    for key, right in (("model", False), ("model_ema", True), (None, True)):
        source = TeacherSource(model="teachers_in_order:levels", weights="w.pth", weights_key=key)
        teachers = load_teachers([source], Run(here / "run"), data, classes)
        assert teachers[0].loaded is not None
        assert teachers[0].loaded.averaged == (key != "model")
        if right:
            check_order([TeacherSource(), source], teachers, data, images, classes)
            continue
        with pytest.raises(
            RecipeError, match=r"order 0, 1, 2, 3, … \(36 of 36 .*order 0, 1, 10, 11, … \(6 correct\)"
        ) as caught:
            check_order([TeacherSource(), source], teachers, data, images, classes)
        assert "\n" not in str(caught.value)


def test_a_key_that_nobody_gave_leaves_older_records_as_they_are(here: Path) -> None:
    """Stages count by what they were made from; a field that is new must not make old ones stale."""
    recipe = Recipe.model_validate({"distill": {"student": {"name": "resnet10", "weights": str(here / "w.pth")}}})
    for stage, part in (("pretrain", "encoder"), ("distill", "student")):
        assert "weights_key" not in _config(stage, recipe)[part]
    chosen = recipe.model_copy(
        update={"distill": recipe.distill.model_copy(
            update={"student": recipe.distill.student.model_copy(update={"weights_key": "model"})}
        )}
    )  # fmt: skip
    assert _config("distill", chosen)["student"]["weights_key"] == "model"
    source = TeacherSource(model="teachers_in_order:levels", weights="w.pth")
    assert "weights_key" not in identity(source, Run(here / "run"))
    assert identity(source.model_copy(update={"weights_key": "model"}), Run(here / "run"))["weights_key"] == "model"
    save_classifier(here, Classifier.build(Architecture(name="resnet10", width=0.125), SIZE, ["a", "b"], []))
    assert "weights_key" not in (here / "model.json").read_text()
    assert load_classifier(here).architecture.weights_key is None


@pytest.mark.parametrize("part", ["pretrain.encoder", "distill.student"])
def test_a_key_needs_a_file(part: str) -> None:
    stage, name = part.split(".")
    method = {"method": "simclr"} if stage == "pretrain" else {}
    with pytest.raises(ValueError, match="weights_key is teacher, but weights names no file"):
        Recipe.model_validate({stage: {**method, name: {"name": "resnet10", "weights_key": "teacher"}}})
    with pytest.raises(ValueError, match="weights_key is only for a network of your own"):
        TeacherSource(model="own", weights_key="teacher")
