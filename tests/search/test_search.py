"""`edgekit search` as it is called: the whole way, killed and resumed, two processes on one storage, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit import search as edgekit_search
from edgekit.bundle import Bundle
from edgekit.claims import SharedWork
from edgekit.recipe import load
from edgekit.result import Result, Search
from edgekit.search.candidates import chosen_candidates
from edgekit.search.devices import ThisMachine, Turn
from edgekit.search.rounds import Halving, Scored, not_faster, ranked
from tests.helpers.patience import until
from tests.helpers.recipe_changes import TINY, changed

Run = Callable[..., tuple[int, str, str]]
RECIPE = changed(
    TINY,
    pretrain__epochs=1,
    pretrain__optimizer={"name": "sgd", "lr": 0.1, "warmup_epochs": 0},
    finetune={"epochs": 1, "batch_size": 50, "linear_first": True},
)
QUICK = ("--target", "onnx", "--precision", "fp32", "--threads", "1", "--seconds", "0.02", "--max-drop", "100")
STUDENTS = "{name: resnet10, width: [0.125, 0.25], stem: strided}"
FOLDER = Path("runs/tiny-search")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, which has a comment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEKIT_DEBUG", raising=False)
    Path("recipe.yaml").write_text(f"# how it began\n{yaml.safe_dump(RECIPE)}")
    return tmp_path


def test_a_budget_that_nothing_meets_names_the_nearest_and_is_kept(edgekit: Run, here: Path) -> None:
    arguments = [
        "search",
        "recipe.yaml",
        *QUICK,
        "--candidate",
        STUDENTS,
        "--candidate",
        "resnet9000",
        "--budget",
        "p50 < 1 ns",
    ]
    code, out, err = edgekit(*arguments, "--json")
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    found = Result.read(FOLDER / "search.json").measurement
    assert isinstance(found, Search)
    assert json.loads(out)["measurement"] == found.model_dump(mode="json", by_alias=True)
    fastest = min(found.candidates[:2], key=lambda c: c.variants[0].p50 or 0.0)
    assert f"the nearest is {fastest.name}, onnx-fp32: p50 " in line
    assert "limit 1 ns" in line
    assert found.nearest in line
    assert [bool(c.left_out) for c in found.candidates] == [True, True, True]
    assert "unknown network 'resnet9000'" in found.candidates[2].error
    assert "did you mean" in found.candidates[2].error
    assert not (FOLDER / "teacher").exists(), "nothing is trained for nothing"
    assert found.nearest in (FOLDER / "search.html").read_text()

    before = {path: path.read_bytes() for path in FOLDER.rglob("turn-*/*")}
    assert edgekit(*arguments)[0] == 1
    assert {path: path.read_bytes() for path in FOLDER.rglob("turn-*/*")} == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--budget", "p50 < 5"], "not of the form METRIC < NUMBER UNIT"),
        ([], "no budget"),
        (["--budget", "p50 < 5 ms", "--set", "data.labels=[]"], "data.labels"),
        (["--budget", "p50 < 5 ms", "--set", "hardware.devices=2"], "a search trains each candidate on one device"),
        (["--budget", "p50 < 5 ms", "--target", "micro"], "--target micro"),
        (
            ["--budget", "p50 < 5 ms", "--target", "onnx", "--precision", "fp16"],
            "no requested target has the precision fp16",
        ),
        (["--budget", "p50 < 5 ms", "--device", "nano"], "not an address"),
        (["--budget", "p50 < 5 ms", "--storage", "nowhere"], "--storage nowhere: not a storage"),
        (["--budget", "p50 < 5 ms", "--candidate", "{width: 1}"], "--candidate {width: 1}: not a candidate"),
        (["--budget", "p50 < 5 ms", "--image-size", "8"], "8 px is too small for pretrain.encoder resnet10"),
        (
            ["--budget", "p50 < 5 ms", "--candidate", "{name: resnet10, weights: nowhere.pth}"],
            "nowhere.pth: no such file",
        ),
        (
            ["--budget", "p50 < 5 ms", "--candidate", "{name: 'timm:lcnet_050.ra_in1k', weights: pretrained}"],
            "did you mean lcnet_050.ra2_in1k?",
        ),
        (
            ["--budget", "p50 < 5 ms", "--set", "distill.teachers=[{model: 'nowhere:teacher'}]"],
            "distill.teachers",
        ),
        (["--budget", "p50 < 5 ms", "--run", "recipe.yaml"], "recipe.yaml: is a file"),
        (["--budget", "p50 < 5 ms", "--run", "."], "neither empty nor a search"),
        (["--budget", "p50 < 5 ms", "--reuse", "nowhere"], "nowhere: no such run"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_trained(
    edgekit: Run, here: Path, arguments: list[str], told: str
) -> None:
    code, out, err = edgekit("search", "recipe.yaml", *arguments)
    assert code == 2
    assert told in err
    assert not out
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert not list(Path().glob("runs/*/teacher"))
    assert not list(Path().glob("runs/*/candidates/*")), "nor measured"


def test_what_a_machine_measured_before_it_died_is_not_measured_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are far over the budget, so that a turn of each is enough: the first machine stops before the second candidate's."""
    measured: list[str] = []
    real = ThisMachine.turn
    stop_before = [2]

    def turn(self: ThisMachine, bundle: Bundle, *rest: Any) -> Turn:
        if len(measured) + 1 in stop_before:
            raise KeyboardInterrupt
        measured.append(bundle.manifest.name)
        return real(self, bundle, *rest)

    monkeypatch.setattr(ThisMachine, "turn", turn)
    candidate = {"name": "resnet10", "width": [0.125, 0.25], "stem": "strided"}

    def search(folder: str) -> Search:
        result = edgekit_search(
            "recipe.yaml", budget="p50 < 1 ns", candidate=candidate, target="onnx", precision="fp32", threads=1, seconds=0.02,
            run=folder, storage="shared.db", gate=False,
        )  # fmt: skip
        assert isinstance(result.measurement, Search)
        return result.measurement

    with pytest.raises(KeyboardInterrupt):
        search("first")
    stop_before.clear()
    found = search("second")
    assert measured == ["resnet10-w0.125-strided-16", "resnet10-w0.25-strided-16"]
    assert [c.variants[0].turns for c in found.candidates] == [1, 1]


