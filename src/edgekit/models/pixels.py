"""Pixels in: the cast, layout and normalisation that every model starts with, in evaluation and the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normalise(pixels: Tensor, mean: float, std: float) -> Tensor:
    """uint8 images (n, h, w, 3) as float32 (n, 3, h, w), channels last in memory: (x / 255 - mean) / std.

    The cast comes first: TensorRT rejects a transpose of uint8.
    """
    return pixels.to(torch.float32).permute(0, 3, 1, 2) * (1 / (255 * std)) - mean / std


class PixelClassifier(nn.Module):
    """A model that takes pixels: what is exported.

    Args:
        model: maps normalised float32 images (n, 3, s, s) to logits (n, classes).
        mean: of the normalisation, for pixels in [0, 1].
        std: of the normalisation.
    """

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.std = std

    def forward(self, image: Tensor) -> Tensor:
        """float32 logits (n, classes) of uint8 images (n, h, w, 3)."""
        return self.model(normalise(image, self.mean, self.std)).to(torch.float32)
