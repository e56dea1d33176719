"""Several processes train one run: the same commands, resumed, killed, and asked for what cannot be."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.click_runner import as_command
from tests.helpers.patience import until
from tests.helpers.processes import kill_alone
from tests.helpers.recipe_changes import TINY, changed

TWO = changed(TINY, finetune__batch_size=48, supervised__batch_size=48)


def edgekit(recipe: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", "train", str(recipe), *arguments]


def written(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TWO, **changes)))
    return path


def processes_of(parent: int) -> list[int]:
    """Children that are Python processes of the training."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    run = tmp_path / "run"
    command = edgekit(recipe, "--run", str(run), "--devices", "2")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        sum(line.startswith("pretrain ") for line in done.stdout.splitlines()) == 1
    )  # the second process says nothing
    with open(run / "pretrain" / "history.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    again = subprocess.run(edgekit(recipe, "--run", str(run)), check=False, capture_output=True, text=True)
    assert again.stdout.count("up to date") == 5  # hardware is no input of any stage


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_no_process_outlives_the_command_that_is_killed_alone(tmp_path: Path) -> None:
    recipe, run = written(tmp_path, pretrain__epochs=1000), tmp_path / "run"
    command = edgekit(recipe, "--run", str(run), "--devices", "2", "--until", "pretrain")
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    had = kill_alone(training, lambda found: (run / "pretrain" / "last.ckpt").exists())
    assert len(had) >= 2


@pytest.mark.extra
def test_a_killed_process_stops_the_others_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = written(tmp_path, pretrain__epochs=40)
    run = tmp_path / "run"
    command = edgekit(recipe, "--run", str(run), "--devices", "2", "--until", "pretrain")
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until((run / "pretrain" / "last.ckpt").exists, training)
    workers = processes_of(training.pid)
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = training.communicate()
    assert training.returncode == 1
    assert "was killed by SIGKILL; the others were stopped (run the same command again" in errors
    assert "Traceback" not in errors
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "pretrain: resumes from step" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--devices", "2", "--nodes", "2"], {}, "2 machines with 2 devices each, but this process was started alone"),
        (
            [],
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            "2 processes were started, but the recipe needs 1",
        ),
    ],
)
def test_other_processes_than_asked_for_are_refused(
    arguments: list[str], environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, errors = as_command(
        ["train", str(written(tmp_path)), "--run", str(tmp_path / "run"), *arguments], monkeypatch, capsys
    )
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
