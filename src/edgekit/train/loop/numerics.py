"""Numbers as exact as losses need them, whatever the autocast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def precise(vectors: Tensor) -> Tensor:
    """float32 at least."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def unit(vectors: Tensor) -> Tensor:
    """l2-normalized rows of (n, d), in float32 at least."""
    return F.normalize(precise(vectors), dim=1)
