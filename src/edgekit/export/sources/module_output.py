"""What a torch network's last function makes of its logits: a Softmax or Sigmoid is found, and undone by a logarithm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgekit.export.sources.answers import SMALLEST, SMALLEST_OTHER, Reading, multi_label, sum_to_one

# What autograd calls the functions that only move, cast or clip numbers.
_PASSING = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose", "T", "ToCopy", "Clone", "Alias", "Clamp", "Flatten",
)  # fmt: skip


class WithLogits(nn.Module):
    """A network whose answer is turned into logits, (n, k) -> (n, classes).

    Args:
        network: normalized images -> what `reading` says.
        reading: see `answers.Reading`; the formulas are those of `answers.to_logits`.
    """

    def __init__(self, network: nn.Module, reading: Reading) -> None:
        super().__init__()
        self.network, self.reading = network, reading

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.network(images)
        if self.reading == "one logit":
            return nn.functional.pad(answer, (1, 0))
        if self.reading == "one probability":
            return torch.cat([1 - answer, answer], 1).clamp(min=SMALLEST_OTHER).log()
        return answer.clamp(min=SMALLEST).log()


def reading_of(network: nn.Module, size: int, model: str) -> Reading:
    """What a network gives for an image.

    Args:
        network: normalized float32 images (n, 3, size, size) -> (n, k); it is not changed.
        size: side of the images, in pixels.
        model: what the user called it.

    Raises:
        ExportError: it is a multi-label network.
    """
    noise = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = torch.cat([torch.zeros(1, 3, size, size), noise * torch.tensor([0.3, 1, 3, 100]).reshape(4, 1, 1, 1)])
    with torch.enable_grad():
        answer = network.eval()(images.requires_grad_())
    function, count = _function(answer.grad_fn), answer.shape[1]
    if function == "Sigmoid" and count > 1:
        raise multi_label(model, f"it ends in a Sigmoid of {count} numbers")
    if count == 1:
        return "one probability" if function == "Sigmoid" else "one logit"
    return "probabilities" if sum_to_one(answer.detach().float().numpy()) else "logits"


def _function(node: Any) -> str:
    """Sigmoid where that came last, else nothing; by what autograd recorded."""
    while node is not None:
        name = type(node).__name__.partition("Backward")[0]
        if name == "Sigmoid":
            return "Sigmoid"
        if name not in _PASSING:
            return ""
        node = node.next_functions[0][0] if node.next_functions else None
    return ""
