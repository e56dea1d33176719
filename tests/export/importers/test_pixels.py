"""The pixels that a foreign network is calibrated and verified with, and their record in the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import EdgekitError
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.request import model_request
from edgekit.export.importers.source import ModelSource
from edgekit.onnx_graph.metadata import label
from edgekit.preprocess import Preprocessing
from edgekit.sizes import ImageSize
from tests.helpers.image_folders import class_folders
from tests.helpers.tiny_bundle import CLASSES, SIZE, write_onnx


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Images of 12 bits, and a file that is not an image."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 4096, (20, 30), dtype=np.uint16)
        Image.fromarray(noise).save(folder / f"{i:02}.png")
    (folder / "scan.dcm").write_bytes(b"x")
    return folder


def opened(model: Path, images: Path, scratch: Path, **options: object) -> ModelSource:
    return import_model(model_request(str(model), calibrate=str(images), calibration_images=5, **options), scratch)


def test_the_range_is_found_from_the_images_to_calibrate_with(tmp_path: Path, deep: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    source = opened(tmp_path / "model.onnx", deep, tmp_path)
    assert source.preprocessing.pixel_range == (0, 4095)
    assert any("[0, 4095] becomes the gray levels" in note for note in source.notes)
    assert any("1 file without an image extension" in note and "1 .dcm" in note for note in source.notes)
    assert not isinstance(source.calibration, np.ndarray)
    pixels = source.calibration.read(np.arange(12))
    assert len(np.unique(pixels)) > 100
    assert np.array_equal(pixels[3], source.preprocessing.read(deep / "03.png"))


def test_a_stated_range_goes_into_the_bundle_also_without_such_images(tmp_path: Path, deep: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    photos = class_folders(tmp_path / "photos", {"a": 6})
    for images in (deep, photos):
        source = opened(tmp_path / "model.onnx", images, tmp_path, pixel_range="0,1023")
        assert source.preprocessing.pixel_range == (0, 1023)
    assert opened(tmp_path / "model.onnx", photos, tmp_path).preprocessing.pixel_range is None
    with pytest.raises(EdgekitError, match=r"--pixel-range 9,1: .*0,4095"):
        model_request("model.onnx", pixel_range="9,1")


def test_the_limit_on_pixels_is_that_of_the_command_line(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    photos = class_folders(tmp_path / "photos", {"a": 6})  # of 120 pixels
    Image.new("RGB", (11, 11)).save(photos / "a/large.png")
    source = opened(tmp_path / "model.onnx", photos, tmp_path, max_pixels=120)
    assert any("over the limit of 120" in note for note in source.notes)


def test_a_file_of_edgekit_s_own_brings_its_preprocessing_along(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"a": 6})
    own = Preprocessing(
        image_size=SIZE, resize_to=19, fit="crop", interpolation="lanczos", pixel_range=(7000.0, 7900.0)
    )
    write_onnx(tmp_path / "model.onnx")
    label(tmp_path / "model.onnx", name="tiny", classes=CLASSES, preprocessing=own)
    assert opened(tmp_path / "model.onnx", photos, tmp_path).preprocessing == own
    label(
        tmp_path / "model.onnx",
        name="tiny",
        classes=CLASSES,
        preprocessing=own.model_copy(update={"image_size": ImageSize(8, 8)}),
    )
    foreign = opened(tmp_path / "model.onnx", photos, tmp_path).preprocessing
    assert (foreign.geometry, foreign.resize_to, foreign.pixel_range) == ("torchvision", SIZE, None)


def test_the_resize_rule_is_said_and_may_be_chosen(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    photos = class_folders(tmp_path / "photos", {"a": 6})
    source = opened(tmp_path / "model.onnx", photos, tmp_path)
    assert any("rounded as torchvision does (--resize-rule)" in note for note in source.notes)
    chosen = opened(tmp_path / "model.onnx", photos, tmp_path, resize_rule="edgekit")
    assert chosen.preprocessing.geometry == "edgekit"
    with pytest.raises(EdgekitError, match="give a --resize of at least --size"):
        opened(tmp_path / "model.onnx", photos, tmp_path, resize=8)
