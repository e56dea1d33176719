"""The check of the official converter's files in the table of mobile runtimes: a layer with another layer's weights is found and named."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.export.litert.maker import float_model
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import mobile_official

SIZE, CLASSES = 8, 4


@pytest.fixture(scope="module")
def network() -> PixelClassifier:
    """Two convolutions of one shape behind another, a depthwise one, each with a BatchNorm; a linear layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for ins, outs, groups in ((3, 6, 1), (6, 6, 1), (6, 6, 1), (6, 6, 6)):
        norm = nn.BatchNorm2d(outs)
        nn.init.normal_(norm.weight)  # also negative factors
        layers += [nn.Conv2d(ins, outs, 3, padding=1, groups=groups), norm, nn.Hardswish()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)]
    return PixelClassifier(nn.Sequential(*layers), 0.5, 0.25).eval()


def written(network: PixelClassifier, folder: Path) -> Path:
    export_onnx(network, folder / "model.onnx", image_size=SIZE, classes=[f"class {i}" for i in range(CLASSES)])
    return float_model(folder / "model.onnx", folder)


def test_a_right_file_has_every_weight(network: PixelClassifier, tmp_path: Path) -> None:
    path = written(network, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    assert mobile_official.computes_the_same(path, network, images)
    assert mobile_official.lost_weights(path, network) == []


def test_a_layer_with_the_weights_of_another_is_named(network: PixelClassifier, tmp_path: Path) -> None:
    """What litert-torch 0.10 does: the third convolution has the second's weights, and a BatchNorm of its own."""
    wrong = deepcopy(network)
    second, third = wrong.model[3], wrong.model[6]  # type: ignore[index]
    third.weight.data.copy_(second.weight.data)
    path = written(wrong, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    assert not mobile_official.computes_the_same(path, network, images)
    assert mobile_official.lost_weights(path, network) == ["model.6"]
