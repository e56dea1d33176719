"""Stages: complete ones are skipped, changed ones trained again, killed ones resumed to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from edgekit import recipe as recipes
from edgekit.data.splits import load_splits
from edgekit.errors import DataError, RecipeError, RunError
from edgekit.files import sha256
from edgekit.run import Run
from edgekit.train.evaluate import score_run
from edgekit.train.stages.pipeline import Report, train
from tests.helpers.earlier_names import with_earlier_names, write_earlier_record
from tests.helpers.patience import until
from tests.helpers.recipe_changes import TINY, changed


def tiny(**changes: object) -> recipes.Recipe:
    return recipes.parse(changed(TINY, **changes))


def outcomes(recipe: recipes.Recipe, folder: Path, **options: object) -> dict[str, str]:
    reports: list[Report] = []
    train(recipe, Run(folder), on_stage=reports.append, **options)
    return {report.stage: report.outcome for report in reports}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert set(outcomes(tiny(), folder).values()) == {"done"}
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_holds_what_the_design_says(trained: Path) -> None:
    for stage in ("pretrain", "finetune", "distill", "supervised"):
        assert {p.name for p in (trained / stage).iterdir()} >= {
            "stage.json",
            "model.json",
            "model.safetensors",
            "history.csv",
        }
        rows = (trained / stage / "history.csv").read_text().splitlines()
        assert len(rows) == 4
        assert not list((trained / stage).glob("*.ckpt"))
        assert list((trained / stage / "tensorboard").glob("events.*"))
    header = (trained / "pretrain" / "history.csv").read_text().splitlines()[0]
    assert {"epoch", "loss", "lr", "collapse_std", "effective_rank"} <= set(header.split(","))
    assert (trained / "pretrain" / "views.png").read_bytes().startswith(b"\x89PNG")
    assert recipes.load(trained / "recipe.yaml") == tiny()
    record = Run(trained).require("distill")
    assert record.inputs["from"] == sha256(trained / "finetune" / "model.safetensors")
    assert 0 <= record.metrics["test_top1"] <= 1


def test_every_batch_normalization_saw_every_step(trained: Path) -> None:
    """Networks train in training mode: each layer's counter is the number of steps, of this stage and those before it."""
    import safetensors.numpy

    # Pretraining takes whole batches alone; the others show every image: one step more an epoch of the same pool.
    steps = {"pretrain": 12, "finetune": 12 + 6, "distill": 15, "supervised": 6}
    for stage, expected in steps.items():
        weights = safetensors.numpy.load_file(trained / stage / "model.safetensors")
        counters = {int(v) for name, v in weights.items() if name.endswith("num_batches_tracked")}
        assert counters == {expected}, stage


def test_complete_stages_are_skipped_and_their_files_left_alone(copied: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in copied.glob("*/model.safetensors")}
    assert set(outcomes(tiny(), copied).values()) == {"skipped"}
    assert before == {p: p.stat().st_mtime_ns for p in copied.glob("*/model.safetensors")}


def test_stages_that_an_earlier_version_recorded_under_its_names_are_complete(copied: Path) -> None:
    recipe = copied / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(with_earlier_names(yaml.safe_load(recipe.read_text()))))
    renamed = {path.parent.name for path in copied.glob("*/stage.json") if write_earlier_record(path)}
    assert renamed == {"data", "pretrain", "finetune", "distill", "supervised"}
    assert set(outcomes(recipes.load(recipe), copied).values()) == {"skipped"}
    # A digest that does not belong to the recorded inputs is not made right by the translation.
    record = copied / "pretrain" / "stage.json"
    write_earlier_record(record)
    record.write_text(json.dumps({**json.loads(record.read_text()), "digest": "0" * 64}))
    with pytest.raises(RunError, match="pretrain was made from another recipe or other images"):
        score_run(Run(copied), load_splits(recipes.load(recipe).data))


def test_a_changed_stage_is_trained_again_with_what_follows_it_and_the_old_one_is_kept(copied: Path) -> None:
    before = sha256(copied / "finetune" / "model.safetensors")
    assert outcomes(tiny(finetune__epochs=4), copied) == {
        "data": "skipped", "pretrain": "skipped", "finetune": "done", "distill": "done", "supervised": "skipped",
    }  # fmt: skip
    assert sha256(copied / ".previous" / "finetune" / "model.safetensors") == before


def test_a_change_that_ends_in_the_same_place_trains_nothing(copied: Path) -> None:
    assert set(outcomes(tiny(hardware__threads=1), copied).values()) == {"skipped"}


