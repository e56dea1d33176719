"""Check whether a training can resume from a checkpoint, before any of its content is used.

PyTorch and Lightning accept most of a checkpoint unchecked: a learning rate that is text, momentum of another shape or a counter of -5
fails only steps later. Here everything is compared with the state at the start of the same training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import quoted

CHECKPOINT = "last.ckpt"
HISTORY = "_History"  # under this name, checkpoints of all versions hold the state of the history
EARLIER_SECONDS = "earlier_seconds"  # among the metrics of a training: the time of the sessions before an interruption

# The state that the known optimizers keep per parameter: all of it or nothing.
_KEPT = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}, "LARS": {"momentum_buffer"}}


def check_weights(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse weights that differ from those of the training.

    Args:
        theirs: content of the checkpoint, by name.
        own: content of the training, by name: tensors, and extra state of modules.

    Raises:
        ValueError: a name is missing or unknown, or its value is not a tensor of the same shape and type.
    """
    extra = [name for name, value in own.items() if not isinstance(value, Tensor)]  # the extra state of modules
    for name in extra:
        if name not in theirs:
            raise ValueError(f"it lacks {name}")
        _check_extra(theirs[name], own[name], name)
    names = [name for name in {**own, **theirs} if name not in extra]
    wrong = [name for name in names if name not in own or not _is_like(theirs.get(name), own[name])]
    if wrong:
        raise ValueError(
            f"it holds other weights than this training has: {', '.join(quoted(n)[1:-1] for n in wrong[:3])}"
        )


