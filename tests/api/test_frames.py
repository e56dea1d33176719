"""Camera frames, which are not square: the whole way from training to predictions, in every runtime that is installed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.bench.golden import prove
from edgekit.bundle import Bundle
from edgekit.runtimes import load
from edgekit.sizes import ImageSize
from tests.helpers.image_folders import save

HEIGHT, WIDTH = 24, 32
TARGETS = ["onnx", "openvino", "litert", "micro"]


def frame(label: str, seed: int) -> Image.Image:
    """48 x 64 pixels of noise with a bright bar at the left or the right end, which a square in the center does not show."""
    pixels = np.random.default_rng(seed).integers(0, 120, (48, 64, 3), dtype=np.uint8)
    pixels[:, slice(0, 7) if label == "left" else slice(57, 64)] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> edgekit.Run:
    folder = tmp_path_factory.mktemp("frames")
    for i in range(80):
        label = ("left", "right")[i % 2]
        save(folder / "frames" / label / f"{i}.png", frame(label, i))
    plain = {"flip": 0.0, "crop_scale": [0.9, 1.0], "crop_ratio": [1.0, 1.0], "jitter": 0.0, "gray": 0.0}
    adamw = {"name": "adamw", "lr": 5e-3, "scale_lr": False}
    network = {"name": "resnet10", "width": 0.125, "stem": "strided"}
    stage = {"epochs": 12, "batch_size": 16, "optimizer": adamw, "augmentation": plain}
    recipe = {
        "name": "frames",
        "data": {"labeled": str(folder / "frames"), "image_size": [HEIGHT, WIDTH], "resize_to": 26, "labels": 12},
        "pretrain": {**stage, "encoder": network, "epochs": 2, "augmentation": {**plain, "rotate": 0.3, "cutout": 0.3}},
        "finetune": stage,
        "distill": {**stage, "student": network},
        "supervised": {"enabled": False},
        "hardware": {"accelerator": "cpu"},
    }
    return edgekit.train(recipe, run=folder / "run")


@pytest.fixture(scope="module")
def bundle(trained: edgekit.Run) -> Bundle:
    return edgekit.export(
        trained,
        target=TARGETS,
        precision=["fp32", "int8"],
        embedding=True,
        timing=False,
        few_images=True,
        max_drop=20,
        jobs=1,
    )


@pytest.mark.slow
def test_every_stage_sees_frames(trained: edgekit.Run) -> None:
    student = trained.student()
    assert student.image_size == ImageSize(HEIGHT, WIDTH)
    assert student.transform(frame("left", 1000)).shape == (3, HEIGHT, WIDTH)
    splits = json.loads((trained.path / "data/splits.json").read_text())
    assert (splits["pool"]["side"], splits["test"]["side"]) == ([26, 35], [HEIGHT, WIDTH])
    for stage in ("pretrain", "finetune", "distill"):
        assert json.loads((trained.path / stage / "model.json").read_text())["image_size"] == [HEIGHT, WIDTH]
    # What a square in the center does not show is learned: chance is 0.5.
    assert trained.require("distill").metrics["test_top1"] >= 0.9


@pytest.mark.slow
def test_every_runtime_gives_what_was_trained_and_predicts_files(bundle: Bundle, tmp_path: Path) -> None:
    manifest = bundle.manifest
    assert manifest.preprocessing.image_size == ImageSize(HEIGHT, WIDTH)
    assert manifest.input.shape == [None, HEIGHT, WIDTH, 3]
    golden = bundle.golden_outputs()
    assert golden["images"].shape[1:] == (HEIGHT, WIDTH, 3)
    assert {v.id.partition("-")[0] for v in manifest.variants} == set(TARGETS)
    frames = {label: save(tmp_path / f"{label}.png", frame(label, 2000)) for label in ("left", "right")}
    for variant in manifest.variants:
        assert variant.status == "verified", (variant.id, variant.note)
        session = load(bundle, variant)
        try:
            assert prove(session, variant, golden, 1, bundle.task).agreement >= 0.9, variant.id
        finally:
            session.close()
        with edgekit.load(bundle, variant=variant.id) as predictor:
            assert f"{HEIGHT} x {WIDTH} pixels" in repr(predictor)
            found = {label: predictor.predict(path).classes[0][0] for label, path in frames.items()}
            assert found == {"left": "left", "right": "right"}, variant.id
            with pytest.raises(edgekit.EdgekitError, match=rf"{HEIGHT}, {WIDTH}, 3"):
                predictor.predict_pixels(np.zeros((1, WIDTH, HEIGHT, 3), np.uint8))


@pytest.mark.slow
def test_another_resolution_has_the_same_shape(trained: edgekit.Run) -> None:
    smaller = edgekit.export(
        trained, target="onnx", precision="fp32", image_size=(18, 24), timing=False, max_drop=100, jobs=1
    )
    assert smaller.path.name == "export-18x24"
    assert smaller.manifest.preprocessing.resize_to == 20  # scaled with it
    assert smaller.manifest.input.shape == [None, 18, 24, 3]
