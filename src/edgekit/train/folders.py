"""Stage folders: skipped when complete, copied from another run, resumed when interrupted, never deleted when they are not ours."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import RunError
from edgekit.files import digest_of, write_json
from edgekit.machine import installed_packages
from edgekit.result import now
from edgekit.run import STAGES, Run, StageRecord
from edgekit.train.engine import CHECKPOINT, EARLIER_SECONDS

# Beside the checkpoint while a stage trains: the inputs that it trains from.
_STARTED = "started.json"
_RECORD = "stage.json"
_LOCK = ".lock"

# Makes a stage in a folder; gives the names of its files and its metrics.
Make = Callable[[Path], tuple[list[str], dict[str, Any]]]


def complete(run: Run, stage: str, inputs: dict[str, Any], make: Make, reuse: Run | None) -> tuple[str, StageRecord]:
    """Bring a stage to completion.

    Args:
        run: whose stage.
        stage: its name.
        inputs: what it is made from.
        make: trains it, going on from a checkpoint in the folder if there is one.
        reuse: another run to copy it from, where the inputs are the same.

    Returns:
        `skipped`, `copied` or `done`, and the record.

    Raises:
        RunError: its folder holds somebody else's files, or a file of the complete stage is damaged.
    """
    folder, digest = run.stage_path(stage), digest_of(inputs)
    record = run.record(stage)
    if record is not None and record.digest == digest:
        run.check_outputs(record)
        return "skipped", record
    if record is None and _started(folder) is None and folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: holds files that edgekit did not write", "choose another folder with --run")
    if reuse is not None and (copied := _copy(reuse, run, stage, digest)) is not None:
        return "copied", copied
    if record is not None:
        _set_aside(folder)
    elif _started(folder) != digest:
        shutil.rmtree(folder, ignore_errors=True)  # of a training with other inputs that was never completed
    write_json(folder / _STARTED, {"digest": digest, "inputs": inputs})
    began = time.monotonic()
    outputs, metrics = make(folder)
    seconds = time.monotonic() - began + metrics.pop(EARLIER_SECONDS, 0.0)
    record = run.write_record(stage, inputs, outputs, metrics, seconds, created=now(), packages=installed_packages())
    for left in (_STARTED, CHECKPOINT):
        (folder / left).unlink(missing_ok=True)
    return "done", record


@contextmanager
def only_one(run: Run) -> Iterator[None]:
    """Make the run's folder and hold its lock, which the system releases when the process ends in any way.

    Raises:
        RunError: the folder cannot be made or written, holds something else than a run, or another process trains into it.
    """
    try:
        ours = (run.path / _LOCK).exists() or any((run.path / stage / _RECORD).exists() for stage in STAGES)
        if run.path.is_dir() and not ours and any(run.path.iterdir()):
            raise RunError(f"{run.path}: is not empty and not a run", "choose another folder with --run")
        run.path.mkdir(parents=True, exist_ok=True)
        lock = open(run.path / _LOCK, "w")  # noqa: SIM115 - held until the run ends
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", "choose another folder with --run"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run.path}: another process is training into this run", "wait for it, or choose another --run"
            ) from error
        yield


def _started(folder: Path) -> str | None:
    """The digest of the inputs that an unfinished stage was started with, or None."""
    try:
        return str(json.loads((folder / _STARTED).read_bytes())["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _set_aside(folder: Path) -> None:
    """Keep one older generation of a stage whose inputs have changed: training may have taken hours."""
    old = folder.parent / ".previous" / folder.name
    shutil.rmtree(old, ignore_errors=True)
    old.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(old)


def _copy(source: Run, target: Run, stage: str, digest: str) -> StageRecord | None:
    """Copy a complete stage of another run if it was made from the same inputs; it appears whole or not at all."""
    record = source.record(stage)
    if record is None or record.digest != digest:
        return None
    source.check_outputs(record)
    folder = target.stage_path(stage)
    temporary = Path(tempfile.mkdtemp(prefix=f".{stage}.", dir=target.path))
    try:
        for name in [*record.outputs, _RECORD]:
            shutil.copyfile(source.stage_path(stage) / name, temporary / name)
        temporary.chmod(0o755)
        if (folder / _RECORD).exists():
            _set_aside(folder)
        shutil.rmtree(folder, ignore_errors=True)  # of an unfinished training
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    target.check_outputs(record)
    return record
