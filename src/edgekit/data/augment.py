"""Augmentation of whole uint8 batches on the training device, random for each image (SimCLR, appendix A).

Crop, resize and flip are one linear map of the rows and one of the columns, so a batch of random crops is two batched matrix
products with antialiased bilinear weights: the same numbers as torchvision's `resized_crop(antialias=True)` image by image.
Blur is a pair of banded matrices in the same way. The colour operations are elementwise with one factor an image.

Every draw comes from one CPU generator, so the same seed gives the same views on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekit.recipe import Augmentation

# Images of a batch that share the order of the four colour operations; each group draws its own order.
_ORDER_GROUPS = 8
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision's rgb_to_grayscale


class Augment:
    """Random views of uint8 batches.

    Args:
        config: what to do and how strongly.
        size: side of the views, in pixels.
        mean: of the normalisation (x / 255 - mean) / std that ends the augmentation.
        std: of the normalisation.
    """

    def __init__(self, config: Augmentation, size: int, mean: float, std: float) -> None:
        self.config = config.at(size)
        self.size = size
        self.mean = mean
        self.std = std

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of each image.

        Args:
            pixels: uint8 (n, h, w, 3), on any device.
            generator: a CPU generator; all randomness comes from it.

        Returns:
            float32 (n, 3, size, size) on the same device, channels last in memory, normalised.
        """
        views = self.views(pixels, generator)
        return ((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def views(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The same before normalisation: float32 (n, 3, size, size) in [0, 1], also under autocast."""
        with torch.autocast(pixels.device.type, enabled=False):
            return self._views(pixels, generator)

    def _views(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        n, height, width, _ = pixels.shape
        device, config = pixels.device, self.config
        boxes = random_boxes(n, height, width, config.crop_scale, config.crop_ratio, generator)
        flips = torch.rand(n, generator=generator) < config.flip
        images = crop_resize_flip(pixels, boxes.to(device), flips.to(device), self.size)
        strength = config.strength or 0.0
        if config.jitter > 0 and strength > 0:
            images = self._jitter(images, strength, generator)
        if config.grey > 0:
            dropped = torch.rand(n, generator=generator) < config.grey
            images = torch.where(dropped.to(device)[:, None, None, None], luma(images), images)
        if config.blur:
            sigmas = torch.empty(n).uniform_(0.1, 2.0, generator=generator)
            chosen = (torch.rand(n, generator=generator) < config.blur).to(device)
            images = torch.where(
                chosen[:, None, None, None], gaussian_blur(images, sigmas.to(device), blur_kernel(self.size)), images
            )
        return images

    def _jitter(self, images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Brightness, contrast, saturation (0.8 s) and hue (0.2 s) in a random order, each with its own factor an image."""
        n = len(images)
        spread = torch.tensor([0.8 * strength] * 3)
        low, high = (1 - spread).clamp(min=0), 1 + spread
        factors = low + (high - low) * torch.rand(n, 3, generator=generator)
        hues = (torch.rand(n, generator=generator) * 2 - 1) * min(0.2 * strength, 0.5)
        skipped = torch.rand(n, generator=generator) >= self.config.jitter
        factors[skipped] = 1.0
        hues[skipped] = 0.0
        factors, hues = factors.to(images.device), hues.to(images.device)
        parts, factors_of, hues_of = (t.tensor_split(_ORDER_GROUPS) for t in (images, factors, hues))
        orders = [torch.randperm(4, generator=generator).tolist() for _ in parts]
        return torch.cat([_jitter_in_order(*group) for group in zip(parts, factors_of, hues_of, orders, strict=True)])


def _jitter_in_order(images: Tensor, factors: Tensor, hues: Tensor, order: list[int]) -> Tensor:
    """The four colour operations in one order (3 is the hue); an empty group passes."""
    for operation in order if len(images) else []:
        if operation == 3:
            images = adjust_hue(images, hues)
        else:
            images = (adjust_brightness, adjust_contrast, adjust_saturation)[operation](images, factors[:, operation])
    return images


def random_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Random crops as torchvision's RandomResizedCrop draws them (Inception's), without its loop.

    Area uniform in `scale`, log aspect ratio uniform in `ratio`; ten draws an image, the first that fits is taken, else the
    centre of the image at the nearest allowed ratio.

    Returns:
        int64 (n, 4): top, left, height, width.
    """
    tries = 10
    area = height * width * torch.empty(n, tries).uniform_(*scale, generator=generator)
    aspect = torch.exp(torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator))
    widths, heights = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    w, h = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    fallback_h, fallback_w = _central(height, width, ratio)
    w, h = torch.where(found, w, fallback_w), torch.where(found, h, fallback_h)
    room = torch.stack([height - h + 1, width - w + 1], dim=1)
    corner = (torch.rand(n, 2, generator=generator) * room).long().minimum(room - 1)
    middle = torch.tensor([(height - fallback_h) // 2, (width - fallback_w) // 2])
    corner = torch.where(found[:, None], corner, middle)
    return torch.cat([corner, h[:, None], w[:, None]], dim=1)


def crop_resize_flip(pixels: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Cut a box out of each image, resize it (bilinear, antialiased), and mirror some.

    Args:
        pixels: uint8 (n, h, w, 3).
        boxes: int64 (n, 4) top, left, height, width in pixels.
        flips: bool (n), True where the view is mirrored left to right.
        size: side of the result.

    Returns:
        float32 (n, 3, size, size) in [0, 1].
    """
    n, height, width, _ = pixels.shape
    rows = _resize_weights(boxes[:, 0], boxes[:, 2], height, size)
    columns = _resize_weights(boxes[:, 1], boxes[:, 3], width, size)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    images = pixels.to(torch.float32)
    # Rows first, all three channels of a row in one product: (n, size, h) @ (n, h, w * 3).
    images = torch.bmm(rows / 255.0, images.reshape(n, height, width * 3)).reshape(n, size, width, 3)
    return torch.einsum("njw,niwc->ncij", columns, images)


def _resize_weights(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """Weights (n, size, extent) that resize the `length` pixels from `start` to `size`: a triangle filter, widened when it shrinks."""
    device = start.device
    scale = (length.to(torch.float32) / size)[:, None]
    centres = start[:, None] + scale * (torch.arange(size, device=device) + 0.5)
    positions = torch.arange(extent, device=device)
    distance = (positions + 0.5 - centres[:, :, None]).abs() / scale.clamp(min=1.0)[:, :, None]
    inside = (positions >= start[:, None]) & (positions < (start + length)[:, None])
    weights = (1.0 - distance).clamp(min=0.0) * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def _central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest central box whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, min(width, round(height * ratio[1]))
    return height, width


def luma(images: Tensor) -> Tensor:
    """The grey image (n, 1, h, w) of RGB images (n, 3, h, w)."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply images (n, 3, h, w) in [0, 1] by a factor each (n), clamped to [0, 1]."""
    return (images * factors[:, None, None, None]).clamp(0.0, 1.0)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its mean grey: factor 0 is flat grey, 1 the image."""
    return _blend(images, luma(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its grey version: factor 0 is grey, 1 the image."""
    return _blend(images, luma(images), factors)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factors[:, None, None, None]).clamp(0.0, 1.0)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of images (n, 3, h, w) in [0, 1] by a share of the circle each (n), in [-0.5, 0.5].

    The HSV round trip in one step: value and chroma stay, so only the hue is computed, and each channel is
    value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 hue) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = images.unbind(1)
    value, least = images.amax(dim=1), images.amin(dim=1)
    chroma = value - least
    inverse = 1.0 / torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) * inverse,
        torch.where(value == green, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse),
    )
    hue = hue + 6.0 * shifts[:, None, None]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.remainder(hue + offset, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1)