def check_optimizer(content: Mapping[str, Any], optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Refuse a state of the optimizer or of its schedule that this training cannot resume from.

    Args:
        content: of the checkpoint: `optimizer_states`, `lr_schedulers` and `global_step`.
        optimizer: at the start of the training.
        scheduler: of its learning rate.

    Raises:
        ValueError: the message says what is wrong.
    """
    states, schedules = content["optimizer_states"], content["lr_schedulers"]
    if len(states) != 1 or len(schedules) != 1:
        raise ValueError("it is from a training with another number of optimizers")
    own = optimizer.state_dict()
    _check_kind(states[0], {"state": {}, "param_groups": own["param_groups"]}, "optimizer")
    _check_kind(schedules[0], scheduler.state_dict(), "schedule")
    if schedules[0].get("last_epoch") != content["global_step"]:
        raise ValueError("its schedule and its weights are at different steps")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if [group["params"] for group in states[0]["param_groups"]] != [group["params"] for group in own["param_groups"]]:
        raise ValueError("its optimizer has other groups of parameters")
    state_names = _KEPT.get(type(optimizer).__name__)
    for index, state in states[0]["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(state, Mapping):
            raise ValueError(f"its optimizer has no parameter {quoted(index)}")
        if state and state_names is not None and state.keys() != state_names:
            raise ValueError(f"its optimizer keeps {quoted(sorted(map(str, state)))} of the parameter {index}")
        for name, value in state.items():
            if not (value is None or (name == "step" and _is_counter(value)) or _is_like(value, parameters[index])):
                raise ValueError(f"its optimizer's {name} of the parameter {index} is {_described(value)}")


def check_progress(loops: Any, own: Mapping[str, Any], step: int) -> None:
    """Refuse counters of Lightning's loops that contradict the step of the checkpoint.

    Args:
        loops: state of the training loop in the checkpoint.
        own: state of a loop that has not started.
        step: `global_step` of the checkpoint.

    Raises:
        ValueError: says what is wrong.
    """
    _check_kind(loops, own, "progress")
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]  # `_check_kind` has found them
    if optimizer["step"]["total"]["completed"] != step:
        raise ValueError("its progress and its weights are at different steps")
    wrong = [n for n in _numbers(loops) if not isinstance(n, int) or not 0 <= n <= step + 1]
    if wrong:
        raise ValueError(f"its progress counts {quoted(wrong[0])} of {step} steps")


def check_history(state: Any, step: int, steps: int) -> None:
    """Refuse a history that does not match the number of steps.

    Args:
        state: rows and running sums in the checkpoint.
        step: `global_step` of the checkpoint.
        steps: number of steps per epoch.

    Raises:
        ValueError: says what is wrong.
    """
    if not isinstance(state, Mapping):
        raise ValueError("it holds no history")
    rows, sums, counts = state.get("rows"), state.get("sums"), state.get("counts")
    if not isinstance(rows, list) or len(rows) != step // steps:
        raise ValueError(
            "its epochs have another number of steps than this version of edgekit makes from the same images"
        )
    if any(
        not isinstance(row, dict) or not all(isinstance(k, str) and _is_number(v) for k, v in row.items())
        for row in rows
    ):
        raise ValueError("its history holds values that are not numbers")
    if any("epoch" not in row or "loss" not in row for row in rows):
        raise ValueError("its history lacks an epoch's loss")
    if not _is_number(state.get("seconds")) or not 0 <= state["seconds"] < math.inf:
        raise ValueError(f"its time is {quoted(state.get('seconds'))}")
    if not isinstance(sums, dict) or not isinstance(counts, dict) or sums.keys() != counts.keys():
        raise ValueError("its running sums and their counts do not match")
    for name, value in sums.items():
        scalar = (
            isinstance(value, Tensor)
            and value.numel() == 1
            and _is_like(value, torch.zeros(value.shape, dtype=torch.double))
        )
        if (
            not isinstance(name, str)
            or not scalar
            or type(counts[name]) is not int
            or not 0 < counts[name] <= max(1, steps)
        ):
            raise ValueError(f"its running sum of {quoted(name)} is {_described(value)}")


def _check_extra(theirs: Any, own: Mapping[str, Any], name: str) -> None:
    """Refuse another state than a module's `get_extra_state` gives: a mapping with its names, each a finite number or None.

    What begins as None may be missing: an older edgekit had no such name.
    """
    needed = {key for key, value in own.items() if value is not None}
    if not isinstance(theirs, Mapping) or not needed <= theirs.keys() <= own.keys():
        raise ValueError(f"its {name} is {_described(theirs)}")
    for key, value in theirs.items():
        if not (value is None and own[key] is None) and not (_is_number(value) and math.isfinite(value)):
            raise ValueError(f"its {name}'s {key} is {_described(value)}")


def _check_kind(theirs: Any, own: Any, where: str) -> None:
    """Refuse a value of another kind: another structure, or no number in place of a number.

    Switches that are off or not set are ignored: releases of PyTorch and Lightning differ in them.
    """
    if isinstance(own, Mapping):
        if not isinstance(theirs, Mapping):
            raise ValueError(f"its {where} is {_described(theirs)}")
        for name, value in own.items():
            if name in theirs:
                _check_kind(theirs[name], value, f"{where}'s {name}" if "'s" not in where else where)
            elif value is not None and not isinstance(value, bool):
                raise ValueError(f"its {where} lacks {name}")
    elif isinstance(own, list | tuple):
        if not isinstance(theirs, list | tuple) or len(theirs) != len(own):
            raise ValueError(f"its {where} is {_described(theirs)}")
        for mine, its in zip(own, theirs, strict=True):
            _check_kind(its, mine, where)
    elif isinstance(own, bool) or own is None:
        if not (theirs is None or isinstance(theirs, bool)):
            raise ValueError(f"its {where} is {_described(theirs)}")
    elif isinstance(own, int | float) and not (_is_number(theirs) and math.isfinite(theirs)):
        raise ValueError(f"its {where} is {_described(theirs)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_counter(value: Any) -> bool:
    return _is_number(value) or (
        isinstance(value, Tensor) and value.numel() == 1 and _is_like(value, torch.zeros(value.shape))
    )


def _is_like(value: Any, own: Tensor) -> bool:
    """Whether a value is a plain tensor of another's shape and type, with its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.shape == own.shape
        and value.dtype == own.dtype
        and value.layout == torch.strided
        and not value.is_meta
        and type(value) in {Tensor, nn.Parameter}
    )


def _numbers(content: Any) -> list[Any]:
    """The numbers in a tree of mappings."""
    if isinstance(content, Mapping):
        return [number for value in content.values() for number in _numbers(value)]
    return [content] if isinstance(content, int | float) and not isinstance(content, bool) else []


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return quoted(value)
