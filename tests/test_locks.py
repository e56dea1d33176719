"""Locks between processes, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.lock import bench_lock
from edgekit.errors import ExportError, RunError
from edgekit.export.staging import staged
from edgekit.locks import locked, take
from edgekit.run import Run
from edgekit.temporary import remove_debris, temporary_folder
from edgekit.train.records.folders import only_one

HOLDER = """
import sys
from pathlib import Path
from edgekit.locks import locked
with locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_lock_is_held_by_one_process_and_goes_with_it_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holder(path)
    with locked(path) as held:
        assert not held
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with locked(path, wait=True) as held:
        assert held
    with locked(path) as held:
        assert held


def test_some_may_share_a_lock_that_nobody_may_have_alone_then(tmp_path: Path) -> None:
    handles = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    assert take(handles[0], shared=True)
    assert take(handles[1], shared=True)
    assert not take(handles[2])
    for handle in handles:
        os.close(handle)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked(tmp_path / "lock"):  # noqa: PT011 - its number differs between systems
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_who_holds_a_bundle_or_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / ".export.partial").mkdir()
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    with only_one(run):
        lock = next(run.path.iterdir())
    holders = [holder(lock)]
    with pytest.raises(RunError, match="another process is training into this run"), only_one(run):
        pass
    with staged(tmp_path / "export") as staging:
        staging.keep_arrays({"kept": np.zeros(1)})
        with pytest.raises(ExportError, match="another export is writing this bundle"), staged(tmp_path / "export"):
            pass
    for process in holders:
        process.communicate()


def test_without_locks_everything_works_and_nothing_is_taken_for_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formerly training and exporting ended with a traceback there."""

    def none(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    handle, left = temporary_folder(tmp_path, ".left")
    os.close(handle)
    monkeypatch.setattr(fcntl, "flock", none)
    with only_one(Run(tmp_path / "run")), staged(tmp_path / "export"), locked(tmp_path / "lock", wait=True) as held:
        assert held
    with bench_lock(tmp_path / "bench.lock") as alone:
        assert alone()
    remove_debris(tmp_path)
    assert left.is_dir()
    monkeypatch.undo()
    remove_debris(tmp_path)
    assert not left.exists()


def test_who_waits_for_a_lock_file_that_is_removed_gets_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holder(path)
    path.unlink()  # as its holder may
    with locked(path, wait=True) as held:
        assert held
        third = holder_of_nothing(path)
        assert third == "False"
    other.communicate()


def holder_of_nothing(path: Path) -> str:
    """Whether another process gets the lock."""
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_refused_training_leaves_no_folder_and_takes_none_away(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "new")
    recipe = run.path / "recipe.yaml"
    with pytest.raises(FileNotFoundError), only_one(run):
        recipe.read_text()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(FileNotFoundError), only_one(run):
        recipe.read_text()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["other"]
    with only_one(run):
        recipe.write_text("name: x")
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "recipe.yaml"]
    with only_one(Run(tmp_path / "runs" / "other")):
        pass
    assert not any((tmp_path / "runs" / "other").iterdir())


def test_a_refused_export_leaves_none_of_the_folders_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="refused"), staged(tmp_path / "a" / "b" / "export"):
        raise ExportError("refused")
    assert not any(tmp_path.iterdir())
