"""The checkpoint of a training: written atomically, read without unpickling code, and refused if it is damaged or another training's."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from edgekit.errors import EdgekitError, RunError, quoted, reason_of
from edgekit.files import write_bytes
from edgekit.foreign import Unreadable, understood
from edgekit.models import weight_files
from edgekit.spelling import KEYS
from edgekit.train.loop.memory import is_out_of_memory
from edgekit.train.loop.module import StageModule
from edgekit.train.loop.resumable import HISTORY, check_history, check_optimizer, check_progress, check_weights


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, checks them before they are read, and never unpickles code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        stream = io.BytesIO()  # torch.save hides a full disk's OSError behind an error of its own
        torch.save(checkpoint, stream)
        write_bytes(Path(path), stream.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint after comparing its checksums, without unpickling code.

    Raises:
        RunError: it is damaged.
    """
    try:
        content = weight_files.read_checkpoint(path, map_location)
        with understood(path, "a checkpoint of edgekit's"):
            return _checked(_renamed(content))
    except Unreadable as error:
        reason = "it holds more than weights" if isinstance(error, weight_files.NotWeights) else error.reason
        raise damaged(path, reason) from error


def _renamed(content: Any) -> Any:
    """Return a checkpoint whose tensors have today's names."""
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        return content
    names = {name: ".".join(KEYS.get(part, part) for part in str(name).split(".")) for name in state}
    return {**content, "state_dict": {names[name]: value for name, value in state.items()}}


# What Lightning resumes from.
_KEPT = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
}


def _checked(content: Any) -> dict[str, Any]:
    """Check the content of a checkpoint; `resumable` checks whether it belongs to this training."""
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    for name, kind in _KEPT.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"it holds no {name}")
    step = content.get("global_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"its global_step is {quoted(step)}")
    return content


def damaged(path: Path, reason: str) -> RunError:
    """Return the error that says why a checkpoint cannot be used."""
    return RunError(
        f"{path}: damaged checkpoint: {reason}", f"delete it to train the stage {path.parent.name} again from its start"
    )


def resume_from(path: Path, module: StageModule) -> tuple[int, dict[str, Any]]:
    """Check whether this training can resume from a checkpoint; return its number of steps and Lightning's progress.

    Raises:
        RunError: it is damaged, or from another training.
    """
    content = read_checkpoint(path, "cpu")
    done, fresh = int(content["global_step"]), module.configure_optimizers()
    try:
        if done > module.total:
            raise ValueError(f"its global_step is {done} of {module.total}")
        check_weights(content["state_dict"], module.state_dict())
        check_optimizer(content, fresh["optimizer"], fresh["lr_scheduler"]["scheduler"])
        check_history(content["callbacks"].get(HISTORY), done, module.epoch_steps)
        loops = content["loops"].get("fit_loop")
    except ValueError as error:
        raise damaged(path, str(error)) from error
    return done, loops


def check_loops(path: Path, loops: Any, trainer: pl.Trainer, done: int) -> None:
    """Refuse Lightning's progress in a checkpoint that contradicts its number of steps.

    Raises:
        RunError: it is damaged.
    """
    try:
        check_progress(loops, trainer.fit_loop.state_dict(), done)
    except ValueError as error:
        raise damaged(path, str(error)) from error


@contextmanager
def restoring(path: Path, began: Callable[[], bool]) -> Iterator[None]:
    """Report an error before the first step of a resumed training as a damaged checkpoint; `began` says whether that step was made."""
    try:
        yield
    except (EdgekitError, OSError):  # an OSError is about files that cannot be written
        raise
    except Exception as error:
        if began() or is_out_of_memory(error):
            raise
        raise damaged(path, reason_of(error)) from error
