"""Crop, resize, mirror and rotate: one linear map of the rows and one of the columns per image, so that a batch of random crops is two
batched matrix products with antialiased bilinear weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.data.augment.chunks import chunks
from edgekit.sizes import ImageSize, SizeLike

_SPARSE_FROM = 64  # rows of an image; from this number on, a CPU resizes the rows without a matrix
_MOST_TAPS = 8


def random_boxes(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    aspect: float = 1.0,
) -> Tensor:
    """Draw random crops as torchvision's RandomResizedCrop does (from Inception), without its loop.

    Area uniform in `scale`, log aspect ratio uniform in `ratio`; ten draws per image: the first that fits is taken, or else the
    center of the image at the nearest allowed ratio. Ratios are relative to `aspect`, width by height of the size that the boxes are
    resized to: a ratio of 1 distorts nothing.

    Returns:
        int64 (n, 4): top, left, height, width.
    """
    tries = 10
    ratio = (ratio[0] * aspect, ratio[1] * aspect)
    area = height * width * torch.empty(n, tries).uniform_(*scale, generator=generator)
    ratios = torch.exp(torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator))
    widths, heights = torch.sqrt(area * ratios).round().long(), torch.sqrt(area / ratios).round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    w, h = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    fallback_h, fallback_w = _widest(height, width, ratio)
    w, h = torch.where(any_fits, w, fallback_w), torch.where(any_fits, h, fallback_h)
    room = torch.stack([height - h + 1, width - w + 1], dim=1)
    corner = (torch.rand(n, 2, generator=generator) * room).long().minimum(room - 1)
    middle = torch.tensor([(height - fallback_h) // 2, (width - fallback_w) // 2])
    corner = torch.where(any_fits[:, None], corner, middle)
    return torch.cat([corner, h[:, None], w[:, None]], dim=1)


def central_box(height: int, width: int, size: ImageSize) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the center of this size, or of the largest one of its shape if the image is smaller."""
    share = min(1.0, height / size.height, width / size.width)
    h, w = min(height, round(size.height * share)), min(width, round(size.width * share))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_resize_flip(
    pixels: Tensor, boxes: Tensor, flips: Tensor, size: SizeLike, turns: Tensor | None = None, views: int = 1
) -> Tensor:
    """Cut a box out of each image, resize it (bilinear, antialiased), and mirror and rotate some.

    Args:
        pixels: uint8 (n, h, w, 3), or float32 in [0, 1].
        boxes: (views * n, 4) top, left, height, width in pixels, whole numbers of any dtype: the first n of the first views.
        flips: bool (views * n), True where the view is mirrored left to right.
        size: of the result, H x W.
        turns: (views * n), quarter turns counter-clockwise after the mirroring, 0 to 3; None for none. The box of a view with an odd number
            of them has the shape of the view before the turn, W x H.
        views: number of views per image.

    Returns:
        float32 (views * n, 3, H, W) in [0, 1].
    """
    size = ImageSize.of(size)
    if turns is None or size.is_square:
        images = _crop_resize_flip(pixels, boxes, flips, size, turns, views)
        return images if turns is None else _transpose_some(images, turns)
    # Both shapes for all views: which view is turned is known to the device alone.
    upright = _crop_resize_flip(pixels, boxes, flips, size, turns, views)
    turned = _crop_resize_flip(pixels, boxes, flips, size.transposed, turns, views)
    return torch.where(_odd(turns), turned.transpose(2, 3), upright)


def _crop_resize_flip(
    pixels: Tensor, boxes: Tensor, flips: Tensor, size: ImageSize, turns: Tensor | None, views: int
) -> Tensor:
    """`crop_resize_flip` up to the transposition that ends an odd number of quarter turns."""
    n, height, width, _ = pixels.shape
    gain = 1.0 / 255.0 if pixels.dtype == torch.uint8 else 1.0
    upside = None if turns is None else turns >= 2
    if turns is not None:
        flips = flips ^ ((turns == 1) | (turns == 2))
    out = torch.empty(views, n, 3, *size, device=pixels.device)
    boxes, flips = boxes.view(views, n, 4), flips.view(views, n)
    for part in chunks(n, 12 * max(height * width, size.pixels) * views, pixels.device):
        count = part.stop - part.start
        box, mirrored = boxes[:, part].to(torch.float32), flips[:, part]
        turned = None if upside is None else upside.view(views, n)[:, part]
        columns = _resize_weights(box[..., 1], box[..., 3], width, size.width, mirrored)
        flat = pixels[part].to(torch.float32).reshape(count, height, width * 3)
        upside_down = None if turned is None else turned.T.contiguous()
        tops, heights = box[..., 0].T.contiguous(), box[..., 2].T.contiguous()
        strips = _resize_rows(flat, tops, heights, size.height, upside_down, gain)
        strips = strips.view(count, views, size.height, width, 3).permute(1, 0, 4, 2, 3)
        strips = strips.reshape(views, count, 3 * size.height, width)
        for view in range(views):
            resized = out[view, part].view(count, 3 * size.height, size.width)
            torch.bmm(strips[view], columns[view].transpose(1, 2), out=resized)
    return out.view(views * n, 3, *size)