def blur_kernel(size: int) -> int:
    """SimCLR's kernel: a tenth of the side, made odd, at least 3 pixels."""
    return max(3, size // 10 // 2 * 2 + 1)


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel: int) -> Tensor:
    """Blur images (n, 3, h, w) with a Gaussian of its own sigma (n) each, in pixels, over an odd kernel with reflected borders."""
    height, width = images.shape[-2:]
    rows, columns = _blur_weights(sigmas, kernel, height), _blur_weights(sigmas, kernel, width)
    blurred = torch.matmul(rows[:, None], images)
    return torch.matmul(blurred, columns[:, None].transpose(2, 3))


def _blur_weights(sigmas: Tensor, kernel: int, extent: int) -> Tensor:
    """Banded matrices (n, extent, extent) of the blur along one axis."""
    device, half = sigmas.device, kernel // 2
    offsets = torch.arange(-half, half + 1, device=device)
    taps = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)
    sources = torch.arange(extent, device=device)[:, None] + offsets  # (extent, kernel)
    sources = sources.abs()
    sources = torch.where(
        sources >= extent, 2 * (extent - 1) - sources, sources
    )  # reflect without repeating the border
    weights = torch.zeros(len(sigmas), extent, extent, device=device)
    return weights.scatter_add_(2, sources.expand(len(sigmas), -1, -1), taps[:, None, :].expand(-1, extent, -1))
