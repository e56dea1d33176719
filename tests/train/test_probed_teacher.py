"""Distillation from the teacher of the pretraining (`distill.teachers: [{model: pretrain.teacher}]`): its answers, its run, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.errors import RecipeError
from edgekit.files import write_json
from edgekit.models.pixels import normalize
from edgekit.recipe import Distill
from edgekit.run import Run
from edgekit.search.candidates import chosen_candidates
from edgekit.search.rounds import Training
from edgekit.train.distill.distillation import DistillTask
from edgekit.train.distill.mixing import mix
from edgekit.train.estimate import expected, measure
from edgekit.train.evaluate import labels_of, linear_probe
from edgekit.train.loop.step import Batch, StepDraws
from edgekit.train.pretrain.teacher import load_encoder_teacher
from edgekit.train.pretrain.teacher_features import TeacherFeatures
from edgekit.train.stages import probed_teacher
from edgekit.train.stages.pipeline import Report, train
from edgekit.train.stages.probed_teacher import ProbedTeacher
from tests.helpers.distilled import NO_AUGMENTATION, classifier, images
from tests.helpers.recipe_changes import changed

TINY = {"name": "resnet10", "width": 0.125, "stem": "strided"}
PLAIN = {"name": "sgd", "lr": 0.01, "warmup_epochs": 0}
MODULE = """
import torch
from torch import nn

