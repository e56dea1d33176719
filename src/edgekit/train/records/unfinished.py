"""Refuse an unfinished training whose inputs have changed; it is never deleted, because its checkpoint may have taken hours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import RunError
from edgekit.files import digest_of, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.run import Run, with_todays_names
from edgekit.spelling import translated_keys
from edgekit.stages import STAGES, STARTS_FROM
from edgekit.text import counted
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.records.inputs import made_from

# File beside the checkpoint while a stage trains: its inputs.
STARTED = "started.json"
_SHOWN = 3
_IMAGES = {"pool": "the pool", "labeled": "the label budget", "probe": "the probe set", "test": "the test set"}
_SENTENCES = {
    "names": "files have other names",
    "from": "the weights of the earlier stage have changed",
    "training_version": "this version of edgekit trains other weights from the same recipe",
    "defaults": "this version of edgekit has other defaults",
}

Inputs = dict[str, Any]


@dataclass(frozen=True)
class StartedStage:
    """The inputs that an unfinished stage was started with.

    Args:
        digest: of the inputs.
        inputs: see `edgekit.train.records.inputs`; empty if the file is damaged.
        images: number of images of each set.
    """

    digest: str
    inputs: Inputs = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


def write_started(folder: Path, inputs: Inputs, images: Mapping[str, int]) -> None:
    """Record the inputs of a stage that starts."""
    write_json(folder / STARTED, {"digest": digest_of(inputs), "inputs": inputs, "images": dict(images)})


def read_started(folder: Path) -> StartedStage | None:
    """Return the inputs that the unfinished stage in a folder was started with; None if there is none."""
    try:
        content = read_json(folder / STARTED)
        inputs, images = content.get("inputs", {}), content.get("images", {})
        if not (isinstance(inputs, dict) and isinstance(images, dict)):
            return StartedStage("damaged")
        return StartedStage(**with_todays_names(inputs, str(content["digest"])), images=translated_keys(images))
    except Unreadable as error:
        return None if error.missing else StartedStage("damaged")
    except KeyError:
        return StartedStage("damaged")


def after_interrupt(run: Run) -> str:
    """Return one sentence: what the same command will do after an interrupted training."""
    unfinished = [stage for stage in STAGES if run.stage_path(stage).is_dir() and run.record(stage) is None]
    complete = [stage for stage in STAGES if run.record(stage) is not None]
    complete_note = f"; complete and kept: {', '.join(complete)}" if complete else ""
    for stage in unfinished:
        if (run.stage_path(stage) / CHECKPOINT).is_file():
            return f"run the same command again to resume the stage {stage} from its last checkpoint{complete_note}"
    if unfinished:
        return f"run the same command again to restart the stage {unfinished[0]}, which has no checkpoint yet{complete_note}"
    return f"run the same command again to continue{complete_note}" if complete else "nothing was trained yet"


def refuse_changed(folder: Path, stage: str, inputs: Inputs, images: Mapping[str, int]) -> None:
    """Refuse to resume or restart a stage whose checkpoint was trained from other inputs.

    Args:
        folder: the stage's.
        stage: its name.
        inputs: its current inputs.
        images: current number of images of each set.

    Raises:
        RunError: the message says what changed and what to do; nothing was modified.
    """
    started = read_started(folder)
    if started is None or started.digest == digest_of(inputs) or not (folder / CHECKPOINT).exists():
        return
    if not started.inputs:
        raise _refusal(folder, f"cannot be resumed: {STARTED}, the record of its inputs, is damaged")
    raise _refusal(
        folder, f"was started with other inputs: {_changes(stage, started, StartedStage('', inputs, images))}"
    )


def check_unfinished(
    run: Run, stages: Sequence[str], inputs_of: Callable[[str], Inputs], images: Mapping[str, int]
) -> dict[str, str]:
    """Refuse early what `refuse_changed` would refuse only after training the earlier stages for hours.

    Args:
        run: the run.
        stages: the stages to complete, in order.
        inputs_of: returns the inputs of a stage; may raise RunError if the earlier stage is not complete.
        images: current number of images of each set.

    Returns:
        The complete stages that will be made again, as their inputs have changed, each with what has changed.

    Raises:
        RunError: an unfinished stage has other inputs, or starts from weights that would be trained again.
    """
    changed: dict[str, str] = {}
    complete: list[str] = []
    for stage in stages:
        try:
            inputs = inputs_of(stage)
        except RunError:
            break
        folder, record, before = run.stage_path(stage), run.record(stage), STARTS_FROM.get(stage, "")
        if record is None:
            refuse_changed(folder, stage, inputs, images)
        else:
            complete.append(stage)
        if before in changed:
            changed[stage] = changed[before]
            if record is None and (folder / CHECKPOINT).exists():
                raise _refusal(folder, f"started from weights that would be trained again: {changed[before]}")
        elif record is not None and not made_from(record, inputs):
            changed[stage] = _changes(stage, StartedStage("", record.inputs), StartedStage("", inputs, images))
    return {stage: changed[stage] for stage in complete if stage in changed}


def _refusal(folder: Path, what: str) -> RunError:
    return RunError(
        f"{folder}: the unfinished training {what}; its last checkpoint was not changed",
        f"undo the change and run the same command again to resume, or delete {folder} to start again, or choose another --run",
    )


def _changes(stage: str, old: StartedStage, new: StartedStage) -> str:
    """Describe what changed, for instance `the pool had 45,000 images and has 44,990; pretrain.epochs was 100 and is 50`."""
    before, now = dict(_flat(old.inputs)), dict(_flat(new.inputs))
    keys = [key for key in [*now, *(key for key in before if key not in now)] if before.get(key) != now.get(key)]
    keys = [key for key in keys if key != "names"] or keys
    lines = [_change(stage, key, before.get(key), now.get(key), old.images, new.images) for key in keys]
    return "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def _change(stage: str, key: str, old: Any, new: Any, had: Mapping[str, int], has: Mapping[str, int]) -> str:
    key = key.removeprefix("digests.")
    if key in _IMAGES:
        name = _IMAGES[key]
        if key not in had or key not in has:
            return f"{name} has other images"
        if had[key] == has[key]:
            return f"{name} has {counted(has[key], 'image')} as before, but not the same"
        return f"{name} had {counted(had[key], 'image')} and has {has[key]:,}"
    if key in _SENTENCES:
        return _SENTENCES[key]
    first, _, rest = key.partition(".")
    name = {
        "config": f"{stage}.{rest}",
        "student": f"distill.student.{rest}",
        "pixels": f"data.{rest.removeprefix('preprocessing.')}",
    }.get(first, key)
    return f"{name} was {_value(old)} and is {_value(new)}"


def _value(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
