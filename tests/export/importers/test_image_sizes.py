"""Foreign networks whose images are not square: their graphs are rewritten, run and described for that size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.errors import EdgekitError
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.modules import timm_pixels
from edgekit.export.importers.request import ModelRequest, PixelFormat, model_request
from edgekit.runtimes import open_session
from edgekit.sizes import ImageSize
from tests.helpers.foreign import MEAN, NORMALIZED, STD, classifier, logits_by_definition, node
from tests.helpers.image_folders import class_folders


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return class_folders(tmp_path / "photos", {"a": 6})


@pytest.mark.parametrize(("height", "width", "size"), [(8, 12, None), ("h", "w", (8, 12)), (12, 8, (12, 8))])
def test_a_graph_keeps_its_size(
    height: int | str, width: int | str, size: tuple[int, int] | None, photos: Path, tmp_path: Path
) -> None:
    onnx.save(classifier(node("Identity", "z", "y"), shape=["n", 3, height, width]), tmp_path / "model.onnx")
    request = model_request(str(tmp_path / "model.onnx"), calibrate=str(photos), size=size, **NORMALIZED)
    source = import_model(request, tmp_path)
    wanted = ImageSize.of(size or (8, 12))
    assert source.preprocessing.image_size == wanted
    assert any(f"resized to cover {wanted} px, the center {wanted} px" in note for note in source.notes)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *wanted, 3), dtype=np.uint8)
    session = open_session("onnxruntime", source.model)
    np.testing.assert_allclose(session.run(pixels), logits_by_definition(pixels), rtol=1e-4, atol=1e-4)
    session.close()


def test_another_size_than_the_graph_s_is_refused(photos: Path, tmp_path: Path) -> None:
    onnx.save(classifier(node("Identity", "z", "y"), shape=["n", 3, 8, 12]), tmp_path / "model.onnx")
    request = model_request(str(tmp_path / "model.onnx"), calibrate=str(photos), size=(12, 8), **NORMALIZED)
    with pytest.raises(
        EdgekitError, match=r"takes images of 8x12 px, but --size is 12x8 \(leave out --size, or give 8,12"
    ):
        import_model(request, tmp_path)


def test_a_module_is_tried_at_its_size(photos: Path, tmp_path: Path) -> None:
    """Its last layer fits 8 x 12 pixels alone."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(4 * 4 * 6, 5))
    pixels = PixelFormat(size=ImageSize(8, 12), mean=MEAN, std=STD)
    source = import_model(ModelRequest("network", calibrate=str(photos), module=network, pixels=pixels), tmp_path)
    images = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    assert source.model(images).shape == (2, 5)
    turned = PixelFormat(size=ImageSize(12, 9), mean=MEAN, std=STD)
    with pytest.raises(EdgekitError, match=r"fails on images of 12x9 px"):
        import_model(ModelRequest("network", calibrate=str(photos), module=network, pixels=turned), tmp_path)


def test_timm_s_configuration_says_both_sides() -> None:
    found = timm_pixels({"input_size": (3, 256, 128), "crop_pct": 0.5})
    assert (found.size, found.resize) == (ImageSize(256, 128), 256)