def encoder():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 12, 5, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
"""
RECIPE = {
    "name": "probed",
    "data": {"labeled": "digits", "image_size": 16, "labels": 10},
    "pretrain": {
        "method": "distill", "teacher": {"model": "probed_module:encoder", "image_size": 24}, "encoder": TINY, "epochs": 1, "batch_size": 600,
        "optimizer": PLAIN, "target": "image",
    },
    "finetune": {"epochs": 1, "batch_size": 50, "optimizer": PLAIN, "train": "head"},
    "distill": {"student": TINY, "epochs": 1, "batch_size": 600, "optimizer": PLAIN, "teachers": [{"model": "pretrain.teacher"}]},
    "supervised": {"enabled": False},
    "hardware": {"accelerator": "cpu", "precision": "fp32"},
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probed_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "probed_module", raising=False)


def test_its_answers_are_those_of_a_linear_probe_on_the_features_of_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.parse(RECIPE)
    splits, data = load_splits(recipe.data), recipe.data
    teacher = load_encoder_teacher(recipe.pretrain.teacher, data, Run(tmp_path / "run"))  # type: ignore[union-attr]

    def seen(pixels: np.ndarray) -> Tensor:
        normalized = normalize(torch.tensor(np.array(pixels)), data.mean, data.std)
        return (teacher(normalized) + teacher(normalized.flip(3))) / 2

    rows = torch.arange(0, len(splits.pool), 7)
    pixels = torch.from_numpy(np.array(splits.pool.images)[rows])
    expected = linear_probe(seen(splits.labeled.images), labels_of(splits.labeled), seen(pixels.numpy()))
    kept = ProbedTeacher(recipe, splits, splits.pool, Run(tmp_path / "run"), CPU)
    answers = kept(pixels, rows)
    assert (answers.argmax(1) == expected).float().mean() > 0.97, "float16 on the disk may turn a tie"
    assert len(expected.unique()) == 10
    monkeypatch.setattr(probed_teacher, "world_size", lambda: 2)  # where nothing can be kept
    computed = ProbedTeacher(recipe, splits, splits.pool, Run(tmp_path / "other"), CPU)
    assert computed.logits is None
    assert not (tmp_path / "other").exists()
    torch.testing.assert_close(computed(pixels, rows), answers, rtol=0.02, atol=0.05)
    assert (computed(pixels, rows).argmax(1) == expected).float().mean() > 0.99


def test_a_student_learns_the_mixture_of_the_answers_for_mixed_images() -> None:
    pool, answers = images(40), torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    given: list[Tensor] = []

    def of_images(pixels: Tensor, rows: Tensor) -> Tensor:
        given.append(pixels)
        return answers[rows]

    config = Distill(mixup=0.5, temperature=2.0)
    task = DistillTask(classifier(0), [], NO_AUGMENTATION, config, images(9, 500, labeled=True), of_images=of_images)
    rows = torch.tensor([5, 1, 30, 7])
    batch = Batch(images=torch.from_numpy(pool.images[rows]), index=rows)
    loss = task(batch, StepDraws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)), monitor=False)
    assert torch.equal(given[0], batch["images"]), "it sees the whole images, not the mixed views"
    draws = torch.Generator().manual_seed(0)
    mixed = mix(NO_AUGMENTATION(batch["images"], draws), 0.5, draws)
    probabilities = (answers[rows] / 2).softmax(1)
    share = mixed.share[:, None]
    targets = (1 - share) * probabilities + share * probabilities[mixed.other]
    student = (task.student(mixed.images) / 2).log_softmax(1)
    assert loss["loss"].item() == pytest.approx(-(targets * student).sum(1).mean().item() * 4, rel=1e-4)


def test_a_run_distills_the_teacher_of_its_pretraining_and_its_features_are_computed_once(tmp_path: Path) -> None:
    def outcomes(content: dict[str, object]) -> dict[str, str]:
        reports: list[Report] = []
        train(recipes.parse(content), Run(tmp_path / "run"), on_stage=reports.append)
        return {report.stage: report.outcome for report in reports}

    stages = ("data", "pretrain", "finetune", "distill")
    assert outcomes(RECIPE) == dict.fromkeys(stages, "done")
    kept = list((tmp_path / "run" / "teacher").glob("*.npy"))
    assert len(kept) == 1
    assert outcomes(RECIPE) == dict.fromkeys(stages, "skipped")
    weights = Run(tmp_path / "run").require("distill").outputs["model.safetensors"]
    both = changed(RECIPE, distill__teachers=[{"model": "own"}, {"model": "pretrain.teacher"}])
    assert outcomes(both) == {**dict.fromkeys(stages, "skipped"), "distill": "done"}
    assert Run(tmp_path / "run").require("distill").outputs["model.safetensors"] != weights
    other_labels = changed(RECIPE, data__label_seed=1)
    assert outcomes(other_labels)["distill"] == "done", "the classifier is fitted on the label budget"
    assert list((tmp_path / "run" / "teacher").glob("*.npy")) == kept


@pytest.mark.parametrize(("target", "trainings"), [("image", 1), ("view", 0)])
def test_an_estimate_counts_the_features_once(target: str, trainings: int) -> None:
    recipe = recipes.parse(changed(RECIPE, pretrain__target=target))
    times, _ = measure(recipe, load_splits(recipe.data), limit=2)
    assert len(times["pretrain"].trainings) == 1 + trainings
    assert len(times["distill"].trainings) == 1 + (1 - trainings)


@pytest.mark.slow
def test_an_estimate_does_not_count_the_features_that_the_run_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    train(recipes.parse(RECIPE), run, until="pretrain")
    longer = recipes.parse(changed(RECIPE, pretrain__epochs=60))
    splits = load_splits(longer.data)
    (notes,) = (path for path in (run.path / "teacher").glob("*.json") if not path.name.startswith("scores"))
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    passes: list[int] = []
    features = TeacherFeatures._features

    def counted(self: TeacherFeatures, pixels: np.ndarray) -> np.ndarray:
        passes.append(len(pixels))
        return features(self, pixels)

    monkeypatch.setattr(TeacherFeatures, "_features", counted)
    assert expected(longer, splits, run, "pretrain") is not None
    assert passes == []
    (training,) = measure(longer, splits, "pretrain", 2, run)[0]["pretrain"].trainings
    assert not training.prepares
    assert training.steps == 60 * (len(splits.pool) // 600)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before

    write_json(notes, {"done": len(splits.pool) - 100})  # as after an interruption
    timed, training = measure(longer, splits, "pretrain", 1, run)[0]["pretrain"].trainings
    assert (timed.prepares, timed.steps, training.prepares) == (True, 2, False)
    assert passes == [64]

    timed, _ = measure(longer, splits, "pretrain", 1)[0]["pretrain"].trainings
    assert timed.steps == -(-len(splits.pool) // 64), "a new run computes all of them"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pretrain": {"method": "simclr", "encoder": TINY}}, r"distill\.teachers names pretrain\.teacher, but pretrain\.method is simclr"),
        ({"distill__loss": "feature"}, r"distill\.loss is feature, but distill\.teachers names pretrain\.teacher"),
        ({"distill__teachers": [{"model": "pretrain.teacher", "image_size": 64}]}, r"image_size is only for a network of your own"),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_refused_in_one_line(keys: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.parse(changed(RECIPE, **keys))


def test_the_short_rounds_of_a_search_have_one_teacher_for_all_candidates(tmp_path: Path) -> None:
    recipe = recipes.parse(changed(RECIPE, distill__teachers=[{"model": "own"}, {"model": "pretrain.teacher"}]))
    splits = load_splits(recipe.data)
    training = Training(recipe, tmp_path, lambda size: splits)
    short = training._short_recipe(chosen_candidates(recipe)[0], 1)
    assert [teacher.model for teacher in short.distill.teachers] == [str((tmp_path / "teacher").resolve())]
