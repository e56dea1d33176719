"""Color operations with one factor an image: torchvision's numbers, a batch at a time, in few passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision's rgb_to_grayscale


def luma(images: Tensor) -> Tensor:
    """The gray image (n, 1, h, w) of RGB images (n, 3, h, w)."""
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze(1)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply images (n, 3, h, w) in [0, 1] by a factor each (n), clamped to [0, 1]."""
    return (images * factors[:, None, None, None]).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its mean gray: factor 0 is flat gray, 1 the image."""
    channels = images.mean(dim=(2, 3))  # the mean of the gray image is the gray of the mean
    gray = channels[:, 0] * _LUMA[0] + channels[:, 1] * _LUMA[1] + channels[:, 2] * _LUMA[2]
    return _blend(images, gray[:, None, None, None], factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its gray version: factor 0 is gray, 1 the image."""
    return _blend(images, luma(images), factors)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    factors = factors[:, None, None, None]
    return (images * factors).add_(other * (1.0 - factors)).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of images (n, 3, h, w) in [0, 1] by a share of the circle each (n), in [-0.5, 0.5].

    The HSV round trip in one step and without a case distinction. Value v (the largest channel) and chroma c (v minus the
    smallest one, m) stay. The hue in sixths of the circle is s (1 + (g + b - r - m) / c), where s is the sign of g - b:
    for the largest channel r that is (g - b) / c, for g 2 + (b - r) / c, for b (mirrored) 4 + (r - g) / c. A channel whose
    hue lies at h (red 0, green 1/3, blue 2/3) becomes v - c clamp(2 - 6 d, 0, 1) with d the distance on the circle between
    the new hue and the opposite h + 1/2.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    hue = (green + blue).sub_(red).sub_(least).div_(chroma.clamp(min=1e-20)).add_(1.0).mul_(1 / 6)
    hue = hue.copysign_(green - blue).add_(shifts[:, None, None])
    opposite = (torch.arange(3, device=images.device) / 3 + 0.5).view(1, 3, 1, 1)
    distance = hue[:, None] - opposite
    distance = distance.sub_(distance.round()).abs_()
    return torch.addcmul(value[:, None], chroma[:, None], distance.mul_(-6.0).add_(2.0).clamp_(0.0, 1.0), value=-1.0)


OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