def test_a_device_that_is_not_there_is_one_line(
    edgekit: Run, here: Path, monkeypatch: pytest.MonkeyPatch, require_tool
) -> None:
    require_tool("ssh", "connects to a device")
    monkeypatch.setattr("edgekit.bench.remote.device.RETRY_SECONDS", ())
    arguments = ["--budget", "p50 < 5 ms", "--device", "ssh://127.0.0.1:1", "--candidate", STUDENTS]
    code, _, err = edgekit("search", "recipe.yaml", *QUICK, *arguments)
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: ssh://127.0.0.1:1: cannot be reached")
    assert "what was measured is kept: run the same command again to resume" in line


def test_rounds_grow_to_the_full_training_and_halve_what_is_left() -> None:
    assert Halving().epochs(27) == [3, 9]
    assert Halving(3, 2).epochs(100) == [12, 25, 50]
    assert Halving(2, 3).epochs(4) == [1]
    assert Halving(2, 3).epochs(1) == [1]
    assert [Halving().kept(count) for count in (1, 2, 3, 4, 30)] == [1, 1, 1, 2, 10]


def test_the_better_wins_and_of_equals_the_faster() -> None:
    scores = {
        "a": Scored(8, 10, 1.0),
        "b": Scored(9, 10, 1.0),
        "c": Scored(8, 10, 1.0),
        "d": Scored(0, 0, 1.0, "diverged"),
    }
    assert ranked(scores, {"a": 2.0, "b": 9.0, "c": 1.0, "d": 0.1}) == ["b", "c", "a"]


def test_a_narrower_network_that_is_no_faster_is_left_out() -> None:
    texts = ["{name: resnet18, width: [0.25, 0.5, 1]}", "resnet10"]
    listed = chosen_candidates(load_recipe(), texts)
    latency = {"resnet18-w0.25-16": 2.0, "resnet18-w0.5-16": 1.9, "resnet18-16": 5.0, "resnet10-16": 9.0}
    found = not_faster(listed, latency)
    assert list(found) == ["resnet18-w0.25-16"]
    assert "no faster than resnet18-w0.5-16" in found["resnet18-w0.25-16"]


