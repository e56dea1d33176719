"""The device side runs where nothing but the wheel and one runtime is installed."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import edgekit.bench
import edgekit.gallery
import edgekit.report
import edgekit.runtimes
from tests.helpers.source_tree import source_tree
from tests.helpers.tiny_bundle import make_bundle, some_images

TRAINING = ("torch", "torchvision", "timm", "lightning", "onnx", "sklearn", "safetensors", "nncf", "scipy", "pandas")
CONTRACTS = [
    "edgekit.archive", "edgekit.errors", "edgekit.files", "edgekit.machine", "edgekit.preprocess", "edgekit.progress", "edgekit.recipe",
    "edgekit.bundle", "edgekit.result", "edgekit.run", "edgekit.targets", "edgekit.cli.bench", "edgekit.cli.predict", "edgekit.cli.report",
    "edgekit.cli.doctor", "edgekit.cli.gallery",
]  # fmt: skip


def modules_of(package: object) -> list[str]:
    name = package.__name__  # type: ignore[attr-defined]
    return [name, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{name}."))]  # type: ignore[attr-defined]


def loaded_by(code: str) -> set[str]:
    """The top-level packages that are in memory after running some code in a fresh interpreter."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("room", ["contracts", "runtimes", "bench", "gallery", "report"])
def test_no_module_of_the_device_side_loads_the_training_stack(room: str) -> None:
    names = {
        "contracts": CONTRACTS,
        "runtimes": modules_of(edgekit.runtimes),
        "bench": modules_of(edgekit.bench),
        "gallery": modules_of(edgekit.gallery),
        "report": modules_of(edgekit.report),
    }[room]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert loaded.isdisjoint(TRAINING)
    assert "edgekit" in loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["bench", "--help"],
        ["export", "--help"],
        ["predict", "--help"],
        ["gallery", "create", "--help"],
        ["--version"],
    ],
)
def test_help_loads_next_to_nothing(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['edgekit', *{arguments}]\nfrom edgekit.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    assert loaded_by(code).isdisjoint({*TRAINING, "numpy", "pydantic", "PIL", "onnxruntime", "openvino", "yaml"})


def test_predicting_imports_nothing_that_it_may_not_need() -> None:
    loaded = loaded_by("import edgekit; edgekit.Predictor, edgekit.Bundle")
    assert loaded.isdisjoint({"PIL", "click", "rich", "yaml", "onnxruntime", "openvino", *TRAINING})


def test_opening_a_bundle_loads_no_runtime(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "export", openvino=False).path
    loaded = loaded_by(f"from edgekit.bundle import Bundle; Bundle.open({str(folder)!r})\nimport edgekit.runtimes")
    assert loaded.isdisjoint({"onnxruntime", "openvino", *TRAINING})


@pytest.mark.slow
def test_bench_and_predict_where_there_is_no_torch(
    tmp_path: Path, require_tool: Callable[[str, str], str], record_property: Callable[[str, object], None]
) -> None:
    """Build the wheel, install it with [ort] alone into a fresh environment, and do there what a device does."""
    uv = require_tool("uv", "builds the wheel and makes the environment without torch")
    root = Path(__file__).parents[1]
    source = source_tree(tmp_path / "source")
    run(uv, "build", "--wheel", "--out-dir", str(tmp_path / "dist"), str(source))
    wheel = next((tmp_path / "dist").glob("*.whl"))
    run(uv, "venv", "--python", sys.executable, str(tmp_path / "device"))
    python = str(tmp_path / "device" / "bin" / "python")
    installed = run(uv, "pip", "install", "--python", python, f"{wheel}[ort]", check=False)
    if installed.returncode != 0 and "failed to fetch" in installed.stderr.lower():
        pytest.skip(f"no package index within reach: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    for name in (*TRAINING, "openvino"):
        found = run(python, "-c", f"import importlib.util as u; print(u.find_spec({name!r}))", cwd=tmp_path)
        assert found.stdout == "None\n", f"{name} is installed"

    bundle = make_bundle(tmp_path / "bundle").path
    Image.fromarray(some_images(1)[0]).resize((50, 40)).save(tmp_path / "photo.jpg")
    edgekit = str(tmp_path / "device" / "bin" / "edgekit")
    predicted = run(edgekit, "predict", str(bundle), "photo.jpg", "--json", cwd=tmp_path)
    assert json.loads(predicted.stdout)["variant"] == "onnx-fp32"
    measured = run(edgekit, "bench", str(bundle), "--quick", "--json", "--output", "out", cwd=tmp_path)
    content = json.loads(measured.stdout)
    assert [row["variant"] for row in content["results"]] == ["onnx-fp32"]
    assert "openvino is not installed" in content["left_out"][0]["reason"]
    assert (tmp_path / "out" / "onnx-fp32-b1.json").is_file()

    for command, missing in (("export", "onnx is not installed"), ("train", "torch is not installed")):
        refused = run(edgekit, command, str(root / "examples" / "digits.yaml"), cwd=tmp_path, check=False)
        assert refused.returncode == 2
        assert missing in refused.stderr
        assert "install edgekit's wheel with the extra" in refused.stderr
    assert not (tmp_path / "runs").exists()

    size = sum(p.stat().st_size for p in (tmp_path / "device" / "lib").rglob("*") if p.is_file())
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        run(edgekit, "--help")
        seconds.append(time.perf_counter() - began)
    figures = {
        "wheel_kb": round(wheel.stat().st_size / 1e3),
        "installed_mb": round(size / 1e6),
        "help_s": round(sorted(seconds)[2], 3),
        "import_ms": round(content["results"][0]["stages_ms"]["import"]),
    }
    print(f"\ndevice side with [ort]: {figures}")
    for name, value in figures.items():
        record_property(name, value)


def run(*command: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done
