"""A training that was interrupted and finds other inputs than it began with: refused, its checkpoint untouched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edgekit import recipe as recipes
from edgekit.errors import DataError, RunError
from edgekit.files import sha256
from edgekit.run import Run
from tests.helpers.earlier_names import write_earlier_record
from tests.helpers.image_folders import class_folders
from tests.helpers.recipe_changes import changed

pytest.importorskip("torch")

from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.records.folders import complete
from edgekit.train.records.unfinished import STARTED, check_unfinished

INPUTS: dict[str, Any] = {
    "pool": "a" * 64,
    "config": {"epochs": 100, "optimizer": {"lr": 0.3, "name": "lars"}},
    "seed": 0,
    "pixels": {"preprocessing": {"image_size": 32}, "mean": 0.5},
    "training_version": 3,
}
IMAGES = {"pool": 45_000, "labeled": 450}


class Stopped(Exception):
    """What interrupts the training."""


def begin(run: Run, stage: str = "pretrain", inputs: dict[str, Any] = INPUTS, checkpoint: bool = True) -> Path:
    """A stage that stops after its first checkpoint."""

    def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
        (folder / "history.csv").write_text("epoch\n1\n")
        if checkpoint:
            (folder / CHECKPOINT).write_bytes(b"hours of work")
        raise Stopped

    with pytest.raises(Stopped):
        complete(run, stage, inputs, make, (), IMAGES)
    return run.stage_path(stage)


def finish(folder: Path) -> tuple[list[str], dict[str, Any]]:
    (folder / "model.safetensors").write_bytes(b"weights")
    return ["model.safetensors"], {}


def refused(run: Run, inputs: dict[str, Any], images: dict[str, int] = IMAGES, stage: str = "pretrain") -> RunError:
    folder = run.stage_path(stage)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunError) as caught:
        complete(run, stage, inputs, finish, (), images)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "\n" not in str(caught.value)
    assert "its last checkpoint was not changed" in caught.value.message
    assert caught.value.hint == (
        f"undo the change and run the same command again to resume, or delete {folder} to start again, or choose another --run"
    )
    return caught.value


@pytest.mark.parametrize(
    ("changes", "images", "said"),
    [
        ({"pool": "b" * 64}, {"pool": 44_990}, "the pool had 45,000 images and has 44,990"),
        ({"pool": "b" * 64}, {"pool": 45_000}, "the pool has 45,000 images as before, but not the same"),
        ({"pool": "b" * 64}, {}, "the pool has other images"),
        ({"config__epochs": 50}, {}, "pretrain.epochs was 100 and is 50"),
        ({"config__optimizer__name": "sgd", "seed": 1}, {}, 'pretrain.optimizer.name was "lars" and is "sgd"; seed was 0 and is 1'),
        ({"pixels__preprocessing__image_size": 64}, {}, "data.image_size was 32 and is 64"),
        ({"pixels__mean": 0.4}, {}, "data.mean was 0.5 and is 0.4"),
        ({"training_version": 4}, {}, "this version of edgekit trains other weights from the same recipe"),
        ({"config__added": True}, {}, "pretrain.added was not set and is true"),
        (
            {"pool": "b", "seed": 1, "config__epochs": 1, "pixels__mean": 0.1, "config__optimizer__lr": 1.0},
            {"pool": 1},
            "the pool had 45,000 images and has 1; pretrain.epochs was 100 and is 1; pretrain.optimizer.lr was 0.3 and is 1.0; and 2 more",
        ),
    ],
)  # fmt: skip
def test_the_refusal_says_what_changed(
    tmp_path: Path, changes: dict[str, Any], images: dict[str, int], said: str
) -> None:
    run = Run(tmp_path)
    begin(run)
    error = refused(run, changed(INPUTS, **changes), images)
    assert error.message == (
        f"{tmp_path}/pretrain: the unfinished training was started with other inputs: {said}; its last checkpoint was not changed"
    )


def test_what_was_changed_back_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    folder = begin(run)
    refused(run, changed(INPUTS, config__epochs=50))

    def resume(path: Path) -> tuple[list[str], dict[str, Any]]:
        assert (path / CHECKPOINT).read_bytes() == b"hours of work"
        return finish(path)

    assert complete(run, "pretrain", INPUTS, resume, (), IMAGES)[0] == "done"
    assert not (folder / CHECKPOINT).exists()


def test_a_training_without_a_checkpoint_has_nothing_to_lose(tmp_path: Path) -> None:
    run = Run(tmp_path)
    folder = begin(run, checkpoint=False)
    assert complete(run, "pretrain", changed(INPUTS, seed=1), finish, ())[0] == "done"
    assert not (folder / "history.csv").exists()


def test_without_knowing_what_it_began_with_it_is_refused_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (begin(run) / STARTED).write_text("{")
    assert "started.json, the record of its inputs, is damaged" in refused(run, INPUTS).message


def test_a_training_that_an_earlier_version_began_goes_on_under_todays_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    inputs = {
        **INPUTS,
        "labeled": "c" * 64,
        "config": {"images": "both", "labeled_weight": 0.5, "augmentation": {"gray": 0.2}},
    }
    folder = begin(run, "distill", inputs)
    assert write_earlier_record(folder / STARTED)
    written = (folder / STARTED).read_text()
    assert "labelled_weight" in written  # codespell:ignore
    assert '"grey"' in written
    check_unfinished(run, ["distill"], lambda stage: inputs, IMAGES)
    # What changed since is said with today's names and the numbers of images that the file holds.
    message = refused(run, changed(inputs, labeled="d" * 64, config__labeled_weight=0.1), stage="distill").message
    assert "the label budget has 450 images as before, but not the same" in message
    assert "distill.labeled_weight was 0.5 and is 0.1" in message
    went_on = []

    def make(folder: Path) -> tuple[list[str], dict[str, Any]]:
        went_on.append((folder / CHECKPOINT).read_bytes())
        return finish(folder)

    assert complete(run, "distill", inputs, make, (), IMAGES)[0] == "done"
    assert went_on == [b"hours of work"]


def test_a_complete_copy_does_not_replace_an_unfinished_training_of_other_inputs(tmp_path: Path) -> None:
    source, run = Run(tmp_path / "source"), Run(tmp_path / "target")
    other = changed(INPUTS, seed=1)
    complete(source, "pretrain", other, finish, ())
    begin(run)
    with pytest.raises(RunError, match="seed was 0 and is 1"):
        complete(run, "pretrain", other, finish, [source])
    assert (run.stage_path("pretrain") / CHECKPOINT).read_bytes() == b"hours of work"


@pytest.mark.parametrize("later", ["finetune", "distill"])
def test_a_later_stage_is_refused_before_an_earlier_one_is_trained_again(tmp_path: Path, later: str) -> None:
    run, stages = Run(tmp_path), ["pretrain", "finetune", "distill", "supervised"]
    inputs = {stage: changed(INPUTS, seed=i) for i, stage in enumerate(stages)}
    for stage in stages[: stages.index(later)]:
        complete(run, stage, inputs[stage], finish, ())
    begin(run, later, inputs[later])
    check_unfinished(run, stages, lambda stage: inputs[stage], IMAGES)
    inputs["pretrain"] = changed(INPUTS, config__epochs=7)
    with pytest.raises(
        RunError,
        match=rf"{later}: .* started from weights that would be trained again: pretrain\.epochs was 100 and is 7",
    ):
        check_unfinished(run, stages, lambda stage: inputs[stage], IMAGES)
    check_unfinished(run, stages[: stages.index(later)], lambda stage: inputs[stage], IMAGES)
    (run.stage_path(later) / CHECKPOINT).unlink()
    again = check_unfinished(run, stages, lambda stage: inputs[stage], IMAGES)
    assert again == dict.fromkeys(stages[: stages.index(later)], "pretrain.epochs was 100 and is 7")


RECIPE = {
    "name": "tiny",
    "data": {"labeled": "photos", "pool": "pool", "image_size": 16, "labels": 4, "stream": True},
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "projection": {"output": 16},
        "epochs": 4,
        "batch_size": 20,
        "optimizer": {"name": "sgd", "lr": 0.02, "warmup_epochs": 0},
    },
    "finetune": {"epochs": 1, "batch_size": 8, "optimizer": {"warmup_epochs": 0}},
    "distill": {
        "student": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "epochs": 1,
        "batch_size": 20,
        "optimizer": {"warmup_epochs": 0},
    },
    "supervised": {"enabled": False},
    "hardware": {"accelerator": "cpu", "checkpoint_seconds": 0, "threads": 1},
}


@pytest.mark.slow
def test_a_pool_that_shrinks_while_it_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file vanishes: a clear line. It stays away: refused. It comes back: the same bits as if nothing had been."""
    from edgekit.train.stages import pipeline as stages
    from edgekit.train.stages.pipeline import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    class_folders(Path("photos"), {"a": 10, "b": 10})
    class_folders(Path("pool"), {"x": 60})
    victim = Path("pool/x/007.png")
    content = victim.read_bytes()
    recipe = recipes.parse(RECIPE)
    real = stages.shuffled

    def shuffled(*args: Any) -> Any:
        batches = real(*args)
        stream = batches.stream

        def disturbed(start: int) -> Iterator[Any]:
            yield from islice(stream(start), 4)  # one epoch and a step
            victim.unlink()
            yield from stream(start + 4)

        batches.stream = disturbed
        return batches

    monkeypatch.setattr(stages, "shuffled", shuffled)
    with pytest.raises(DataError, match=r"pool/x/007\.png: changed while it was in use: no such file"):
        train(recipe, Run("run"), until="pretrain")
    monkeypatch.setattr(stages, "shuffled", real)
    checkpoint = Path("run/pretrain") / CHECKPOINT
    kept = sha256(checkpoint)
    recorded = {p: p.read_bytes() for p in Path("run").rglob("*.json")}
    with pytest.raises(RunError, match=r"run/pretrain: .* the pool had 60 images and has 59; its last checkpoint"):
        train(recipe, Run("run"))
    assert sha256(checkpoint) == kept
    assert {p: p.read_bytes() for p in Path("run").rglob("*.json")} == recorded  # not even the data stage
    victim.write_bytes(content)
    os.utime(victim, ns=(1, 1))
    train(recipe, Run("run"))
    train(recipes.parse(changed(RECIPE, data__stream=False)), Run("undisturbed"))
    for stage in ("pretrain", "finetune", "distill"):
        assert sha256(Path("run") / stage / "model.safetensors") == sha256(
            Path("undisturbed") / stage / "model.safetensors"
        ), stage
    outcomes: list[str] = []
    train(
        recipes.parse(changed(RECIPE, data__stream=False)),
        Run("run"),
        on_stage=lambda report: outcomes.append(report.outcome),
    )
    assert set(outcomes) == {"skipped"}  # streamed or not, it is the same run
    assert json.loads(Path("run/data/stage.json").read_text())["metrics"]["images"]["pool"] == 60
