"""Windows of images as instances of their own: what pretraining compares where all images show nearly the same."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.data.augment.transform import Augment, normalized
from edgekit.data.to_device import to_device
from edgekit.recipe import Augmentation, Tiles
from edgekit.sizes import ImageSize, SizeLike


class TiledAugment:
    """Makes views of random square windows of each image; called like an `Augment`.

    A window has the image's own scale: its views are as much smaller than the image as the window. All views of a window show parts of it.

    Args:
        config: the transformations of the views.
        tiles: side and number of the windows.
        size: of the images, in pixels.
        mean: of the normalization.
        std: of the normalization.
    """

    def __init__(self, config: Augmentation, tiles: Tiles, size: SizeLike, mean: float, std: float) -> None:
        self.tiles = tiles
        self.inner = Augment(config, tiles.pixels(ImageSize.of(size).shorter), mean, std)
        self.size = self.inner.size
        self.mean = mean
        self.std = std

    def __call__(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """Make `count` views of each window: see `Augment.__call__`, with `tiles.count * n` windows in place of n images.

        The first n windows are the first one of each image.
        """
        return normalized(self.views(pixels, generator, count), self.mean, self.std)

    def views(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """See `Augment.views`."""
        return self.inner.views(self.windows(pixels, generator), generator, count)

    def windows(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Cut the windows out, each at a place of its own: (tiles.count * n, side, side, 3) of pixels (n, h, w, 3)."""
        n, height, width, _ = pixels.shape
        side, windows = self.tiles.pixels(min(height, width)), n * self.tiles.count
        room = torch.tensor([height - side + 1, width - side + 1])
        corners = (torch.rand(windows, 2, generator=generator) * room).long().minimum(room - 1)
        corners = to_device(corners, pixels.device)
        along = torch.arange(side, device=pixels.device)
        images = torch.arange(n, device=pixels.device).repeat(self.tiles.count)
        rows, columns = corners[:, :1] + along, corners[:, 1:] + along
        return pixels[images[:, None, None], rows[:, :, None], columns[:, None, :]]
