"""The exponential moving average (EMA) of a network's parameters, as a second network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Momentum(nn.Module):
    """A copy of a network whose parameters are the exponential moving average of its own (MoCo, He et al. 2020, equation 2; BYOL).

    The copy receives no gradient and follows the mode of the module that contains it: in training mode it normalizes with the
    statistics of its own batch, as in MoCo and BYOL. Buffers (BatchNorm's running statistics) are copied, not averaged, so that the copy
    can also be evaluated. The network itself is only referenced: it is not part of this module's parameters or state.

    Args:
        online: the network that learns.
        tau: share of the old average kept at an update, from 0 (a plain copy) to 1 (frozen).
    """

    def __init__(self, online: nn.Module, tau: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(online).requires_grad_(False)
        self.tau = tau
        self._online = (online,)  # in a tuple, so that PyTorch does not register it as a submodule

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the copy on the input, without gradient."""
        return self.module(*args, **kwargs)

    def follow(self, steps: int) -> None:
        """`update` with a smaller tau in the first steps, so that the average does not keep the initial weights (as TensorFlow's
        EMA does).

        Args:
            steps: number of updates, including this one.
        """
        self.update(min(self.tau, (1 + steps) / (10 + steps)))

    @torch.no_grad()
    def update(self, tau: float | None = None) -> None:
        """average = tau * average + (1 - tau) * online, for every parameter; buffers are copied. Call it after an optimizer step.

        Args:
            tau: for this update, if it changes during training; None: the module's own.
        """
        online = self._online[0]
        averages: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averages, list(online.parameters()), 1 - (self.tau if tau is None else tau))
        for mine, its in zip(self.module.buffers(), online.buffers(), strict=True):
            mine.copy_(its)
