"""Run a network once, to see what it does with images, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def run_once(network: nn.Module, images: Tensor, hooks: Iterable[RemovableHandle] = ()) -> Any:
    """Return what a network gives for images, in evaluation mode and without gradients.

    Args:
        network: its mode is restored.
        images: on its device, normalized float32 (n, 3, h, w).
        hooks: of its modules; they are removed afterwards, whatever the network raises.
    """
    was_training = network.training
    try:
        with torch.no_grad():
            return network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
