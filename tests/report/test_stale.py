"""A run whose stages no longer belong together: the report shows nothing of what was made before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Command = Callable[..., tuple[int, str, str]]
NETWORK = {"name": "resnet10", "width": 0.125}
SHORT = {"epochs": 1, "optimizer": {"warmup_epochs": 0}}
RECIPE = {
    "name": "tiny",
    "data": {"labeled": "digits", "labels": 3, "image_size": 8},
    "pretrain": {"encoder": NETWORK, "batch_size": 256, **SHORT},
    "finetune": {"epochs": 1, "consistency": None},
    "distill": {"student": NETWORK, "batch_size": 256, **SHORT},
    "supervised": {"enabled": False},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgekit: Command) -> Path:
    """Complete, evaluated and exported."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for words in (
        "train recipe.yaml",
        "evaluate runs/tiny",
        "export runs/tiny --target onnx --precision fp32 --max-drop 50",
    ):
        code, _, errors = edgekit(*words.split())
        assert code == 0, errors
    return Path("runs/tiny")


def shown(run: Path, edgekit: Command) -> dict[str, Any]:
    code, text, errors = edgekit("report", run, "--json")
    assert code == 0, errors
    content: dict[str, Any] = json.loads(text)
    return content


def test_only_what_belongs_together_is_shown(run: Path, edgekit: Command) -> None:
    before = shown(run, edgekit)
    assert {gap["part"] for gap in before["missing"]} == {"bench"}
    assert before["student_top1"] is not None

    code, _, errors = edgekit("train", "recipe.yaml", "--set", "data.labels=5", "--until", "data")
    assert code == 0
    assert "note: runs/tiny: data.labels was 3 and is 5" in errors
    assert "made again: data (to keep them, choose another run folder)" in errors
    mixed = shown(run, edgekit)
    assert {gap["part"]: gap["why"] for gap in mixed["missing"] if gap["part"] != "bench"} == {
        "finetune": "the stage finetune was made from other labels than those of the stage data",
        "distill": "the stage distill was made from an earlier finetune",
        "evaluate": "the evaluation is of other models or test images than the run now has",
        "export": "the bundle is of another model than the run now has",
    }
    assert mixed["student_top1"] is mixed["int8_top1"] is mixed["size_bytes"] is None

    code, _, errors = edgekit("train", "recipe.yaml", "--until", "data")
    assert code == 0
    assert shown(run, edgekit)["missing"] == before["missing"], "the same images again, so all belongs together again"

    code, _, errors = edgekit("train", "recipe.yaml", "--set", "distill.epochs=2")
    assert code == 0
    assert "distill.epochs was 1 and is 2: made again: distill" in errors
    assert {gap["part"] for gap in shown(run, edgekit)["missing"]} == {"evaluate", "export", "bench"}
    assert edgekit("evaluate", run)[0] == 0
    assert {gap["part"] for gap in shown(run, edgekit)["missing"]} == {"export", "bench"}
