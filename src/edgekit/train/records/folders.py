"""Stage folders: skip complete stages, copy stages from another run, resume interrupted ones; files of the user are never deleted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from edgekit.errors import RunError
from edgekit.files import copy_file, digest_of, new_folder
from edgekit.locks import locked
from edgekit.machine import installed_packages
from edgekit.result import now
from edgekit.run import Run, StageRecord
from edgekit.stages import STAGES
from edgekit.temporary import remove_debris, temporary_folder
from edgekit.terminal import echo
from edgekit.train.loop.resumable import CHECKPOINT, EARLIER_SECONDS
from edgekit.train.records.inputs import differs, made_from
from edgekit.train.records.unfinished import STARTED, read_started, refuse_changed, write_started

_RECORD = "stage.json"
_LOCK = ".lock"
CANDIDATES = "candidates"  # folder of the candidate settings of the network from scratch
CURRENT = "candidate.json"  # the candidate in training
# The files that a stage writes before its record.
_WRITTEN = {
    STARTED, CHECKPOINT, "history.csv", "tensorboard", "views.png", "model.json", "model.safetensors", "labels.csv", "probe.csv",
    "test.csv", "skipped.csv", "splits.json", "trimmed.csv", CANDIDATES, CURRENT,
}  # fmt: skip

# Trains a stage in a folder; returns the names of its files and its metrics.
Make = Callable[[Path], tuple[list[str], dict[str, Any]]]


def complete(
    run: Run,
    stage: str,
    inputs: dict[str, Any],
    make: Make,
    reuse: Sequence[Run],
    images: Mapping[str, int] | None = None,
) -> tuple[str, StageRecord]:
    """Complete a stage: skip, copy, resume or train it.

    Args:
        run: the run of the stage.
        stage: its name.
        inputs: what it is made from.
        make: trains it, and resumes from a checkpoint in the folder.
        reuse: other runs to copy it from if the inputs are the same and an older edgekit did not train it in another way.
        images: number of images of each set, for the message if an unfinished stage was started with other inputs.

    Returns:
        `skipped`, `copied` or `done`, and the record.

    Raises:
        RunError: its folder holds files of the user or an unfinished training with other inputs, or a file of the complete stage
            is damaged.
    """
    folder = run.stage_path(stage)
    record = run.record(stage)
    remove_debris(folder)
    images = images or {}
    if record is not None and made_from(record, inputs):
        run.check_outputs(record)
        _forget_start(folder)
        if why := differs(record, inputs, images):
            echo(f"{stage}: kept as it is, though {why}; to train it again, delete {folder}", err=True)
        return "skipped", record
    if record is None and read_started(folder) is None and folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: holds files that edgekit did not write", "choose another folder with --run")
    if record is None:
        refuse_changed(folder, stage, inputs, images)
    for other in reuse:
        if (copied := _copy(other, run, stage, inputs, images)) is not None:
            return "copied", copied
    if record is not None:
        _set_aside(folder)
    elif (started := read_started(folder)) is None or started.digest != digest_of(inputs):
        _clear(folder)  # of a training that ended before its first checkpoint
    write_started(folder, inputs, images)
    began = time.monotonic()
    outputs, metrics = make(folder)
    seconds = time.monotonic() - began + metrics.pop(EARLIER_SECONDS, 0.0)
    record = run.write_record(stage, inputs, outputs, metrics, seconds, created=now(), packages=installed_packages())
    _forget_start(folder)
    return "done", record


@contextmanager
def only_one(run: Run) -> Iterator[None]:
    """Make the run's folder and hold its lock, which the system releases however the process ends.

    If the block fails before anything else is in the folder, the folder is removed again.

    Raises:
        RunError: the folder cannot be written, is not a run, or another process is training into it.
    """
    with ExitStack() as lock:
        try:
            remove_debris(run.path)
            ours = (run.path / _LOCK).exists() or any((run.path / stage / _RECORD).exists() for stage in STAGES)
            if run.path.is_dir() and not ours and any(run.path.iterdir()):
                raise RunError(f"{run.path}: is neither empty nor a run", "choose another folder with --run")
            is_new = not (run.path / _LOCK).exists()
            lock.enter_context(new_folder(run.path))
            held = lock.enter_context(locked(run.path / _LOCK))
        except OSError as error:
            raise RunError(
                f"{run.path}: cannot be written: {error.strerror}", "choose another folder with --run"
            ) from error
        if not held:
            raise RunError(
                f"{run.path}: another process is training into this run", "wait for it, or choose another --run"
            )
        try:
            yield
        finally:
            with suppress(OSError):
                if is_new and os.listdir(run.path) == [_LOCK]:
                    (run.path / _LOCK).unlink()


def _forget_start(folder: Path) -> None:
    """Remove the files that only an unfinished stage needs, also after a process was killed once its record was written."""
    if read_started(folder) is not None:
        shutil.rmtree(folder / CANDIDATES, ignore_errors=True)
        for name in (CURRENT, CHECKPOINT, STARTED):
            (folder / name).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove the files of an unfinished stage.

    Raises:
        RunError: there are other files, which edgekit did not write.
    """
    if not folder.is_dir():
        return
    if foreign := sorted(entry.name for entry in folder.iterdir() if entry.name not in _WRITTEN):
        raise RunError(
            f"{folder}: holds {', '.join(foreign[:3])}, which edgekit did not write, and an unfinished training with other inputs",
            f"move these files, delete {folder}, or choose another --run",
        )
    shutil.rmtree(folder, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    """Keep one older generation of a stage whose inputs have changed: training may have taken hours. Files of the user move with it, and
    a generation with such files is never deleted."""
    old = folder.parent / ".previous" / folder.name
    if old.is_dir():
        try:
            record = Run(old.parent).record(old.name)
        except RunError:
            record = None
        own = {*_WRITTEN, _RECORD, *(record.outputs if record else ())}
        if any(entry.name not in own for entry in old.iterdir()):
            old.rename(next(path for n in count(2) if not (path := old.with_name(f"{old.name}-{n}")).exists()))
        else:
            shutil.rmtree(old, ignore_errors=True)
    old.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(old)


def _copy(
    source: Run, target: Run, stage: str, inputs: dict[str, Any], images: Mapping[str, int]
) -> StageRecord | None:
    """Copy a complete stage of another run if it was made from the same inputs; the copy is atomic."""
    record = source.record(stage)
    if record is None or not made_from(record, inputs):
        return None
    if why := differs(record, inputs, images):
        echo(f"{stage}: not copied from {source.path}: {why}", err=True)
        return None
    source.check_outputs(record)
    folder = target.stage_path(stage)
    lock, temporary = temporary_folder(target.path, f".{stage}")
    try:
        for name in [*record.outputs, _RECORD]:
            copy_file(source.stage_path(stage) / name, temporary / name)
        temporary.chmod(0o755)
        if (folder / _RECORD).exists():
            _set_aside(folder)
        _clear(folder)  # of an unfinished training
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)
    target.check_outputs(record)
    return record
