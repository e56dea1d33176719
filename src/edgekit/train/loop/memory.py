"""The memory of a training: keep it between steps, recognize out-of-memory errors, and find the largest batch that fits."""

from __future__ import annotations

import ctypes
import gc
from typing import Any, cast

import torch
from torch import nn

from edgekit.train.loop.step import Batch, StepDraws

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, instead of giving it back to the system.

    By default glibc maps every large tensor anew, and the system zeroes its pages at the first touch: 50,000 page faults and
    an eighth of the time of a step on a CPU (ResNet-18 at a quarter of the width, 256 images of 32 pixels). Does nothing
    where the C library has no such switch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the machine is out of memory (the CPU's allocator raises a plain RuntimeError)."""
    text = str(error).lower()
    phrases = (
        "can't allocate memory",
        "out of memory",
        "_status_alloc_failed",
    )  # cuBLAS and cuDNN have a message of their own
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(phrase in text for phrase in phrases)


def largest_that_fits(task: nn.Module, batch: Batch, device: torch.device, bf16: bool) -> int:
    """Return the largest half, quarter, ... of a batch whose forward and backward pass fits on the device; 0 if 2 images do not fit.

    The batches are tried, not estimated. The state of the optimizer may need some memory more: it does not exist before a first step.

    Args:
        task: the training task.
        batch: the batch that did not fit.
        device: to try it on.
        bf16: whether the training computes under bfloat16 autocast; activations take half the memory there.
    """
    size = len(batch["images"]) // 2
    while size >= 2:
        _forget(task)
        try:
            part: Any = {
                name: values[:size].to(device) for name, values in cast("dict[str, torch.Tensor]", batch).items()
            }
            draws = StepDraws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = task.to(device)(part, draws, monitor=False)["loss"]
            loss.backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                return 0  # the error has another cause: the batch is too small
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
