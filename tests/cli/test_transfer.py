"""One encoder on several data sets: every number with its protocol, complete sets left alone, wrong folders refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit import recipe as recipes
from edgekit.data.images import ImageSet
from edgekit.result import Result, Transfer
from edgekit.run import Run
from edgekit.train.analysis.transfer import _validation
from edgekit.train.stages.pipeline import train
from tests.helpers import recipe_changes
from tests.helpers.recipe_changes import changed

Command = Callable[..., tuple[int, str, str]]

TINY = changed(
    recipe_changes.TINY,
    pretrain__epochs=1,
    pretrain__optimizer={"warmup_epochs": 0},
    finetune={"epochs": 2, "batch_size": 16},
    hardware={"accelerator": "cpu", "threads": 1},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(recipes.parse(TINY), Run(folder), until="pretrain")
    return folder


def painted(folder: Path, colors: dict[str, tuple[int, int, int]], count: int, seed: int = 0) -> Path:
    """Classes that differ by color alone, with noise."""
    rng = np.random.default_rng(seed)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(color) + rng.normal(0, 25, (20, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


COLORS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def test_two_sets_in_one_command_and_what_is_complete_is_left_alone(
    run: Path, edgekit: Command, tmp_path: Path
) -> None:
    alone = painted(tmp_path / "alone", COLORS, 15)
    painted(tmp_path / "divided" / "train", COLORS, 10, seed=1)
    painted(tmp_path / "divided" / "test", COLORS, 4, seed=2)
    code, _, errors = edgekit("transfer", run, alone)
    assert code == 0, errors
    first = {p: p.stat().st_mtime_ns for p in run.glob("transfer/*/linear/stage.json")}
    assert len(first) == 1

    code, text, errors = edgekit("transfer", run, alone, tmp_path / "divided", "--fine-tune", "--json")
    assert code == 0, errors
    assert {p: p.stat().st_mtime_ns for p in first} == first
    measured = Result.read(run / "transfer" / "transfer.json").measurement
    assert isinstance(measured, Transfer)
    assert json.loads(text)["measurement"] == json.loads(measured.model_dump_json())
    one, two = measured.sets
    assert (one.name, one.classes, one.train, one.test) == ("alone", 3, 36, 9)
    assert (two.name, two.classes, two.train, two.test) == ("divided", 3, 30, 12)
    assert "20% of each class held out" in one.split
    assert two.split == "its own train and test folders"
    for part in (one, two):
        assert [s.model for s in part.scores] == ["encoder", "random", "fine-tuned", "from scratch"]
        assert part.value("encoder") > 0.9  # colors are linear in nearly any features
        assert all(part.split in s.protocol and set(s.per_class or {}) == set(COLORS) for s in part.scores)
    assert "2 epochs, adamw" in one.scores[2].protocol

    # An interrupted set goes on: its fine-tuning is done again, everything else stays.
    stages = {p: p.stat().st_mtime_ns for p in run.glob("transfer/*/*/stage.json")}
    assert len(stages) == 6
    gone = next(p for p in stages if p.parts[-2] == "finetune" and p.parts[-3].startswith("divided"))
    gone.unlink()
    (gone.parent / "started.json").write_text(json.dumps({"digest": "0" * 64, "inputs": {}}))
    code, text, errors = edgekit("transfer", run, alone, tmp_path / "divided", "--fine-tune")
    assert code == 0, errors
    assert all((p.stat().st_mtime_ns == t) is (p != gone) for p, t in stages.items())
    assert "linear, random weights" in " ".join(text.replace("│", " ").split()) or "random weights" in text
    assert [s.value for s in Result.read(run / "transfer" / "transfer.json").measurement.sets[1].scores] == [
        s.value for s in two.scores
    ]

    # A record that somebody has edited is named, with what to do, and nothing is measured instead of it.
    record = next(iter(first))
    content = json.loads(record.read_text())
    del content["metrics"]["random"]["per_class"]
    record.write_text(json.dumps(content))
    code, _, errors = edgekit("transfer", run, alone)
    assert (code, errors.count("error: ")) == (2, 1)
    assert f"{record}: per_class: was not written by `edgekit transfer`" in errors
    assert f"delete {record.parent}" in errors


def test_the_validation_part_is_of_every_class_and_shares_nothing_with_what_is_fitted() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [2])
    images = ImageSet(
        np.zeros((16, 4, 4, 3), np.uint8), [f"{i}" for i in range(16)], [f"{i:032x}" for i in range(16)], labels
    )
    fitted, validation = _validation(images, 3, seed=0)
    assert sorted([*fitted.tolist(), *validation.tolist()]) == list(range(16))
    assert np.bincount(labels[validation.numpy()], minlength=3).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root / "none", "no such folder"),
        (lambda root: painted(root / "one", {"red": (200, 0, 0)}, 3), "holds only one class"),
        (lambda root: [(root / "empty").mkdir(), root / "empty"][1], "empty"),
    ],
)
def test_a_wrong_folder_is_refused_before_anything_is_measured(
    run: Path, edgekit: Command, tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    good = painted(tmp_path / "good", {"red": (200, 0, 0), "blue": (0, 0, 200)}, 6)
    before = set(run.glob("transfer/*"))
    code, _, errors = edgekit("transfer", run, good, make(tmp_path))
    assert (code, errors.count("error: ")) == (2, 1)
    assert said in errors
    assert set(run.glob("transfer/*")) == before


def test_a_run_without_pretraining_is_refused(edgekit: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    code, _, errors = edgekit("transfer", tmp_path / "run", "digits")
    assert (code, errors.count("error: ")) == (2, 1)
    assert "the stage pretrain is not complete" in errors
