"""Teachers of the user's own: found, checked against the recipe, and refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe import DataConfig, TeacherSource
from edgekit.run import Run
from edgekit.train.distill.teachers import Teacher, load_teachers
from tests.helpers.distilled import CLASSES, SIZE

FACTORY = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Linear(3 * 16 * 16, 7)
        self.last = nn.Linear(7, classes)
    def forward(self, images):
        return self.last(self.body(images.flatten(1)).relu())

class Bare(Own):
    def forward(self, images):
        return super().forward(images) * 2

def make():
    return Own()

def four():
    return Own(4)

def bare():
    return Bare()

def picky():
    raise KeyError("no such thing")

def number():
    return 3

def tokens():
    return nn.Sequential(Own(), nn.Unflatten(1, (3, 1)))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's in the current folder, and a file of weights for it."""
    (tmp_path / "teachers_of_mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in {"", str(tmp_path)}])
    monkeypatch.delitem(sys.modules, "teachers_of_mine", raising=False)
    torch.manual_seed(5)
    for classes in (3, 4):
        torch.save(
            {"model": {"body.weight": torch.randn(7, 768), "body.bias": torch.randn(7), "last.weight": torch.randn(classes, 7),
                       "last.bias": torch.randn(classes)}}, tmp_path / f"{classes}.pth",
        )  # fmt: skip
    return tmp_path


def teachers(own: Path, name: str, **keys: object) -> list[Teacher]:
    source = TeacherSource(model=f"teachers_of_mine:{name}", **{"weights": "3.pth", **keys})
    return load_teachers([source], Run(own / "run"), DataConfig(image_size=SIZE), CLASSES)


def test_a_teacher_of_the_user_s_own_comes_from_the_current_folder_with_its_weights(own: Path) -> None:
    path = list(sys.path)
    (teacher,) = teachers(own, "make")
    assert sys.path == path
    weights = torch.load(own / "3.pth")["model"]
    pixels = torch.rand(2, 3, SIZE, SIZE)
    hidden = (pixels.flatten(1) @ weights["body.weight"].T + weights["body.bias"]).relu()
    logits, embedding = teacher(pixels)
    torch.testing.assert_close(embedding, hidden)
    torch.testing.assert_close(logits, hidden @ weights["last.weight"].T + weights["last.bias"])
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_a_teacher_gets_its_own_normalization(own: Path) -> None:
    (plain,), mean, std = teachers(own, "make"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (teacher,) = teachers(own, "make", mean=mean, std=std)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    wanted = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = plain.model(wanted)
    torch.testing.assert_close(teacher((pixels - 0.5) / 0.25)[0], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("four", {"weights": "4.pth"}, r"teachers_of_mine:four: returned 4 logits, but data\.labeled has 3 classes"),
        ("make", {"weights": "4.pth"}, r"distill\.teachers\.weights: 4\.pth: 2 of its tensors have another shape: last\.weight \(4, 7\)"),
        ("make", {"weights": "5.pth"}, r"distill\.teachers\.weights: 5\.pth: no such file"),
        ("mak", {}, r"teachers_of_mine has no mak \(did you mean make\?\)"),
        ("picky", {}, r"picky: fails: KeyError: 'no such thing' \(the function must take no arguments"),
        ("number", {}, r"number: returned a int, not an nn\.Module"),
        ("tokens", {"weights": "tokens.pth"}, r"tokens: returned \(2, 3, 1\) for two images, not logits \(2, 3\)"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_one_line(own: Path, name: str, keys: dict[str, object], message: str) -> None:
    inside = {"0." + n: t for n, t in torch.load(own / "3.pth")["model"].items()}
    torch.save(inside, own / "tokens.pth")
    with pytest.raises(RecipeError, match=message) as caught:
        teachers(own, name, **keys)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_or_broken_is_one_line(own: Path) -> None:
    (own / "broken_of_mine.py").write_text("def (")
    for module, message in (("nothing_of_mine", "No module named"), ("broken_of_mine", "SyntaxError")):
        source = TeacherSource(model=f"{module}:make", weights="3.pth")
        with pytest.raises(RecipeError, match=rf"the module {module} cannot be imported: .*{message}"):
            load_teachers([source], Run(own / "run"), DataConfig(image_size=SIZE), CLASSES)


def test_feature_distillation_wants_a_last_linear_layer(own: Path) -> None:
    (teacher,) = teachers(own, "bare")
    assert teacher(torch.rand(2, 3, SIZE, SIZE))[0].shape == (2, 3)
    with pytest.raises(RecipeError, match=r"distill\.loss is feature, but the last layer of the teacher \(Bare\)"):
        _ = teacher.embedding_dim


def test_a_folder_that_is_no_run_is_no_teacher(tmp_path: Path) -> None:
    for name, message in (("none", "no such run"), ("", "holds no recipe.yaml")):
        source = TeacherSource(model=str(tmp_path / name))
        with pytest.raises(EdgekitError, match=message):
            load_teachers([source], Run(tmp_path / "run"), DataConfig(image_size=SIZE), CLASSES)
