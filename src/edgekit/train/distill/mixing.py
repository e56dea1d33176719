"""Mixed images: convex combinations of two images of a batch, which teacher and student both see.

Zhang et al. 2018 (mixup, arXiv 1710.09412); for distillation Beyer et al. 2022 ("A good teacher is patient and consistent",
arXiv 2106.05237): the teacher answers for the mixed image itself, so no label is mixed, and few images become many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.data.to_device import to_device


@dataclass(frozen=True)
class Mixed:
    """A batch of mixed images.

    Attributes:
        images: (n, c, h, w), row i is (1 - share[i]) image[i] + share[i] image[other[i]].
        share: float32 (n,), from 0 to 0.5: each image is the larger part of its own row.
        other: int64 (n,), a permutation.
    """

    images: Tensor
    share: Tensor
    other: Tensor


def mix(images: Tensor, most: float, generator: torch.Generator) -> Mixed:
    """Mix each image of a batch with another one.

    Args:
        images: float (n, c, h, w), normalized.
        most: the largest share of the other image, from 0 to 0.5. The shares are uniform between 0 and it. At 0.5 the two images
            are exchangeable, which is a share uniform between 0 and 1.
        generator: of the CPU.
    """
    count = len(images)
    share = to_device(most * torch.rand(count, generator=generator), images.device)
    other = to_device(torch.randperm(count, generator=generator), images.device)
    mixed = torch.lerp(images, images[other], share.to(images.dtype).view(-1, 1, 1, 1))
    return Mixed(mixed, share, other)
