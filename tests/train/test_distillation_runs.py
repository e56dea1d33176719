"""Runs that start from a file of weights, and that distill from other runs and from the user's own teachers."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgekit import recipe as recipes
from edgekit.errors import EdgekitError, RecipeError
from edgekit.files import sha256
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import normalize
from edgekit.models.resnet import ResNet
from edgekit.models.store import load_classifier
from edgekit.recipe import TeacherSource
from edgekit.run import Run
from edgekit.train.distill.teachers import load_teachers
from edgekit.train.records.inputs import stage_inputs
from edgekit.train.stages.pipeline import Report, Stages, train
from tests.helpers.recipe_changes import changed

NETWORK = {"name": "resnet10", "width": 0.125, "stem": "strided"}
PLAIN = {"name": "sgd", "lr": 0.01, "warmup_epochs": 0}
RECIPE = {
    "name": "tiny",
    "data": {"labeled": "digits", "image_size": 16, "labels": 10},
    "pretrain": {"encoder": NETWORK, "projection": {"output": 16}, "epochs": 1, "batch_size": 600, "optimizer": PLAIN},
    "finetune": {"epochs": 1, "batch_size": 50, "optimizer": PLAIN},
    "distill": {"student": NETWORK, "epochs": 1, "batch_size": 600, "optimizer": PLAIN},
    "supervised": {"enabled": False},
    "hardware": {"accelerator": "cpu"},
}


def recipe(**changes: object) -> recipes.Recipe:
    return recipes.parse(changed(RECIPE, **changes))


def outcomes(config: recipes.Recipe, folder: Path, **options: object) -> dict[str, str]:
    reports: list[Report] = []
    train(config, Run(folder), on_stage=reports.append, **options)  # type: ignore[arg-type]
    return {report.stage: report.outcome for report in reports}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    outcomes(recipe(), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    network = ResNet("resnet10", 0.125, "strided")
    tensors = {f"backbone.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(tensors | {"projector.weight": torch.zeros(3)}, tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def test_a_run_that_starts_from_weights_says_what_matched_and_knows_the_file_by_its_content(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One epoch at a vanishing learning rate: what comes out is what went in.
    still = {**PLAIN, "lr": 1e-30}
    config = recipe(pretrain__encoder={**NETWORK, "weights": str(weights)}, pretrain__optimizer=still)
    assert outcomes(config, run, until="pretrain") == {"data": "skipped", "pretrain": "done"}
    said = capsys.readouterr().err
    assert "pretrain: starts from" in said
    assert "72 tensors" in said
    assert "under `backbone.` fill the whole network; not used: projector (1)" in said
    record = Run(run).require("pretrain")
    assert record.metrics["started_from"]["sha256"] == sha256(weights)
    assert record.metrics["started_from"]["unused"] == {"projector": 1}
    assert "knn_starting_weights" in record.metrics
    stored = safetensors.torch.load_file(run / "pretrain" / "model.safetensors")
    given = safetensors.torch.load_file(weights)
    torch.testing.assert_close(stored["encoder.network.conv1.weight"], given["backbone.conv1.weight"])
    assert str(weights) not in (run / "pretrain" / "model.json").read_text(), "a model names no files of its maker"

    elsewhere = Path(shutil.move(weights, tmp_path / "moved.safetensors"))
    moved = recipe(pretrain__encoder={**NETWORK, "weights": str(elsewhere)}, pretrain__optimizer=still)
    assert outcomes(moved, run, until="pretrain")["pretrain"] == "skipped"
    tensors = safetensors.torch.load_file(elsewhere)
    tensors["backbone.conv1.weight"][0, 0, 0, 0] += 1
    safetensors.torch.save_file(tensors, elsewhere)
    assert outcomes(moved, run, until="pretrain")["pretrain"] == "done"


def test_a_student_starts_from_weights_and_the_supervised_one_from_scratch(run: Path, weights: Path) -> None:
    student = {**NETWORK, "weights": str(weights)}
    short = {"epochs": 1, "batch_size": 100, "optimizer": {**PLAIN, "lr": 1e-30}}
    config = recipe(
        distill__student=student, distill__optimizer=short["optimizer"], supervised={"enabled": True, **short}
    )
    assert outcomes(config, run)["distill"] == "done"
    given = safetensors.torch.load_file(weights)["backbone.conv1.weight"]
    learned, scratch = (
        load_classifier(run / stage).encoder.network.conv1.weight for stage in ("distill", "supervised")
    )
    torch.testing.assert_close(learned, given)
    assert not torch.equal(scratch, given)
    assert Run(run).require("distill").metrics["started_from"]["prefix"] == "backbone."
    without = recipe(distill__optimizer=short["optimizer"], supervised={"enabled": True, **short})
    assert outcomes(without, run)["supervised"] == "skipped"


def test_weights_that_do_not_fit_are_refused_before_anything_is_trained(weights: Path, tmp_path: Path) -> None:
    for key in ("pretrain.encoder", "distill.student"):
        stage, part = key.split(".")
        config = recipe(**{f"{stage}__{part}": {**NETWORK, "width": 0.25, "weights": str(weights)}})
        with pytest.raises(RecipeError, match=rf"{key}\.weights: .* have another shape"):
            train(config, Run(tmp_path / "new"))
    assert not list(tmp_path.glob("new/*/model.safetensors"))


def test_other_runs_teach_alone_or_as_part_of_an_ensemble(run: Path, trained: Path) -> None:
    others = [{"model": str(trained)}, {"model": str(trained / "distill")}]
    config = recipe(distill__teachers=[*others, {}], distill__ema=0.9, distill__loss="feature", distill__images="both")
    assert outcomes(config, run)["distill"] == "done"
    inputs = Run(run).require("distill").inputs
    assert inputs["from"] == sha256(run / "finetune" / "model.safetensors")
    digests = [sha256(trained / stage / "model.safetensors") for stage in ("finetune", "distill")]
    assert [teacher["model"] for teacher in inputs["teachers"]] == digests
    again = recipe(distill__teachers=[*others, {}], distill__ema=0.9, distill__loss="feature", distill__images="both")
    assert outcomes(again, run)["distill"] == "skipped"
    fewer = recipe(distill__teachers=others, distill__ema=0.9, distill__loss="feature", distill__images="both")
    assert outcomes(fewer, run)["distill"] == "done"
    assert "from" not in Run(run).require("distill").inputs


def test_a_teacher_of_another_run_sees_the_pixels_as_it_was_trained_to(trained: Path, tmp_path: Path) -> None:
    data = recipe(data__mean=0.3, data__std=0.5).data
    classes = [str(digit) for digit in range(10)]
    sources = [TeacherSource(model=str(trained))]
    (teacher,) = load_teachers(sources, Run(tmp_path / "other"), data, classes)
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    logits, embedding = teacher(normalize(pixels, 0.3, 0.5))
    model = load_classifier(trained / "finetune")
    images = normalize(pixels, 0.5, 0.25)
    torch.testing.assert_close(logits, model(images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embedding, model.embed(images), atol=1e-4, rtol=1e-4)


def test_distillation_on_the_labeled_images_alone_may_have_batches_larger_than_the_pool(run: Path) -> None:
    config = recipe(
        distill__images="labeled", distill__loss="dkd", distill__batch_size=5000, distill__labeled_weight=0.5
    )
    assert outcomes(config, run)["distill"] == "done"
    assert "pool" not in Run(run).require("distill").inputs


def test_a_teacher_of_other_classes_or_another_size_is_refused_before_anything_is_trained(
    trained: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    spec = other / "finetune" / "model.json"
    content = json.loads(spec.read_text())

    def pretend(**change: object) -> None:
        spec.write_text(json.dumps({**content, **change}))
        record = json.loads((other / "finetune" / "stage.json").read_text())
        record["outputs"]["model.json"] = sha256(spec)
        (other / "finetune" / "stage.json").write_text(json.dumps(record))

    config = recipe(distill__teachers=[{"model": str(other)}])
    for change, message in (
        (
            {"classes": [*"abcdefghij"]},
            r"finetune: has 10 classes \(a, b, c, d, e…\), data\.labeled has 10 \(0, 1, 2",
        ),
        ({"image_size": 32}, r"finetune: takes images of 32 px, but data\.image_size is 16"),
    ):
        pretend(**change)
        with pytest.raises(RecipeError, match=message):
            train(config, Run(tmp_path / "new"))
    assert not list(tmp_path.glob("new/*/model.safetensors"))


def test_a_run_does_not_teach_itself_by_its_path(run: Path) -> None:
    for path in (run, run / "distill"):
        with pytest.raises(RecipeError, match=r"belongs to the run that distills.*write own"):
            train(recipe(distill__teachers=[{"model": str(path)}]), Run(run))


def test_a_missing_file_of_weights_is_one_line_for_complete_runs_too(run: Path, weights: Path) -> None:
    from edgekit.data.splits import load_splits

    config = recipe(pretrain__encoder={**copy.deepcopy(NETWORK), "weights": str(weights.with_name("gone.pth"))})
    with pytest.raises(EdgekitError, match=r"pretrain\.encoder\.weights: .*gone\.pth: cannot be read"):
        stage_inputs("pretrain", config, load_splits(config.data), Run(run))


def test_a_student_of_the_encoder_s_network_starts_from_its_weights(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of nothing, the student's encoder is what it started from; no other network is built for it."""
    still = {"name": "sgd", "lr": 1e-30, "weight_decay": 0.0, "warmup_epochs": 0}
    built = []
    build = Stages._student

    def counted(stages: Stages, *arguments: Any) -> Classifier:
        built.append(arguments[0])
        return build(stages, *arguments)

    monkeypatch.setattr(Stages, "_student", counted)
    outcomes(recipe(distill__optimizer=still, distill__start="encoder"), run)
    assert "distill" not in built
    assert "distill: starts from the pretrained encoder" in capsys.readouterr().err
    pretrained, student = (
        safetensors.torch.load_file(run / stage / "model.safetensors") for stage in ("pretrain", "distill")
    )
    names = [name for name in student if name.startswith("encoder.") and name.endswith("weight")]
    assert names
    assert all(torch.equal(student[name], pretrained[name]) for name in names)
    record = json.loads((run / "distill" / "stage.json").read_text())
    assert record["metrics"]["started_from"] == {"stage": "pretrain"}
    outcomes(recipe(distill__optimizer=still), run)
    assert "distill" in built
    new = safetensors.torch.load_file(run / "distill" / "model.safetensors")
    assert not any(torch.equal(new[name], pretrained[name]) for name in names if new[name].ndim == 4)


def test_an_encoder_that_knows_more_than_the_pool_is_the_student_s_start() -> None:
    known = {**NETWORK, "weights": "some.safetensors"}
    assert not recipe().student_starts_as_encoder
    assert recipe(pretrain__encoder=known).student_starts_as_encoder
    assert not recipe(pretrain__encoder=known, distill__student={**NETWORK, "width": 0.25}).student_starts_as_encoder
    assert not recipe(pretrain__encoder=known, distill__student=known).student_starts_as_encoder
    assert not recipe(pretrain__encoder=known, distill__start="new").student_starts_as_encoder


def test_a_student_of_another_network_starts_from_new_weights(run: Path) -> None:
    outcomes(recipe(distill__student={**NETWORK, "width": 0.25}), run)
    assert "started_from" not in json.loads((run / "distill" / "stage.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({**NETWORK, "width": 0.25}, "distill.student (resnet10) is not the network of pretrain.encoder"),
        ({**NETWORK, "weights": "some.safetensors"}, "distill.student.weights gives other weights"),
    ],
)
def test_start_encoder_is_refused_for_another_network(student: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        recipe(distill__student=student, distill__start="encoder")