def test_another_label_draw_keeps_the_pretraining(copied: Path) -> None:
    result = outcomes(tiny(data__label_seed=1), copied, until="pretrain")
    assert result == {"data": "done", "pretrain": "skipped"}


def test_stages_are_reused_from_another_run(trained: Path, tmp_path: Path) -> None:
    result = outcomes(tiny(data__label_seed=1), tmp_path / "new", reuse=[Run(trained)], until="pretrain")
    assert result["pretrain"] == "copied"
    assert sha256(tmp_path / "new" / "pretrain" / "model.safetensors") == sha256(
        trained / "pretrain" / "model.safetensors"
    )


def test_reusing_keeps_what_it_replaces(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    outcomes(tiny(seed=1), target, until="pretrain")
    before = sha256(target / "pretrain" / "model.safetensors")
    assert outcomes(tiny(), target, reuse=[Run(trained)], until="pretrain")["pretrain"] == "copied"
    assert sha256(target / ".previous" / "pretrain" / "model.safetensors") == before


def as_with_partial_batches_dropped(run: Path, stage: str) -> None:
    """Make a stage's record that of an edgekit which left an epoch's last partial batch out, and did not count its steps."""
    path = run / stage / "stage.json"
    record = json.loads(path.read_text())
    del record["metrics"]["steps"]
    path.write_text(json.dumps(record))


def test_a_stage_that_an_older_edgekit_trained_on_fewer_labels_is_kept_and_not_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(finetune__batch_size=64, supervised__batch_size=50)  # 100 labels: 36 beside the batch, or none
    outcomes(recipe, tmp_path / "old")
    for stage in ("finetune", "supervised"):
        as_with_partial_batches_dropped(tmp_path / "old", stage)
    capsys.readouterr()
    assert set(outcomes(recipe, tmp_path / "old").values()) == {"skipped"}
    assert (
        "finetune: kept as it is, though trained by an older edgekit, which left 36 of 100 labels out of each epoch"
        in capsys.readouterr().err
    )
    found = outcomes(recipe, tmp_path / "new", reuse=[Run(tmp_path / "old")])
    assert found == {
        "data": "copied",
        "pretrain": "copied",
        "finetune": "done",
        "distill": "copied",
        "supervised": "copied",
    }
    assert (
        f"finetune: not copied from {tmp_path / 'old'}: trained by an older edgekit, which left 36 of 100 labels"
        in capsys.readouterr().err
    )


def test_a_network_from_scratch_that_had_one_setting_is_not_copied_where_a_few_are_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = tiny(supervised__search=True)
    outcomes(searched, tmp_path / "old")
    path = tmp_path / "old" / "supervised" / "stage.json"
    record = json.loads(path.read_text())
    del record["metrics"]["search"], record["metrics"]["chosen"]  # as before there was a choice
    path.write_text(json.dumps(record))
    assert outcomes(searched, tmp_path / "new", reuse=[Run(tmp_path / "old")])["supervised"] == "done"
    assert "supervised: not copied" in capsys.readouterr().err
    assert "search" in Run(tmp_path / "new").require("supervised").metrics


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("years of work")
    with pytest.raises(RunError, match="is neither empty nor a run"):
        train(tiny(), Run(tmp_path))
    (tmp_path / ".lock").touch()  # a run, but somebody put a folder where a stage belongs
    with pytest.raises(RunError, match=r"data: holds files that edgekit did not write"):
        train(tiny(), Run(tmp_path))
    assert (tmp_path / "data" / "precious.txt").read_text() == "years of work"


@pytest.mark.parametrize("changes", [{"data__split_seed": 1}, {"finetune__epochs": 4}])
def test_old_models_are_not_scored_with_a_new_recipe(copied: Path, changes: dict[str, object]) -> None:
    from edgekit.data.splits import load_splits
    from edgekit.train.assess import evaluate

    recipe = tiny(**changes)
    evaluate(Run(copied), load_splits(tiny().data))
    outcomes(recipe, copied, until="finetune" if "finetune__epochs" in changes else "data")
    with pytest.raises(RunError, match=r"was made from another recipe or other images.*edgekit train"):
        evaluate(Run(copied), load_splits(recipe.data))


def test_the_same_recipe_gives_the_same_bits(trained: Path, tmp_path: Path) -> None:
    outcomes(tiny(), tmp_path / "again")
    for stage in ("pretrain", "finetune", "distill", "supervised"):
        name = Path(stage) / "model.safetensors"
        assert sha256(tmp_path / "again" / name) == sha256(trained / name), stage


@pytest.mark.extra
@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_a_killed_training_resumes_to_the_same_bits(stage: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of a stage, then the same command again, against a run that nobody disturbed."""
    recipe = tmp_path / "recipe.yaml"
    content = {**TINY, stage: {**TINY[stage], "epochs": 12}}  # type: ignore[dict-item]
    recipe.write_text(yaml.safe_dump(content))

    def command(run: str) -> list[str]:
        return [sys.executable, "-m", "edgekit", "train", str(recipe), "--run", str(tmp_path / run)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command("killed"), stdout=log, stderr=log)
        checkpoint = tmp_path / "killed" / stage / "last.ckpt"
        first = None
        while process.poll() is None:
            if checkpoint.exists():
                first = first or checkpoint.stat().st_mtime_ns
                if checkpoint.stat().st_mtime_ns != first:  # the second checkpoint: in the middle of the stage
                    process.send_signal(signal.SIGKILL)
                    break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    assert not (tmp_path / "killed" / stage / "stage.json").exists()
    done = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    assert f"{stage}: resumes from step" in done.stderr
    for name in ("pretrain", "finetune", "distill", "supervised"):
        for file in ("model.safetensors", "history.csv"):
            assert sha256(tmp_path / "killed" / name / file) == sha256(tmp_path / "whole" / name / file), (name, file)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extra)])
def test_a_stopped_training_says_by_what_and_the_next_run_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "pretrain": {**TINY["pretrain"], "epochs": 30}}))  # type: ignore[dict-item]
    command = [sys.executable, "-m", "edgekit", "train", str(recipe), "--run", str(tmp_path / "run")]
    command += ["--until", "pretrain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until((tmp_path / "run" / "pretrain" / "last.ckpt").exists, process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert "from its last checkpoint" in errors
    assert (tmp_path / "run" / "pretrain" / "last.ckpt").exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "pretrain: resumes from step" in again.stderr


def test_a_damaged_checkpoint_is_named_and_left(copied: Path) -> None:
    (copied / "pretrain" / "stage.json").rename(copied / "stage.json")
    started = {"digest": json.loads((copied / "stage.json").read_text())["digest"]}
    (copied / "pretrain" / "started.json").write_text(json.dumps(started))
    checkpoint = copied / "pretrain" / "last.ckpt"
    checkpoint.write_bytes(os.urandom(1000))
    with pytest.raises(RunError, match=r"last\.ckpt: damaged checkpoint.*delete it"):
        train(tiny(), Run(copied))
    assert checkpoint.stat().st_size == 1000


def test_damaged_weights_are_named(copied: Path) -> None:
    weights = copied / "finetune" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match=r"finetune/model\.safetensors: damaged"):
        train(tiny(), Run(copied))


def test_two_trainings_do_not_share_a_run(copied: Path) -> None:
    import fcntl

    with open(copied / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            train(tiny(), Run(copied))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain__batch_size": 5000}, r"pretrain\.batch_size is 5000, but the pool has 1\d\d\d images"),
        ({"distill__batch_size": 5000}, r"distill\.batch_size is 5000"),
        ({"pretrain__encoder__name": "resnet81", "pretrain__encoder__width": 1.0}, r"unknown network 'resnet81' .*resnet18"),
        ({"distill__student__name": "mobilenet_v3_small", "distill__student__width": 1.0, "distill__student__stem": "auto"},
         r"image_size: 16 px is too small for distill\.student mobilenet_v3_small, whose total stride is 32"),
        ({"distill__student__name": "mobilenet_v3_small", "distill__student__stem": "auto"}, r"has no width multiplier"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused_before_anything_is_trained(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises((DataError, RecipeError), match=message):
        train(tiny(**changes), Run(tmp_path / "run"))
    assert not list(tmp_path.glob("run/*/model.safetensors"))


def test_divergence_is_said_and_the_stage_not_called_complete(tmp_path: Path) -> None:
    from edgekit.train.loop.failures import Diverged

    recipe = tiny(
        pretrain__optimizer={"name": "sgd", "lr": 1e30, "warmup_epochs": 0, "weight_decay": 0.1}, pretrain__epochs=5
    )
    with pytest.raises(Diverged, match=r"pretrain: the loss is (nan|inf) in epoch \d.*lower pretrain\.optimizer\.lr"):
        train(recipe, Run(tmp_path / "run"))
    assert not (tmp_path / "run" / "pretrain" / "stage.json").exists()
