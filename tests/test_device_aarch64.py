"""The device side on aarch64: Debian's arm64 Python and the aarch64 wheels under user-mode emulation; nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.gallery.building import create
from tests.helpers import anomalies, exported
from tests.helpers.tiny_bundle import make_bundle, with_tflite

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "aarch64.py"


def emulated(folder: Path, require_tool: Callable[[str, str], str], *words: str | Path) -> dict[str, Any]:
    """Run the script; return its result file."""
    for tool in ("qemu-aarch64-static", "apt-get", "dpkg-deb", "uv"):
        require_tool(tool, "runs the aarch64 wheels here")
    output = folder / "result.json"
    command = [sys.executable, str(SCRIPT), *map(str, words), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().rpartition("\n")[2]
    if last.startswith("out of reach: "):
        pytest.skip(last)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    assert result["emulated"] is True
    assert result["machine"]["architecture"] == "aarch64"
    assert {"torch", "onnx", "lightning"}.isdisjoint(result["machine"]["packages"])
    return result


@pytest.mark.slow
def test_golden_tensors_are_proved_on_aarch64(tmp_path: Path, require_tool: Callable[[str, str], str]) -> None:
    """Downloads included, 60 s on one core: with the next one the only tests on the architecture of a Jetson or a Raspberry Pi."""
    made = {"onnx": ["fp32"], "openvino": ["fp16"], "litert": ["fp32", "int8"]}
    for target, precisions in made.items():  # one bundle
        exported.export(tmp_path / "bundle", targets=[target], precisions=precisions)
    result = emulated(tmp_path, require_tool, "--bundle", tmp_path / "bundle")
    outcomes = {row["variant"]: row["outcome"] for row in result["variants"]}
    assert outcomes == {f"{target}-{precision}": "proved" for target in made for precision in made[target]}
    assert all(row["agreement"] == 1 for row in result["variants"] if "int8" not in row["variant"])


def photographs(folder: Path) -> Path:
    """Images of four colors with noise, one folder a color."""
    random = np.random.default_rng(0)
    for name, color in {
        "red": (230, 20, 20),
        "green": (20, 200, 30),
        "blue": (20, 30, 230),
        "white": (240, 240, 240),
    }.items():
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(np.array(color) + random.normal(0, 25, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.extra
def test_galleries_and_heat_maps_are_the_same_on_aarch64(
    tmp_path: Path, require_tool: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gallery that was made here answers there; and of anomaly detectors the golden tensors hold scores and heat maps."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    parts, weights = anomalies.write_set(tmp_path / "parts"), anomalies.write_weights(tmp_path / "encoder.safetensors")
    words: list[str | Path] = []
    for method in ("patchcore", "padim"):
        run = edgekit.train(anomalies.recipe(parts, weights, method=method), run=tmp_path / method)
        for target, precision in (("onnx", "fp32"), ("openvino", "fp16")):  # one bundle
            edgekit.export(run, target=target, precision=precision, timing=False, jobs=1)
        words += ["--bundle", run.path / "export"]
    bundle = with_tflite(
        make_bundle(tmp_path / "embeds", embedding=True), "litert-fp32", "litert", "fp32", "model.tflite"
    )
    shop = photographs(tmp_path / "shop")
    create(bundle, shop).gallery.write(tmp_path / "shop.gallery")
    result = emulated(tmp_path, require_tool, *words, "--gallery", bundle.path, tmp_path / "shop.gallery", shop)
    proofs = [result, *result["others"]]
    assert len(proofs) == 3
    assert {row["outcome"] for proof in proofs for row in proof["variants"]} == {"proved"}
    (answers,) = (found["answers"] for found in result["galleries"])
    assert {row["variant"] for row in answers} == {variant.id for variant in bundle.manifest.variants}
    for row in answers:
        assert row["images"] == row["same"] == 24
        assert row["difference"] < 1e-3  # float32, and FP16 weights: the order of sums differs
