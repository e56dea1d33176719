"""Pixels as input: the cast, layout and normalization at the start of every model, in evaluation and in the exported graph."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.sizes import ImageSize, SizeLike

# Mean or standard deviation of a normalization: one number, or one per channel.
Statistics = float | tuple[float, float, float]
# The order in which a network takes the channels of a pixel; images are RGB.
Channels = Literal["rgb", "bgr"]


def normalize(pixels: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """uint8 images (n, h, w, 3) as float32 (n, 3, h, w), channels last in memory: (x / 255 - mean) / std.

    The cast comes first: TensorRT rejects a transpose of uint8.
    """
    images = pixels.to(torch.float32).permute(0, 3, 1, 2)
    if not isinstance(mean, tuple) and not isinstance(std, tuple):
        return images * (1 / (255 * std)) - mean / std
    means, stds = (per_channel(values, images) for values in (mean, std))
    return images * (1 / (255 * stds)) - means / stds


def per_channel(values: Statistics, like: Tensor) -> Tensor:
    """Statistics as a float32 tensor (3, 1, 1) on the device of `like`."""
    three = values if isinstance(values, tuple) else (values,) * 3
    return torch.tensor(three, dtype=torch.float32, device=like.device).reshape(3, 1, 1)


def in_reverse(values: Statistics) -> Statistics:
    """Statistics of channels in the opposite order."""
    return (values[2], values[1], values[0]) if isinstance(values, tuple) else values


def resized(images: Tensor, size: SizeLike, mean: float, std: float) -> Tensor:
    """Normalized images (n, 3, h, w), resized to a size in pixels, whatever their shape: bicubic, antialiased, within the range of pixels.

    Args:
        images: normalized with one mean and standard deviation for all channels.
        size: of the result.
        mean: of the normalization, for pixels in [0, 1].
        std: of the normalization.
    """
    height, width = ImageSize.of(size)
    if images.shape[-2:] == (height, width):
        return images
    with torch.autocast(images.device.type, enabled=False):
        larger = nn.functional.interpolate(images.float(), (height, width), mode="bicubic", antialias=True)
    return larger.clamp_(-mean / std, (1 - mean) / std)


class PixelClassifier(nn.Module):
    """A model that takes pixels; this is what an export converts.

    Args:
        model: maps normalized float32 images (n, 3, h, w) to logits (n, classes).
        mean: of the normalization, for pixels in [0, 1]; one number, or one per channel in the model's order.
        std: of the normalization.
        channels: the model's order of channels.
    """

    def __init__(self, model: nn.Module, mean: Statistics, std: Statistics, channels: Channels = "rgb") -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.std = std
        self.channels = channels

    def forward(self, image: Tensor) -> Tensor:
        """float32 logits (n, classes) of RGB images, uint8 (n, h, w, 3)."""
        if self.channels == "rgb":
            return self.model(normalize(image, self.mean, self.std)).to(torch.float32)
        images = normalize(image, in_reverse(self.mean), in_reverse(self.std))
        # After the normalization, where it can be folded into the first convolution: see `onnx_graph.channels`.
        order = torch.tensor([2, 1, 0], device=images.device)
        return self.model(images.index_select(1, order)).to(torch.float32)
