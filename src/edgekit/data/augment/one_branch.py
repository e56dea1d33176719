"""The asymmetric setting of SimCLR, which compares single augmentations (Chen et al. 2020, section 3 and figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.data.augment.transform import Augment, normalized
from edgekit.recipe import Augmentation, Transformation
from edgekit.sizes import ImageSize, SizeLike

_OFF = {
    "crop": 0.0,
    "flip": 0.0,
    "rotate": 0.0,
    "jitter": 0.0,
    "gray": 0.0,
    "blur": 0.0,
    "sobel": 0.0,
    "noise": 0.0,
    "cutout": 0.0,
}
# Probabilities of one transformation alone: 1, except where the paper applies it to a share of the images.
_ALONE = {
    "crop": {"crop": 1.0}, "cutout": {"cutout": 1.0}, "color": {"jitter": 0.8, "gray": 0.2}, "sobel": {"sobel": 1.0},
    "noise": {"noise": 1.0}, "blur": {"blur": 1.0}, "rotate": {"rotate": 1.0}, "flip": {"flip": 0.5},
    "jitter": {"jitter": 1.0}, "gray": {"gray": 1.0},
}  # fmt: skip


def alone(config: Augmentation, transformation: Transformation) -> Augmentation:
    """Return an augmentation with one transformation only, at the strength that `config` has."""
    return config.model_copy(update={**_OFF, **_ALONE[transformation]})


class OneBranch:
    """Makes views of which the first is transformed and the others are not; called like an `Augment`.

    Each image is first cropped at random and resized, once for all its views. Then the transformations are applied to the first
    view, in their order; the other views stay as they are.

    Args:
        config: the strengths; its probabilities are ignored.
        transformations: applied to the first view.
        size: of the views, in pixels.
        mean: of the normalization.
        std: of the normalization.
    """

    def __init__(
        self, config: Augmentation, transformations: Sequence[Transformation], size: SizeLike, mean: float, std: float
    ) -> None:
        self.size = ImageSize.of(size)
        self.mean = mean
        self.std = std
        self.shared = Augment(alone(config, "crop"), size, mean, std)
        self.steps = [Augment(alone(config, name), size, mean, std) for name in transformations]

    def __call__(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """See `Augment.__call__`."""
        return normalized(self.views(pixels, generator, count), self.mean, self.std)

    def views(self, pixels: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """See `Augment.views`."""
        shared = self.shared.views(pixels, generator)
        transformed = shared
        for step in self.steps:
            transformed = step.views(transformed.permute(0, 2, 3, 1), generator)
        return torch.cat([transformed, *[shared] * (count - 1)])
