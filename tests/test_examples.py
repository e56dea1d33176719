"""The scripts in examples/ and the blocks of docs/python.md, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, script: str, *arguments: object) -> str:
    """What a script prints, run in a folder as a user would."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "EDGEKIT_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("examples")
    return folder, run(folder, "train_from_python.py", "--quick")


@pytest.mark.slow
def test_train_from_python(trained: tuple[Path, str]) -> None:
    folder, said = trained
    for stage in ("data", "pretrain", "finetune", "distill", "supervised"):
        assert f"{stage}: done" in said
    assert re.search(r"student, top1: [\d.]+ %", said)
    for name in ("evaluate/evaluation.json", "export/bundle.json", "report.html"):
        assert (folder / "runs/digits" / name).is_file()


@pytest.mark.slow
def test_the_application_on_the_device(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / name)
    said = run(folder, "application.py", "runs/digits/export", "a.png", "b.png")
    assert "<Predictor digits: onnx-fp32, 10 classes, 16 x 16 pixels>" in said
    assert re.search(r"^a\.png: \d+ \(\d+ %\)$", said, re.M)
    assert "skipped: <bytes>: not an image" in said


@pytest.mark.slow
def test_the_encoder_in_ones_own_pytorch(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    said = run(folder, "encoder_in_pytorch.py", "runs/digits")
    found = re.search(r"even or odd: (\d+) %", said)
    assert found is not None
    assert int(found[1]) > 60  # chance is 50; the features of even a short pretraining say more


@pytest.mark.slow
def test_the_blocks_of_the_documentation(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/python.md, block by block as it stands, in a folder that holds what it names."""
    folder, _ = trained
    shutil.copy(ROOT / "examples" / "digits.yaml", folder / "recipe.yaml")
    for name in ("photos", "sorted/cat", "sorted/dog"):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(np.random.default_rng(len(name)).integers(0, 256, (12, 20, 24, 3), np.uint8)):
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shutil.copy(folder / "photos" / "0.png", folder / "photo.jpg")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    state: dict[str, object] = {"__name__": "documentation"}
    for i, block in enumerate(blocks):
        exec(compile(block, block, "exec"), state)
        if i == 0:
            assert capsys.readouterr().out.startswith("[('0', 0."), "the first prediction that a user sees is wrong"
