"""An unfinished training whose inputs have changed meanwhile: refused, and never deleted, because hours may be in its checkpoint."""

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
from edgekit.stages import STAGES
from edgekit.train.loop.engine import CHECKPOINT
from edgekit.train.records.inputs import made_from

# Beside the checkpoint while a stage trains: the inputs that it trains from.
STARTED = "started.json"
# The stage whose weights a stage starts from.
_STARTS_FROM = {"finetune": "pretrain", "distill": "finetune"}
_SHOWN = 3
_SENTENCES = {
    "from": "the weights of the stage before are others",
    "training_version": "this edgekit trains other weights from the same recipe",
    "defaults": "this edgekit has other defaults",
}

Inputs = dict[str, Any]


@dataclass(frozen=True)
class StartedStage:
    """What an unfinished stage was started with.

    Args:
        digest: of the inputs.
        inputs: see `edgekit.train.records.inputs`; empty where the file is damaged.
        images: number of images of each set.
    """

    digest: str
    inputs: Inputs = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


def write_started(folder: Path, inputs: Inputs, images: Mapping[str, int]) -> None:
    """Write down what a stage starts from."""
    write_json(folder / STARTED, {"digest": digest_of(inputs), "inputs": inputs, "images": dict(images)})


def read_started(folder: Path) -> StartedStage | None:
    """What the unfinished stage in a folder was started with; None where there is none."""
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
    """What the same command will do with what an interrupted training left, in one sentence."""
    unfinished = [stage for stage in STAGES if run.stage_path(stage).is_dir() and run.record(stage) is None]
    complete = [stage for stage in STAGES if run.record(stage) is not None]
    kept = f"; complete and kept: {', '.join(complete)}" if complete else ""
    for stage in unfinished:
        if (run.stage_path(stage) / CHECKPOINT).is_file():
            return f"run the same command again to resume the stage {stage} from its last checkpoint{kept}"
    if unfinished:
        return f"the stage {unfinished[0]} has no checkpoint yet: the same command starts it again{kept}"
    return f"run the same command again to go on{kept}" if complete else "nothing was trained yet"


def refuse_changed(folder: Path, stage: str, inputs: Inputs, images: Mapping[str, int]) -> None:
    """Refuse to go on, or to begin anew, where a checkpoint was trained from other inputs.

    Args:
        folder: the stage's.
        stage: its name.
        inputs: what it would be made from now.
        images: number of images of each set now.

    Raises:
        RunError: it says what changed and what to do; nothing was touched.
    """
    started = read_started(folder)
    if started is None or started.digest == digest_of(inputs) or not (folder / CHECKPOINT).exists():
        return
    if not started.inputs:
        raise _refusal(folder, f"cannot be continued: {STARTED}, which says what it trained from, is damaged")
    raise _refusal(folder, f"began with other inputs: {_changes(stage, started, StartedStage('', inputs, images))}")


def check_unfinished(
    run: Run, stages: Sequence[str], inputs_of: Callable[[str], Inputs], images: Mapping[str, int]
) -> None:
    """Refuse now what `refuse_changed` would refuse after hours of training the stages before.

    Args:
        run: the run.
        stages: those that are to be complete, in order.
        inputs_of: what a stage would be made from; may raise RunError where the one before is not complete.
        images: number of images of each set now.

    Raises:
        RunError: an unfinished stage has other inputs, or starts from weights that are to be trained again.
    """
    changed: dict[str, str] = {}
    for stage in stages:
        try:
            inputs = inputs_of(stage)
        except RunError:
            return
        folder, record, before = run.stage_path(stage), run.record(stage), _STARTS_FROM.get(stage, "")
        if record is None:
            refuse_changed(folder, stage, inputs, images)
        if before in changed:
            changed[stage] = changed[before]
            if record is None and (folder / CHECKPOINT).exists():
                raise _refusal(folder, f"started from weights that would be trained again: {changed[before]}")
        elif record is not None and not made_from(record, inputs):
            changed[stage] = _changes(stage, StartedStage("", record.inputs), StartedStage("", inputs, images))


def _refusal(folder: Path, what: str) -> RunError:
    return RunError(
        f"{folder}: the unfinished training in it {what}; its last checkpoint is kept as it is",
        f"change that back and repeat the command to go on, or delete {folder} to begin anew, or choose another --run",
    )


def _changes(stage: str, old: StartedStage, new: StartedStage) -> str:
    """`pool: 45,000 -> 44,990 images; pretrain.epochs: 100 -> 50`."""
    before, now = dict(_flat(old.inputs)), dict(_flat(new.inputs))
    keys = [key for key in [*now, *(key for key in before if key not in now)] if before.get(key) != now.get(key)]
    lines = [_change(stage, key, before.get(key), now.get(key), old.images, new.images) for key in keys]
    return "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def _change(stage: str, key: str, old: Any, new: Any, had: Mapping[str, int], has: Mapping[str, int]) -> str:
    if key in {"pool", "labeled", "probe"}:
        name = {"pool": "the pool", "labeled": "the label budget", "probe": "the probe set"}[key]
        if key not in had or key not in has:
            return f"{name} has other images"
        if had[key] == has[key]:
            return f"{name} has {has[key]:,} images as before, but not the same"
        return f"{name} had {had[key]:,} images and has {has[key]:,}"
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
