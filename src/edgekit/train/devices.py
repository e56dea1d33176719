"""Which device a process uses."""

from __future__ import annotations

import torch

from edgekit.recipe import Hardware


def uses_cuda(hardware: Hardware) -> bool:
    """Whether there is a CUDA GPU and the recipe lets it be used."""
    return hardware.accelerator in {"auto", "gpu"} and torch.cuda.is_available()


def device_for(hardware: Hardware) -> torch.device:
    """The device that this process trains on."""
    if uses_cuda(hardware):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if hardware.accelerator == "mps" else "cpu")
