"""The whole way on the embedded data, as a user goes it: train, evaluate, export, bench, predict, report, each by its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.result import Result

RECIPE = {
    "name": "whole",
    "data": {"labeled": "digits", "image_size": 16, "labels": 20},
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.25, "stem": "strided"},
        "temperature": 0.2,
        "epochs": 15,
        "batch_size": 256,
        "optimizer": {"name": "adamw", "lr": 2e-3, "scale_lr": False, "warmup_epochs": 2},
        "augmentation": {"crop_scale": [0.4, 1.0], "flip": 0.0, "jitter": 0.0, "gray": 0.0},
    },
    "finetune": {"epochs": 30, "batch_size": 50, "augmentation": {"flip": 0.0, "crop_scale": [0.6, 1.0]}},
    "distill": {
        "student": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "epochs": 15,
        "batch_size": 128,
        "optimizer": {"name": "adamw", "lr": 4e-3, "scale_lr": False, "warmup_epochs": 1},
        "augmentation": {"flip": 0.0, "crop_scale": [0.6, 1.0]},
    },
    "supervised": {
        "epochs": 20,
        "batch_size": 50,
        "search": False,
        "augmentation": {"flip": 0.0, "crop_scale": [0.6, 1.0]},
    },
    "hardware": {"accelerator": "cpu"},
}


def edgekit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    edgekit("train", "recipe.yaml", cwd=folder)
    edgekit("evaluate", "runs/whole", cwd=folder)
    edgekit("export", "runs/whole", "--max-drop", "3", cwd=folder)
    edgekit("bench", "runs/whole/export", "--quick", cwd=folder)
    edgekit("report", "runs/whole", cwd=folder)
    return folder


@pytest.mark.slow
def test_the_models_learn(where: Path) -> None:
    evaluation = Result.read(where / "runs/whole/evaluate/evaluation.json").measurement
    metrics = json.loads((where / "runs/whole/pretrain/stage.json").read_text())["metrics"]
    assert evaluation.value("encoder", "knn") == pytest.approx(metrics["knn"], abs=1e-6)
    assert metrics["knn"] > metrics["knn_random_weights"] + 0.1, "the encoder learned nothing from the pool"
    assert evaluation.value("teacher", "top1") > 0.7
    assert evaluation.value("student", "top1") > 0.5
    assert all(score.protocol for score in evaluation.scores)


@pytest.mark.slow
def test_every_variant_agrees_with_the_trained_model(where: Path) -> None:
    bundle = Bundle.open(where / "runs/whole/export")
    assert {v.id for v in bundle.manifest.variants} >= {"onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"}
    evaluation = Result.read(where / "runs/whole/evaluate/evaluation.json").measurement
    assert bundle.manifest.accuracy.top1 == pytest.approx(evaluation.value("student", "top1"), abs=1e-6)
    for variant in bundle.manifest.variants:
        assert variant.executed
        assert variant.status == "verified"
        if variant.precision != "int8":
            assert variant.parity.agreement == 1.0


@pytest.mark.slow
def test_every_variant_was_measured_and_the_report_shows_it(where: Path) -> None:
    measured = [Result.read(path).measurement for path in (where / "runs/whole/bench").glob("*.json")]
    assert {m.variant for m in measured} == {v.id for v in Bundle.open(where / "runs/whole/export").manifest.variants}
    page = (where / "runs/whole/report.html").read_text()
    for latency in measured:
        assert latency.variant in page


@pytest.mark.slow
def test_a_bundle_predicts_a_digit_from_a_file(where: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    Image.fromarray((digits.images[0] * 255 / 16).astype(np.uint8)).save(where / "digit zero.png")
    done = edgekit("predict", "runs/whole/export", "digit zero.png", "--json", cwd=where)
    line = json.loads(done.stdout)
    assert line["file"].endswith("digit zero.png")
    assert line["classes"][0]["class"] == "0"


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(where: Path) -> None:
    done = edgekit("train", "recipe.yaml", "--json", cwd=where)
    assert {json.loads(line)["outcome"] for line in done.stdout.splitlines()} == {"skipped"}
