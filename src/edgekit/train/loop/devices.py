"""The device that a process uses, and its numerical precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekit.machine import has_native_bf16
from edgekit.recipe import Hardware


def uses_cuda(hardware: Hardware) -> bool:
    """Whether there is a CUDA GPU and the recipe lets it be used."""
    return hardware.accelerator in {"auto", "gpu"} and torch.cuda.is_available()


def device_for(hardware: Hardware) -> torch.device:
    """The device that this process trains on."""
    if uses_cuda(hardware):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if hardware.accelerator == "mps" else "cpu")


def has_fast_bf16(hardware: Hardware) -> bool:
    """Return whether the device has native bfloat16; if bfloat16 is emulated, float32 is faster."""
    if uses_cuda(hardware):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_for(hardware).type == "cpu" and has_native_bf16()


def uses_bf16(hardware: Hardware) -> bool:
    """Whether this process trains in bfloat16 autocast."""
    return hardware.precision == "bf16" or (hardware.precision == "auto" and has_fast_bf16(hardware))


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 convolutions and matrix products in full float32 in this block, also on NVIDIA GPUs.

    By default, PyTorch lets cuDNN convolve in TF32, whose mantissa has 10 bits instead of 23. Does nothing on other devices.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