def mirror_and_turn(images: Tensor, flips: Tensor, turns: Tensor | None) -> Tensor:
    """Mirror some of the square images (n, c, s, s) left to right and rotate some: `crop_resize_flip` without the crop."""
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    if turns is None:
        return images
    images = torch.where(((turns == 1) | (turns == 2))[:, None, None, None], images.flip(3), images)
    images = torch.where((turns >= 2)[:, None, None, None], images.flip(2), images)
    return _transpose_some(images, turns)


def _transpose_some(images: Tensor, turns: Tensor) -> Tensor:
    """Transpose the images with an odd number of quarter turns: a quarter turn is a mirroring and a transposition."""
    return torch.where(_odd(turns), images.transpose(2, 3), images)


def _odd(turns: Tensor) -> Tensor:
    """Whether each view has an odd number of quarter turns, (n, 1, 1, 1)."""
    return ((turns == 1) | (turns == 3))[:, None, None, None]


def _resize_rows(
    rows: Tensor, start: Tensor, length: Tensor, size: int, mirrored: Tensor | None, gain: float
) -> Tensor:
    """Resize the rows (n, h, …) of all views and channels at once, to (n, views * size, …).

    Args:
        rows: float32 (n, h, k).
        start: float32 (n, views), the first row of the box.
        length: float32 (n, views), the height of the box.
        size: rows of the result.
        mirrored: bool (n, views), or None.
        gain: factor on the result.
    """
    n, height, k = rows.shape
    taps = math.ceil(2 * max(1.0, height / size))
    if rows.device.type != "cpu" or height < _SPARSE_FROM or taps > _MOST_TAPS:
        weights = _resize_weights(start, length, height, size, mirrored, gain)
        return torch.bmm(weights.view(n, -1, height), rows)
    # Most weights are 0: gathering the other rows takes a CPU a third of the time of the whole product.
    centers, support = _centers(start, length, size, mirrored)
    sources = (centers - support + 0.5).floor()[..., None] + torch.arange(taps)
    weights = (1.0 - (sources + 0.5 - centers[..., None]).abs() / support[..., None]).clamp_(min=0.0)
    inside = (sources >= start[..., None, None]) & (sources < (start + length)[..., None, None])
    weights = weights * inside
    weights = weights * (gain / weights.sum(dim=-1, keepdim=True))
    sources = sources.long().clamp_(0, height - 1) + (torch.arange(n) * height)[:, None, None, None]
    bags = functional.embedding_bag(
        sources.view(-1, taps), rows.view(n * height, k), per_sample_weights=weights.view(-1, taps), mode="sum"
    )
    return bags.view(n, -1, k)


def _centers(start: Tensor, length: Tensor, size: int, mirrored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the position of each pixel of the result in the image (…, size), and the half width of its filter (…, 1)."""
    scale = (length / size)[..., None]
    centers = start[..., None] + scale * (torch.arange(size, device=start.device) + 0.5)
    if mirrored is not None:
        centers = torch.where(mirrored[..., None], centers.flip(-1), centers)
    return centers, scale.clamp(min=1.0)


def _resize_weights(
    start: Tensor, length: Tensor, extent: int, size: int, mirrored: Tensor | None, gain: float = 1.0
) -> Tensor:
    """Return weights (…, size, extent) that resize the `length` pixels from `start` (both float32, …) to `size`, times `gain`.

    It is a triangle filter, widened for downsizing; the rows are in reverse order where `mirrored`.
    """
    centers, support = _centers(start, length, size, mirrored)
    positions = torch.arange(extent, device=start.device)
    inside = (positions >= start[..., None]) & (positions < (start + length)[..., None])
    # Pixels outside the box are put so far away that their weight is 0: no mask over the matrices.
    positions = torch.where(inside, positions + 0.5, 1e9)
    weights = (centers[..., :, None] - positions[..., None, :]).abs_()
    weights = weights.mul_(-1.0 / support[..., None]).add_(1.0).clamp_(min=0.0)
    return weights.mul_(gain / weights.sum(dim=-1, keepdim=True))


def _widest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the largest box whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, min(width, round(height * ratio[1]))
    return height, width
