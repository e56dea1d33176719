"""Small networks with random weights for the benchmarks, written as ONNX and bundled by edgekit's own export. Needs [export]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Bundle
from edgekit.export.pipeline import export_classifier
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture

CLASSES = [f"class {i}" for i in range(10)]
_MEAN, _STD = 0.5, 0.25


def convolutions(width: int, layers: int) -> PixelClassifier:
    """Return `layers` convolutions (3 x 3) of `width` channels and a linear layer, for uint8 images (n, h, w, 3)."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for i in range(layers):
        blocks += [nn.Conv2d(width if i else 3, width, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(CLASSES)))
    return PixelClassifier(network, _MEAN, _STD).eval()


def untrained(name: str, size: int) -> PixelClassifier:
    """Return a network by name; its BatchNorms have the statistics of random images, so that its logits differ between images."""
    torch.manual_seed(0)
    classifier = Classifier.build(Architecture(name=name), size, CLASSES, [])
    nn.init.normal_(classifier.head.weight, std=0.3)  # the default is 0
    model = PixelClassifier(classifier, _MEAN, _STD)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over the batches
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.from_numpy(random_images(16, size)))
    return model.eval()


def random_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return images (count, size, size, 3) of random pixels."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_onnx(model: PixelClassifier, path: Path, size: int) -> None:
    """Write a network as float ONNX with a free batch axis."""
    export_onnx(model, path, image_size=size, classes=CLASSES)


def make_bundle(
    folder: Path,
    *,
    size: int = 16,
    width: int = 8,
    layers: int = 2,
    targets: Sequence[str] = ("onnx", "openvino"),
    precisions: Sequence[str] = ("fp32", "fp16"),
) -> Bundle:
    """Export `convolutions` as a bundle; without arguments with the variants `onnx-fp32` and `openvino-fp16` (computed in fp32)."""
    return export_classifier(
        convolutions(width, layers),
        classes=CLASSES,
        preprocessing=Preprocessing(image_size=size, resize_to=size),
        calibration=random_images(64, size),
        evaluation=None,
        output=folder,
        targets=targets,
        precisions=precisions,
        timed=False,
        jobs=1,
        name="small",
    )
