"""Which device a process uses, and how exactly it computes there."""

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
    """Whether the device computes bfloat16 itself; where it is emulated, float32 is faster."""
    if uses_cuda(hardware):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_for(hardware).type == "cpu" and has_native_bf16()


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32, also on NVIDIA GPUs.

    There PyTorch lets cuDNN convolve in TF32 by default, whose 10 bits of mantissa are 13 fewer than float32's. Does nothing elsewhere.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
