"""Random views of uint8 batches: parameters are drawn on the CPU; the tensor work on the device never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.data.augment.chunks import chunks
from edgekit.data.augment.color import OPERATIONS, luma
from edgekit.data.augment.draws import Draws, draw
from edgekit.data.augment.filters import add_noise, blur_kernel, cut_out, gaussian_blur, sobel
from edgekit.data.augment.geometry import central_box, crop_resize_flip, mirror_and_turn
from edgekit.recipe import Augmentation
from edgekit.sizes import ImageSize, SizeLike


class Augment:
    """Random views of uint8 batches.

    Crop, resize, flip and rotation; color jitter and color drop; blur, Sobel and noise; cutout, in this order.

    Args:
        config: the transformations, their probabilities and strengths.
        size: of the views, H x W, in pixels.
        mean: of the normalization (x / 255 - mean) / std, the last step.
        std: of the normalization.
    """

    def __init__(self, config: Augmentation, size: SizeLike, mean: float, std: float) -> None:
        self.config = config.at(size)
        self.size = ImageSize.of(size)
        self.mean = mean
        self.std = std

    def __call__(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """Make random views of each image.

        Args:
            pixels: uint8 (n, h, w, 3), on any device.
            generator: a CPU generator; all randomness comes from it.
            count: number of views per image.

        Returns:
            float32 (count * n, 3, H, W) on the same device, channels last in memory, normalized; the first n rows are
            the first view of each image.
        """
        return normalized(self.views(pixels, generator, count), self.mean, self.std)

    def views(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """Make random views without normalization: float32 (count * n, 3, H, W) in [0, 1], also under autocast."""
        n, height, width, _ = pixels.shape
        return self.apply(pixels, self.draw(count * n, height, width, generator).to(pixels.device))

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw the parameters of n views of images of this height and width."""
        return draw(self.config, self.size, n, height, width, generator)

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Make views with given parameters, without waiting for the device; only the pixels of the noise are random.

        Args:
            pixels: uint8 (n, h, w, 3), or float32 in [0, 1].
            draws: of a multiple of n views, on the pixels' device.

        Returns:
            float32 (views, 3, H, W) in [0, 1], also under autocast.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            images = self._geometry(pixels, draws)
            if "jitter" in draws.counts:
                _jitter(images, draws)
            for operation in ("gray", "blur", "sobel", "noise", "cutout"):
                if operation in draws.counts:
                    self._some(operation, images, draws)
        return images

    def _geometry(self, pixels: Tensor, draws: Draws) -> Tensor:
        boxes, flips, turns = draws.geometry()
        n, height, width, _ = pixels.shape
        views = len(boxes) // n
        quarter = turns if self.config.rotate > 0 else None
        top, left, *box = central_box(height, width, self.size)
        turned_box = quarter is not None and not self.size.is_square  # a view that is turned shows another part
        if self.config.crop > 0 or box != list(self.size) or turned_box:
            return crop_resize_flip(pixels, boxes, flips, self.size, quarter, views)
        images = pixels[:, top : top + box[0], left : left + box[1]].permute(0, 3, 1, 2).float()
        images = images / 255.0 if pixels.dtype == torch.uint8 else images
        images = images.repeat(views, 1, 1, 1).contiguous()
        return images if self.config.flip == 0 and quarter is None else mirror_and_turn(images, flips, quarter)

    def _some(self, operation: str, images: Tensor, draws: Draws) -> None:
        """Apply an operation, in place, to the views that it was drawn for."""
        index, parameters = draws.of(operation)
        normals = None
        if operation == "noise":
            generator = torch.Generator(images.device).manual_seed(draws.noise_seed)
            normals = torch.randn(len(index), *images.shape[1:], device=images.device, generator=generator)
        for part in chunks(len(index), _bytes(images), images.device):
            chosen, values = images.index_select(0, index[part]), parameters[part]
            if operation == "gray":
                result = luma(chosen).expand_as(chosen)
            elif operation == "blur":
                result = gaussian_blur(chosen, values[:, 0], blur_kernel(self.size.shorter))
            elif operation == "sobel":
                result = sobel(chosen)
            elif normals is not None:
                result = add_noise(chosen, normals[part], values[:, 0])
            else:
                result = cut_out(chosen, values, self.mean)
            images.index_copy_(0, index[part], result)


def normalized(views: Tensor, mean: float, std: float) -> Tensor:
    """Return (views - mean) / std of views (n, 3, H, W), which are overwritten, channels last in memory."""
    return views.sub_(mean).mul_(1.0 / std).contiguous(memory_format=torch.channels_last)


def _jitter(images: Tensor, draws: Draws) -> None:
    """Apply brightness, contrast, saturation and hue in place, with factors per image and an order per group."""
    index, parameters = draws.of("jitter")
    for group, factors, order in zip(
        *(t.tensor_split(len(draws.orders)) for t in (index, parameters)), draws.orders, strict=True
    ):
        for part in chunks(len(group), _bytes(images), images.device):
            chosen = images.index_select(0, group[part])
            for operation in order:
                chosen = OPERATIONS[operation](chosen, factors[part, operation])
            images.index_copy_(0, group[part], chosen)


def _bytes(images: Tensor) -> int:
    return images[0].numel() * images.element_size()
