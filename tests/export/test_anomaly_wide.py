"""A detector of images that are wider than high: heat maps at the images' own size in two runtimes, a report and a bench of its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import edgekit as package
from edgekit.recipe import dump, parse
from edgekit.tasks.anomaly import Verdict
from edgekit.tasks.heat_maps import at_own_size
from tests.helpers import anomalies

Command = Callable[..., tuple[int, str, str]]
OWN, SEEN = (100, 42), (24, 56)  # width and height of the files; height and width of what the model sees


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = anomalies.write_set(tmp_path_factory.mktemp("parts") / "parts")
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            wide = image.resize(OWN, Image.Resampling.NEAREST)
        wide.save(path)
    return folder


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> package.Bundle:
    folder = tmp_path_factory.mktemp("wide")
    content = yaml.safe_load(dump(anomalies.recipe(parts, anomalies.write_weights(folder / "encoder.safetensors"))))
    content["data"] |= {"image_size": list(SEEN), "fit": "stretch"}
    run = package.train(parse(content), run=folder / "run")
    return package.export(run, target=["onnx", "openvino"], precision="fp32", timing=False, jobs=1)


@pytest.mark.parametrize("variant", ["onnx-fp32", "openvino-fp32"])
def test_the_heat_map_finds_the_defect_at_the_images_own_size(
    variant: str, bundle: package.Bundle, parts: Path, tmp_path: Path, edgekit: Command
) -> None:
    recorded = bundle.variant(variant).accuracy
    assert recorded is not None
    assert recorded.figures["auroc"] > 0.95
    names = sorted((parts / "test/dark").iterdir())
    inside = []
    with package.load(bundle, variant=variant, threads=1) as model:
        for path in names:
            answer = model.predict(path)
            assert isinstance(answer, Verdict)
            assert answer.heat_map.shape == SEEN
            own = at_own_size(answer.heat_map, bundle.manifest.preprocessing, OWN)
            assert own.shape == OWN[::-1]
            row, column = np.unravel_index(int(own.argmax()), own.shape)
            mask = np.asarray(Image.open(parts / f"ground_truth/dark/{path.stem}_mask.png")) > 0
            # Patches lie 4 pixels of the model's apart, and each reaches into the next.
            around = mask[max(0, row - 7) : row + 8, max(0, column - 7) : column + 8]
            inside.append(bool(around.any()))
    assert np.mean(inside) > 0.8, "rows and columns are exchanged"
    code, out, _ = edgekit(
        "predict", bundle.path, parts / "test/dark", "--variant", variant, "--json", "--threads", 1, "--heatmap", tmp_path / "maps"
    )  # fmt: skip
    assert code == 0
    assert len(out.splitlines()) == len(names)
    for path in names:
        with Image.open(tmp_path / "maps" / path.name) as drawn:
            assert drawn.size == OWN


def test_a_detector_is_benched_and_reported(bundle: package.Bundle, edgekit: Command) -> None:
    run = bundle.path.parent
    code, out, errors = edgekit(
        "bench", bundle.path, "--quick", "--seconds", "0.05", "--batch", 1, "--batch", 2, "--threads", 1
    )
    assert code == 0, errors
    assert "onnx-fp32" in out
    assert "openvino-fp32" in out
    measured = [json.loads(path.read_text())["measurement"] for path in (run / "bench").rglob("*.json")]
    assert sorted((m["variant"], m["batch"]) for m in measured) == [
        (variant, batch) for variant in ("onnx-fp32", "openvino-fp32") for batch in (1, 2)
    ]
    assert all(m["samples_ns"] for m in measured)
    assert edgekit("evaluate", run)[0] == 0
    assert edgekit("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert 'id="anomalies"' in page
    assert "onnx-fp32" in page


def test_heat_maps_overwrite_no_image(bundle: package.Bundle, parts: Path, tmp_path: Path, edgekit: Command) -> None:
    """The heat map of a.png is a.png, too: in the images' own folder it took the image's place."""
    (tmp_path / "in").mkdir()
    with Image.open(parts / "test/dark/000.png") as image:
        image.save(tmp_path / "in" / "a.png")
    before = (tmp_path / "in" / "a.png").read_bytes()
    for images, folder in ((tmp_path / "in", "in"), (tmp_path / "in/a.png", "in"), (tmp_path, ".")):
        code, _, errors = edgekit("predict", bundle.path, images, "--heatmap", tmp_path / folder, "--threads", 1)
        assert code == 2
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "in/a.png is there already, and is not a heat map" in lines[0]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]
    assert (tmp_path / "in" / "a.png").read_bytes() == before
    for _ in range(2):  # an earlier heat map is replaced
        assert edgekit("predict", bundle.path, tmp_path / "in", "--heatmap", tmp_path / "maps", "--threads", 1)[0] == 0
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["a.png"]
