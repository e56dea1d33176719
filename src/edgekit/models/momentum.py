"""A second network that follows the first: the exponential moving average of its parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Momentum(nn.Module):
    """A copy of a network whose parameters are the exponential moving average of its own (MoCo, He et al. 2020, equation 2; BYOL).

    The copy receives no gradient and stays in the mode of whoever owns it: in training mode it normalizes with the statistics
    of its own batch, as MoCo and BYOL do. Buffers (BatchNorm's running statistics) are no parameters and are copied, so that
    the copy can also be evaluated. The network itself is only referred to: it is no part of this module's parameters or state.

    Args:
        online: the network that learns.
        tau: share of the old average that stays at an update, 0 (a plain copy) to 1 (frozen).
    """

    def __init__(self, online: nn.Module, tau: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(online).requires_grad_(False)
        self.tau = tau
        self._online = (online,)  # in a tuple: PyTorch does not take it for a part of this module

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy makes of the input, without gradient."""
        return self.module(*args, **kwargs)

    def follow(self, steps: int) -> None:
        """`update` for an average from the first step on: in the first steps faster, or it would remember the weights that it
        started with (as TensorFlow's EMA does).

        Args:
            steps: updates until now, this one included.
        """
        self.update(min(self.tau, (1 + steps) / (10 + steps)))

    @torch.no_grad()
    def update(self, tau: float | None = None) -> None:
        """average = tau * average + (1 - tau) * online, for every parameter; buffers are copied. For after an optimizer step.

        Args:
            tau: for this update, where it changes in the course of the training.
        """
        online = self._online[0]
        averages: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averages, list(online.parameters()), 1 - (self.tau if tau is None else tau))
        for mine, its in zip(self.module.buffers(), online.buffers(), strict=True):
            mine.copy_(its)
