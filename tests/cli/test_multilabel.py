"""Multi-label classification from a CSV file to predictions: init, train, evaluate, export in two runtimes, predict, report; and its wrong inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgekit as package
from edgekit.bench.golden import prove
from edgekit.bundle import Bundle
from edgekit.confidence import ClassThresholds
from edgekit.data.layout import inspect_folder
from edgekit.data.splits import load_splits
from edgekit.errors import DataError, ExportError, RecipeError
from edgekit.files import write_text
from edgekit.recipe import Recipe, parse, read_yaml
from edgekit.report.page import write_report
from edgekit.result import Evaluation
from edgekit.run import Run
from edgekit.runtimes import load
from edgekit.runtimes.predictor import Predictor
from edgekit.search.rounds import check_trainable
from edgekit.tasks.multilabel import Labels
from edgekit.tasks.multilabel_metrics import average_precisions, sigmoid
from edgekit.train.assess import advice_for
from tests.helpers.image_folders import class_folders
from tests.helpers.shapes import CLASSES, SIDE, drawn, random_labels, write_labels, write_set

Command = Callable[..., tuple[int, str, str]]
_PLAIN = {"crop": 0.0, "flip": 0.5, "jitter": 0.0, "gray": 0.0}
_ADAMW = {"name": "adamw", "scale_lr": False, "weight_decay": 1e-4}


def recipe_of(file: Path, **changes: Any) -> Recipe:
    """A recipe of a minute, less on an idle core."""
    network = {"name": "resnet10", "width": 0.125, "stem": "strided"}
    return parse(
        {
            "name": "shapes",
            "task": "multilabel",
            "data": {"labeled": str(file), "image_size": SIDE, "labels": 1.0, "test": 0.2, "probe": 0.2},
            "pretrain": {
                "encoder": network, "epochs": 2, "batch_size": 64, "optimizer": {**_ADAMW, "lr": 2e-3}, "augmentation": _PLAIN,
                "projection": {"hidden": 32, "output": 16},
            },
            "finetune": {"epochs": 25, "batch_size": 64, "optimizer": {**_ADAMW, "lr": 5e-3}, "augmentation": _PLAIN},
            "distill": {
                "student": network, "epochs": 25, "batch_size": 64, "optimizer": {**_ADAMW, "lr": 5e-3}, "augmentation": _PLAIN,
                "loss": "feature",
            },
            "supervised": {"epochs": 8, "batch_size": 64, "search": False, "augmentation": _PLAIN, "optimizer": {**_ADAMW, "lr": 5e-3}},
            "monitor": {"every": 0},
            "hardware": {"accelerator": "cpu", "precision": "fp32", "threads": 1},
            **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("shapes"), 300)


@pytest.fixture(scope="module")
def run(file: Path) -> Run:
    return package.train(recipe_of(file), run=file.parent / "run")


@pytest.fixture(scope="module")
def evaluation(run: Run) -> Evaluation:
    found = package.evaluate(run).measurement
    assert isinstance(found, Evaluation)
    return found


@pytest.fixture(scope="module")
def bundle(run: Run) -> Bundle:
    return package.export(
        run, target=("onnx", "openvino"), precision=("fp32", "int8"), timing=False, jobs=1, max_drop=10, search_minutes=0.2,
        calibration_images=40, embedding=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_networks_learn_and_their_scores_are_those_of_the_task(run: Run, evaluation: Evaluation) -> None:
    assert evaluation.task == "multilabel"
    splits = load_splits(run.recipe.data, run)
    assert splits.test.labels is not None
    chance = float(splits.test.labels.mean())  # the mean AP of any order is about the share of positives
    for model in ("teacher", "student"):
        assert (evaluation.value(model, "map") or 0) > chance + 0.2
        scores = {score.metric: score for score in evaluation.scores if score.model == model}
        assert set(scores) == {"map", "f1_micro", "f1_macro"}
        each = scores["map"].per_class
        assert each is not None
        assert list(each) == CLASSES
        assert scores["map"].value == pytest.approx(np.mean(list(each.values())))
        assert "on the probe set" in scores["f1_micro"].protocol
    student = run.require("distill").metrics
    assert student["metric"] == "map"
    assert evaluation.value("student", "map") == student["test_map"]
    assert {score.metric for score in evaluation.scores if score.model == "encoder"} == {"knn", "linear"}
    assert all("mAP" in score.protocol for score in evaluation.scores if score.model == "encoder")
    assert {found.model for found in evaluation.calibrations} == {"teacher", "student", "supervised"}
    assert evaluation.answers is None
    assert evaluation.differences == []
    assert advice_for(run, splits) == []
    assert run.require("finetune").metrics.get("consistency") is None


@pytest.mark.slow
def test_the_same_recipe_again_trains_nothing_and_another_loss_does(file: Path, run: Run) -> None:
    outcomes: list[str] = []
    package.train(recipe_of(file), run=run, on_stage=lambda report, draw: outcomes.append(report.outcome))
    assert set(outcomes) == {"skipped"}
    from edgekit.train.records.inputs import made_from, stage_inputs

    other = recipe_of(file, multilabel={"loss": "asymmetric"})
    splits = load_splits(other.data)
    for stage, same in (("pretrain", True), ("finetune", False), ("supervised", False)):
        assert made_from(run.require(stage), stage_inputs(stage, other, splits, run)) == same


@pytest.mark.slow
def test_the_bundle_has_thresholds_for_each_variant_and_every_runtime_proves_it(bundle: Bundle, run: Run) -> None:
    manifest = bundle.manifest
    assert manifest.task == "multilabel"
    assert manifest.classes == CLASSES
    assert {v.id for v in manifest.variants} == {"onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8"}
    assert manifest.accuracy is not None
    assert manifest.accuracy.metric == "map"
    assert manifest.accuracy.value == pytest.approx(run.require("distill").metrics["test_map"], abs=1e-6)
    for variant in manifest.variants:
        assert variant.status == "verified", variant.note
        assert isinstance(variant.confidence, ClassThresholds)
        assert len(variant.confidence.thresholds) == 3
        assert variant.confidence.quality is not None
        assert variant.confidence.are == "probe images"
        session = load(bundle, variant)
        prove(session, variant, bundle.golden_outputs(), 4, bundle.task)
        session.close()
    floats = [v.confidence for v in manifest.variants if v.precision == "fp32"]
    assert all(np.allclose(c.thresholds, manifest.confidence.thresholds, atol=1e-3) for c in floats)  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8", "openvino-int8"])
def test_predictions_are_the_classes_over_their_thresholds(
    bundle: Bundle, variant: str, tmp_path: Path, edgekit: Command
) -> None:
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]] * 6)
    paths = [tmp_path / f"{i:02}.png" for i in range(len(labels))]
    for path, image in zip(paths, drawn(labels, 77), strict=True):
        image.save(path)
    with Predictor(bundle, variant) as predictor:
        answers = predictor.predict(paths)
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
        logits = predictor._session.run(pixels)
        record = predictor.variant.confidence
        over = predictor.predict(paths[0], threshold=0.999999)
    assert isinstance(record, ClassThresholds)
    assert all(isinstance(answer, Labels) for answer in answers)
    assert all(probability >= 0.999999 for _, probability in over.classes)
    found = np.array([[name in dict(answer.classes) for name in CLASSES] for answer in answers])
    probabilities = sigmoid(logits / record.temperature)
    clear = np.abs(probabilities - record.thresholds) > 1e-4  # batches of one and of all may round differently
    assert np.array_equal(found[clear], (probabilities >= np.array(record.thresholds))[clear])
    assert (found == labels).mean() > 0.5
    code, out, _ = edgekit("predict", bundle.path, paths[1], "--variant", variant, "--json", "--top", "1")
    assert code == 0
    line = json.loads(out)
    assert [one["class"] for one in line["classes"]] == [name for name, _ in answers[1].classes]
    assert all(one["probability"] >= one["threshold"] for one in line["classes"])
    code, out, err = edgekit("predict", bundle.path, paths[0], "--abstain-below", "0.5")
    assert (code, out) == (2, "")
    assert "has no rule for unknown" in err


@pytest.mark.slow
def test_the_report_shows_average_precision_by_class_and_no_confusion(
    run: Run, bundle: Bundle, evaluation: Evaluation
) -> None:
    page = write_report(run.path).path.read_text()
    assert "Average precision by class" in page
    assert "Thresholds of the classes" in page
    assert "Confusion matrix" not in page
    assert "no predictions for single images" not in page
    for name in CLASSES:
        assert name in page


@pytest.mark.slow
def test_a_run_is_exported_for_recognition_but_not_as_a_classification(
    run: Run, evaluation: Evaluation, edgekit: Command
) -> None:
    with pytest.raises(ExportError, match="was trained for multilabel"):
        package.export(run, task="classification")
    code, _, err = edgekit("evaluate", run.path, "--few-shot", "1")
    assert code == 2
    assert "this run is of the task multilabel" in err
    with pytest.raises(RecipeError, match="a search ranks its students"):
        check_trainable(run.recipe, load_splits(run.recipe.data, run))
    code, out, _ = edgekit("evaluate", run.path)
    assert code == 0
    assert "average precision by class" in out


@pytest.mark.slow
def test_a_network_of_ones_own_is_exported_with_a_csv_file(file: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )
    classes = ["none", *reversed(CLASSES)]  # other classes and another order than in the file
    bundle = package.export(
        network, task="multilabel", classes=classes, calibrate=file.parent / "images", evaluate=file, size=SIDE, mean=0.5, std=0.25,
        target="onnx", precision="fp32", output=tmp_path / "own", timing=False, jobs=1,
    )  # fmt: skip
    accuracy = bundle.manifest.accuracy
    assert accuracy is not None
    images = [Image.open(path) for path in sorted((file.parent / "images").glob("labels-*.png"))]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = network((pixels / 255 - 0.5) / 0.25).numpy()
    each = average_precisions(logits[:, 1:], random_labels(300, 0)[:, ::-1])
    assert accuracy.value == pytest.approx(each.mean(), abs=1e-4)
    found = bundle.variant("onnx-fp32").confidence
    assert isinstance(found, ClassThresholds)
    assert found.are == "one half of the test images"


def test_init_writes_a_recipe_for_a_file_of_labels(
    tmp_path: Path, edgekit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "parts", 40, "columns")
    for name in ("parts", "parts/labels.csv"):
        code, out, err = edgekit("init", name, "--no-measure")
        assert code == 0
        recipe = parse(read_yaml(out))
        assert recipe.task == "multilabel"
        assert recipe.name == "parts"
        assert recipe.data.labeled == "parts/labels.csv"
        assert not recipe.finetune.consistency.enabled
        assert "one column of 0 and 1 for each class; 3 classes, 40 images" in err
    assert inspect_folder("parts").pool is None
    class_folders(tmp_path / "parts", {"more": 3})
    write_set(tmp_path / "parts", 20, "pairs", seed=3, file="val.csv")
    layout = inspect_folder("parts")
    assert (layout.labeled_images, layout.test_images, layout.pool_images) == (40, 20, 63)
    for option, message in (("recognition", "has images with several classes"), ("classification", "several classes")):
        code, _, err = edgekit("init", "parts", "--no-measure", "--task", option)
        assert code == 2
        assert message in err


def test_a_file_beside_class_folders_is_read_only_if_it_says_more(tmp_path: Path, edgekit: Command) -> None:
    class_folders(tmp_path, {"cat": 4, "dog": 4})
    one_each = "file,class\ncat/000.png,cat\ndog/000.png,dog\n"
    write_text(tmp_path / "labels.csv", one_each)
    assert inspect_folder(str(tmp_path)).labeled == str(tmp_path)
    write_text(tmp_path / "labels.csv", one_each + "cat/001.png,cat\ncat/001.png,dog\n")
    layout = inspect_folder(str(tmp_path))
    assert layout.several
    assert layout.labeled == str(tmp_path / "labels.csv")
    code, _, err = edgekit("init", tmp_path / "cat", "--no-measure", "--task", "multilabel")
    assert code == 2
    assert "has one class for each image, or none is labeled" in err


def test_wrong_inputs_of_a_training_are_one_line_and_write_nothing(tmp_path: Path, edgekit: Command) -> None:
    file = write_set(tmp_path, 40)
    recipe = tmp_path / "recipe.yaml"
    recipe_of(file).write(recipe)
    names = [f"images/labels-{i:03}.png" for i in range(40)]
    single = write_labels(tmp_path / "single.csv", names, np.eye(3, dtype=np.int64)[np.arange(40) % 3], ";")
    for changes, message in (
        ([f"data.labeled={single}"], "has exactly one class, so that there is nothing multi-label in it"),
        (["task=classification"], "but a classification has one for each image"),
        (["data.labels=500"], "but the budget (500) needs 500"),
        (["distill.loss=dkd"], "which is about one target class for each image"),
        (["data.labeled=digits"], "task multilabel takes a CSV file"),
    ):
        options = [part for change in changes for part in ("--set", change)]
        code, out, err = edgekit("train", recipe, "--run", tmp_path / "run", *options)
        assert code == 2, changes
        assert out == ""
        assert message in err
        assert "Traceback" not in err
        assert not (tmp_path / "run" / "data").exists()


def test_average_precision_of_a_class_without_test_images_is_left_out() -> None:
    assert np.isnan(average_precisions(np.zeros((3, 1)), np.zeros((3, 1), np.int64))).all()
    with pytest.raises(DataError):
        inspect_folder("/nonexistent/labels.csv")
