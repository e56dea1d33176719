"""What killed processes leave: known by its name, removed by the next command; a live one's and the user's files stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

from edgekit.errors import RunError
from edgekit.files import write_text
from edgekit.run import Run
from edgekit.temporary import remove_debris, scratch_folder, temporary_folder
from edgekit.train.loop.checkpoint import read_checkpoint
from edgekit.train.records.folders import complete, only_one
from edgekit.train.records.unfinished import STARTED, after_interrupt, write_started
from tests.helpers.click_runner import as_command
from tests.helpers.recipe_changes import TINY


def _killed_at(operation: str, code: str, folder: Path) -> None:
    """Run code in a process that kills itself just before the operation, as a power cut would."""
    script = f"""
        import os, signal
        def kill(*arguments, **options): os.kill(os.getpid(), signal.SIGKILL)
        {operation} = kill
        from pathlib import Path
        folder = Path({str(folder)!r})
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("operation", ["os.replace", "os.fsync", "os.chmod"])
def test_a_kill_before_the_rename_leaves_what_the_next_write_removes(operation: str, tmp_path: Path) -> None:
    write_text(tmp_path / "file.json", "old")
    _killed_at(operation, "from edgekit.files import write_text; write_text(folder / 'file.json', 'new')", tmp_path)
    assert (tmp_path / "file.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    mine = [tmp_path / ".file.json.tmp", tmp_path / ".file.json.notes.tmp", tmp_path / "file.json.abcdefgh.tmp"]
    for path in mine:
        path.write_text("the user's")
    write_text(tmp_path / "file.json", "new")
    assert (tmp_path / "file.json").read_text() == "new"
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file.json", *mine])


def test_a_stage_that_was_killed_before_it_began_can_begin(tmp_path: Path) -> None:
    """SIGKILL between the creation and the rename of started.json made a run unusable for ever."""
    run = Run(tmp_path / "run")
    _killed_at(
        "os.replace",
        "from edgekit.train.records.unfinished import write_started; write_started(folder / 'run' / 'data', {}, {})",
        tmp_path,
    )
    left = list(run.stage_path("data").iterdir())
    assert [path.name.startswith(f".{STARTED}.") for path in left] == [True]
    outcome, record = complete(run, "data", {"a": 1}, _make, [])
    assert outcome == "done"
    assert sorted(path.name for path in run.stage_path("data").iterdir()) == ["out.txt", "stage.json"]
    assert run.require("data") == record


def test_debris_beside_the_stages_does_not_make_a_folder_somebody_elses(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    _killed_at(
        "os.replace", "from edgekit.files import write_text; write_text(folder / 'run' / 'recipe.yaml', 'x')", tmp_path
    )
    with only_one(run):
        assert [path.name for path in run.path.iterdir()] == [".lock"]


def test_the_users_file_beside_an_unfinished_training_is_not_deleted(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    folder = run.stage_path("data")
    write_started(folder, {"a": 1}, {})
    (folder / "notes.txt").write_text("the user's")
    with pytest.raises(RunError, match=r"holds notes\.txt, which edgekit did not write"):
        complete(run, "data", {"a": 2}, _make, [])
    assert (folder / "notes.txt").read_text() == "the user's"
    (folder / "notes.txt").unlink()
    assert complete(run, "data", {"a": 2}, _make, [])[0] == "done"


def test_the_users_file_in_a_stage_survives_every_change_of_its_inputs(tmp_path: Path) -> None:
    """A stage that is trained again moves to .previous with all that is in it; the next change deleted that."""
    run = Run(tmp_path / "run")
    complete(run, "data", {"a": 1}, _make, [])
    (run.stage_path("data") / "notes.txt").write_text("the user's")
    for value in (2, 3, 4, 5):
        assert complete(run, "data", {"a": value}, _make, [])[0] == "done"
    assert [path.read_text() for path in run.path.rglob("notes.txt")] == ["the user's"]
    assert len([path for path in (run.path / ".previous").iterdir() if not (path / "notes.txt").exists()]) == 1


def test_a_complete_stage_keeps_no_checkpoint_of_a_killed_process(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    complete(run, "data", {"a": 1}, _make, [])
    write_started(run.stage_path("data"), {"a": 1}, {})
    (run.stage_path("data") / "last.ckpt").write_bytes(b"x")
    assert complete(run, "data", {"a": 1}, _make, [])[0] == "skipped"
    assert sorted(path.name for path in run.stage_path("data").iterdir()) == ["out.txt", "stage.json"]


def _make(folder: Path) -> tuple[list[str], dict[str, object]]:
    (folder / "out.txt").write_text("made")
    return ["out.txt"], {}


def test_scratch_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = """
        from edgekit.temporary import scratch_folder
        with scratch_folder("export") as scratch:
            (scratch / "large").write_bytes(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    _killed_at("os.nothing", code, tmp_path)
    (dead,) = tmp_path.iterdir()
    others = [tmp_path / "edgekit-notes", tmp_path / "edgekit-export-abcdefgh", tmp_path / "other.abcdefgh.tmp"]
    for path in others:
        path.mkdir()
    with scratch_folder("export") as live:
        assert not dead.exists()
        with scratch_folder("bench") as second:
            assert live.is_dir()  # locked by this very process, through another handle
        assert not second.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_live_processs_files_stay(tmp_path: Path) -> None:
    handle, folder = temporary_folder(tmp_path, ".export")
    remove_debris(tmp_path)
    assert folder.is_dir()
    os.close(handle)
    remove_debris(tmp_path)
    assert not folder.exists()


def test_what_an_interrupted_training_says_is_true(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert after_interrupt(run) == "nothing was trained yet"
    complete(run, "data", {"a": 1}, _make, [])
    write_started(run.stage_path("pretrain"), {"a": 1}, {})
    assert after_interrupt(run) == (
        "run the same command again to restart the stage pretrain, which has no checkpoint yet; complete and kept: data"
    )
    (run.stage_path("pretrain") / "last.ckpt").write_bytes(b"x")
    assert "resume the stage pretrain from its last checkpoint" in after_interrupt(run)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "it holds no mapping"),
        ({}, "it holds no state_dict"),
        ({"state_dict": [1]}, "it holds no state_dict"),
        ({"state_dict": {}, "global_step": 3}, "it holds no optimizer_states"),
        (
            {
                "state_dict": {},
                "optimizer_states": [],
                "lr_schedulers": [],
                "loops": {},
                "callbacks": {},
                "epoch": 0,
                "global_step": -5,
            },
            "its global_step is -5",
        ),
        ({"code": print}, "it holds more than weights"),
    ],
)
def test_a_checkpoint_that_is_none_of_ours(content: object, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(RunError) as refused:
        read_checkpoint(tmp_path / "last.ckpt")
    assert reason in str(refused.value)
    assert "weights_only" not in str(refused.value)  # PyTorch's advice would run whatever code is in it


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    code = """
        import torch, edgekit.train.loop.checkpoint as checkpoint
        fit = checkpoint.AtomicCheckpoints.save_checkpoint
        def save(self, checkpoint, path, storage_options=None):
            name = next(n for n, t in checkpoint["state_dict"].items() if getattr(t, "ndim", 0) == 4)
            checkpoint["state_dict"][name] = torch.zeros(1, 1, 1, 1)
            fit(self, checkpoint, path)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.AtomicCheckpoints.save_checkpoint = save
        import sys
        sys.argv = ["edgekit", "train", str(folder / "recipe.yaml"), "--run", str(folder / "run"), "--until", "pretrain",
                    "--set", "hardware.checkpoint_seconds=0"]
        from edgekit.cli.main import main
        main()
    """
    _killed_at("os.nothing", code, tmp_path)
    options = ["--run", str(tmp_path / "run"), "--until", "pretrain", "--set", "hardware.checkpoint_seconds=0"]
    code_, errors = as_command(["train", str(tmp_path / "recipe.yaml"), *options], monkeypatch, capsys)
    assert code_ == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "last.ckpt: damaged checkpoint: it holds other weights than this training has" in lines[0]
