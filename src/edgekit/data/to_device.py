"""Copy small tensors from the host to the training device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to `device`; to a CUDA GPU through page-locked memory, so that the host does not wait for the work queued there.

    A plain `tensor.to("cuda")` waits until all earlier work is done: once per step, that empties the queue of the GPU.

    Args:
        tensor: of any shape and dtype; on the CPU or already on the device.
        device: the target.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")
