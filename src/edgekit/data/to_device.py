"""Small tensors on their way from the host to the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a CUDA GPU through page-locked memory, so that the host does not wait for the work queued there.

    A plain `tensor.to("cuda")` waits until everything queued before it is done: once a step, that costs the GPU its whole queue.

    Args:
        tensor: of any shape and dtype; on the CPU or already on the device.
        device: where it is wanted.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")
