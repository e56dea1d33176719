"""Blur, Sobel, noise and cutout, each with its own parameters per image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def blur_kernel(size: int) -> int:
    """Return the kernel size of SimCLR: a tenth of the shorter side, made odd, at least 3 pixels."""
    return max(3, size // 10 // 2 * 2 + 1)


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel: int) -> Tensor:
    """Blur images (n, 3, h, w) with a Gaussian of its own sigma (n) each, in pixels, over an odd kernel with reflected borders."""
    offsets = torch.arange(kernel, device=sigmas.device) - kernel // 2
    taps = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)
    # A CPU is fastest with one pass over the image per tap; on a GPU, starting those passes takes longer than two matrix products.
    return blur_by_shifts(images, taps) if images.device.type == "cpu" else blur_by_matrices(images, taps)


def blur_by_shifts(images: Tensor, taps: Tensor) -> Tensor:
    """Blur images by a weighted sum of shifted images, rows then columns; taps (n, k)."""
    kernel, half = taps.shape[1], taps.shape[1] // 2
    height, width = images.shape[-2:]
    weights = taps[:, :, None, None, None].unbind(1)
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    blurred = padded[..., :width] * weights[0]
    for i in range(1, kernel):
        blurred.addcmul_(padded[..., i : i + width], weights[i])
    result = blurred[..., :height, :] * weights[0]
    for i in range(1, kernel):
        result.addcmul_(blurred[..., i : i + height, :], weights[i])
    return result


def blur_by_matrices(images: Tensor, taps: Tensor) -> Tensor:
    """Blur images by a product with a banded matrix from the left and one from the right; taps (n, k)."""
    height, width = images.shape[-2:]
    blurred = torch.matmul(_banded(taps, height)[:, None], images)
    return torch.matmul(blurred, _banded(taps, width)[:, None].transpose(2, 3))


def _banded(taps: Tensor, extent: int) -> Tensor:
    """Matrices (n, extent, extent) of the blur along one axis."""
    half = taps.shape[1] // 2
    sources = torch.arange(extent, device=taps.device)[:, None] + torch.arange(-half, half + 1, device=taps.device)
    sources = sources.abs()  # reflect without repeating the border
    sources = torch.where(sources >= extent, 2 * (extent - 1) - sources, sources)
    weights = torch.zeros(len(taps), extent, extent, device=taps.device)
    return weights.scatter_add_(2, sources.expand(len(taps), -1, -1), taps[:, None, :].expand(-1, extent, -1))


def sobel(images: Tensor) -> Tensor:
    """Return the magnitude of the Sobel gradient of each channel of images (n, 3, h, w) in [0, 1], clamped to [0, 1].

    The masks are divided by 4, so that a vertical or horizontal edge from 0 to 1 gives 1; borders are reflected.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    smooth = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
    vertical = smooth[..., 2:, :] - smooth[..., :-2, :]
    smooth = padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]
    horizontal = smooth[..., 2:] - smooth[..., :-2]
    return torch.hypot(vertical, horizontal).mul_(0.25).clamp_(max=1.0)


def add_noise(images: Tensor, normals: Tensor, deviations: Tensor) -> Tensor:
    """Add standard normals (n, 3, h, w) times a standard deviation (n) each, clamped to [0, 1]."""
    return (images + normals * deviations[:, None, None, None]).clamp_(0.0, 1.0)


def cut_out(images: Tensor, boxes: Tensor, fill: float) -> Tensor:
    """Fill a box (n, 4: top, left, height, width in pixels, may reach over the border) of each image (n, c, h, w)."""
    rows, columns = (torch.arange(extent, device=images.device) for extent in images.shape[-2:])
    top, left, height, width = (column[:, None] for column in boxes.unbind(1))
    inside_rows = (rows >= top) & (rows < top + height)
    inside_columns = (columns >= left) & (columns < left + width)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], fill)
