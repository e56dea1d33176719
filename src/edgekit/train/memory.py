"""Out of memory: is that what happened, and which batch would have fitted?"""

from __future__ import annotations

import gc
from typing import Any, cast

import torch
from torch import nn

from edgekit.train.tasks import Batch, Draws


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left (the CPU's allocator raises a plain RuntimeError)."""
    text = str(error).lower()
    said = ("can't allocate memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in said)


def largest_that_fits(task: nn.Module, batch: Batch, device: torch.device) -> int:
    """The largest half, quarter, ... of a batch whose forward and backward pass fits on the device; 0 if not even 2 images do.

    Tried, not estimated. With some head-room for the optimizer's state: that of a first step is not there yet.
    """
    size = len(batch["images"]) // 2
    while size >= 2:
        _forget(task)
        try:
            part: Any = {
                name: values[:size].to(device) for name, values in cast("dict[str, torch.Tensor]", batch).items()
            }
            draws = Draws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
            task.to(device)(part, draws, monitor=False)["loss"].backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                return 0  # the batch is too small for something else
            size //= 2
        else:
            _forget(task)
            return size
    _forget(task)
    return 0


def _forget(task: nn.Module) -> None:
    for parameter in task.parameters():
        parameter.grad = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
