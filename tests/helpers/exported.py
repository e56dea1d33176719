"""A small network really trained on scikit-learn's digits, for the tests of the export: some seconds on one core."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgekit.bundle import Bundle, Precision
from edgekit.data.splits import Splits, load_splits, write_splits
from edgekit.export import served
from edgekit.export.half import tensorrt_onnx
from edgekit.export.importers import runs
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.store import Pretrained, save_classifier, save_pretrained
from edgekit.quantization import Quantization
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import SIGNED, quantize_onnx
from edgekit.quantize.selection import CalibrationPool
from edgekit.recipe import Architecture, Recipe, dump, parse
from edgekit.run import Run
from edgekit.sizes import SizeLike
from edgekit.train.records.inputs import stage_inputs

RECIPE: Recipe = parse(
    {
        "name": "digits",
        "data": {"image_size": 16, "labels": 0.5},
        "distill": {"student": {"name": "resnet10", "width": 0.125}},
    }
)


@cache
def splits() -> Splits:
    """Its images; the pool's as an array, too."""
    found = load_splits(RECIPE.data)
    pool = replace(found.pool, images=np.asarray(found.pool.images))
    return replace(found, pool=pool)


@cache
def classifier() -> Classifier:
    """ResNet-10, an eighth as wide, 16 px: about 97 % on the test set."""
    data = RECIPE.data
    labeled = splits().labeled.center_crop(data.image_size)
    assert labeled.labels is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier.build(RECIPE.distill.student, data.image_size, splits().classes, [])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=160)
        images, labels = torch.from_numpy(labeled.images.copy()), torch.from_numpy(labeled.labels)
        for _ in range(160):
            rows = torch.randint(len(images), (32,))
            logits = model(normalize(images[rows], data.mean, data.std))
            loss = functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def clear_decisions(logits: np.ndarray, margin: float) -> np.ndarray:
    """Which rows have a best class that is ahead of the second by more than a margin.

    The network is trained on the machine of the test: on some CPUs, two classes of an image are as good as equal.
    """
    second, best = np.sort(logits, axis=1)[:, -2:].T
    return best - second > margin


def pixels() -> PixelClassifier:
    """The same as a model that takes pixels."""
    return PixelClassifier(classifier(), RECIPE.data.mean, RECIPE.data.std).eval()


def export(output: Path, **changes: Any) -> Bundle:
    """Its bundle, calibrated on 50 images of the pool; `changes` are arguments of `export_classifier` or of `ExportOptions`."""
    data = RECIPE.data
    settings: dict[str, Any] = {
        "model": pixels(),
        "classes": splits().classes,
        "preprocessing": data.preprocessing(),
        "calibration": splits().pool.center_crop(data.image_size).images[:50],
        "evaluation": (splits().test.images, splits().test.labels),
        "output": output,
        "name": "digits",
        "timed": False,
        **changes,
    }
    options = {field.name: settings.pop(field.name) for field in fields(ExportOptions) if field.name in settings}
    return export_classifier(settings.pop("model"), options=ExportOptions(**options), **settings)


def quantization(bundle: Bundle, variant: str = "onnx-int8") -> Quantization:
    """How a variant of it was made."""
    found = bundle.variant(variant).quantization
    assert found is not None
    return found


def for_tensorrt(calibration: Calibration, output: Path, precision: Precision, *, typed: bool = True) -> None:
    """The ONNX that TensorRT builds a precision from, as the export makes it."""
    if precision == "int8":
        quantize_onnx(calibration, output, SIGNED)
    tensorrt_onnx(output if precision == "int8" else calibration.model, output, precision, typed=typed)


def write_run(folder: Path) -> Run:
    """A run folder that holds the network as its student; its teacher and its encoder are there, and untrained."""
    run = Run(folder)
    run.path.mkdir(parents=True)
    run.recipe_path.write_text(dump(RECIPE))
    architecture, size = RECIPE.distill.student, RECIPE.data.image_size
    encoder = build_encoder(architecture, size)
    teacher = Classifier.build(architecture, size, splits().classes, [])
    made = {
        "data": lambda path: write_splits(splits(), path),
        "pretrain": lambda path: save_pretrained(
            path, Pretrained(architecture, size, encoder, ProjectionHead(encoder.feature_dim, 16, 8, 2))
        ),
        "finetune": lambda path: save_classifier(path, teacher),
        "distill": lambda path: save_classifier(path, classifier()),
    }
    for stage, make in made.items():
        files = make(run.stage_path(stage))
        inputs = stage_inputs(stage, RECIPE, splits(), run)
        run.write_record(stage, inputs, files, {}, 0.0, "2020-01-01T00:00:00+00:00", {})
    return run


def untrained(name: str, image_size: SizeLike, width: float = 1.0) -> PixelClassifier:
    """A network by name with random weights, its BatchNorms set to what random images give, so that it tells images apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier.build(
            Architecture(name=name, width=width), image_size, [f"class {i}" for i in range(10)], []
        )
        torch.nn.init.normal_(model.head.weight, std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average
        images = torch.randint(0, 256, (16, *model.image_size, 3), dtype=torch.uint8)
        with torch.no_grad():
            for _ in range(3):
                model.train()(normalize(images, 0.5, 0.25))
    return PixelClassifier(model.eval(), 0.5, 0.25).eval()


def calibrate_on_black(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let INT8 be calibrated on black images, from which nothing can be learned about the activations' ranges: it is rejected."""
    black = np.zeros((20, 16, 16, 3), np.uint8)
    monkeypatch.setattr(runs, "CalibrationPool", lambda **_: CalibrationPool.of_images(black))
    monkeypatch.setattr(served, "METHODS", ("percentile",))