def load_recipe():
    from edgekit.recipe import parse

    return parse(RECIPE)


def start(log: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a search of two students; what it says goes to a file."""
    command = [sys.executable, "-m", "edgekit", "search", "recipe.yaml", *QUICK, "--candidate", STUDENTS, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(log, "w") as err:
        return subprocess.Popen(
            [*command, "--budget", "p50 < 1000 s"], stdout=subprocess.PIPE, stderr=err, text=True, env=environment
        )


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finished(work: SharedWork) -> Counter[str]:
    """How often each part of a search was finished, by the names of its kind and the part."""
    import optuna
    from optuna.trial import TrialState

    storage = work.storage
    found: Counter[str] = Counter()
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        found.update(f"{name}: {t.user_attrs['key']}" for t in study.get_trials(states=[TrialState.COMPLETE]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extra)])
def test_a_signal_while_it_measures_ends_it_with_a_line_that_says_how_to_resume(here: Path, number: int) -> None:
    process = start("log")
    until(lambda: list(FOLDER.glob("candidates/*/turns/turn-*/turn.json")), process)
    process.send_signal(number)
    process.communicate()
    lines = [line for line in Path("log").read_text().splitlines() if line]
    assert process.returncode == 128 + number, lines
    assert lines[-2:] == [
        f"{FOLDER}: run the same command again to resume: what was measured and trained is kept",
        "interrupted",
    ]
    claims = SharedWork(str(FOLDER / "search.db")).kind(f"edgekit device {ThisMachine().name}")
    assert claims.claim(["device"]) is not None, "the device is free for the next process"


@pytest.mark.extra
def test_two_processes_killed_in_turn_measure_and_train_everything_once(here: Path) -> None:
    """One is killed while it measures, the other takes over; that one is killed while it trains, and a third one ends the search."""

    def turns() -> list[Path]:
        return list(FOLDER.glob("candidates/*/turns/turn-*/turn.json"))

    logs = ["first", "second"]
    processes = [start(log) for log in logs]
    until(turns, processes[0])
    kept = {path: path.read_bytes() for path in turns()}
    waits = ["waiting for its results" in Path(log).read_text() for log in logs]
    measuring, other = reversed(processes) if waits[0] else processes
    kill(measuring)
    work = SharedWork(str(FOLDER / "search.db"))
    until(lambda: any("edgekit rounds" in part for part in finished(work)), other)
    before = finished(work)
    third = start("third")
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(random.Random(os.getpid()).uniform(0, 3))  # wherever they are then
    kill(other)
    out, _ = third.communicate()
    assert third.returncode == 0, Path("third").read_text()

    after = finished(work)
    assert before
    assert all(after[part] == 1 for part in before), "what was finished is not done again"
    assert set(after.values()) == {1}, "nothing is done twice"
    assert {path: path.read_bytes() for path in kept} == kept
    assert "winner: resnet10-w0." in out

    found = Result.read(FOLDER / "search.json").measurement
    assert isinstance(found, Search)
    won = found.won()
    assert won is not None
    assert found.seconds["teacher"] > 0
    assert [v.id for v in won.variants] == ["onnx-fp32"]
    assert won.variants[0].ratio is not None
    text = (FOLDER / "winner.yaml").read_text()
    assert text.startswith("# how it began\n")
    student = load(FOLDER / "winner.yaml").distill.student
    assert {"name": student.name, "width": student.width, "stem": student.stem} == found.candidate(
        found.winner or ""
    ).student  # type: ignore[union-attr]
    assert (FOLDER / won.run / "export" / "bundle.json").is_file()
    [other] = [c for c in found.candidates if c.name != found.winner]
    assert other.left_out

    # Once more: nothing is left to do, and the answer is the same.
    again = start("again", "--json")
    out, _ = again.communicate()
    assert again.returncode == 0, Path("again").read_text()
    repeated = Search.model_validate(json.loads(out)["measurement"])
    assert repeated.winner == found.winner
    assert finished(work) == after
