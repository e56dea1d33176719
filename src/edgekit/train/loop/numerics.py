"""Numerical precision for losses, independent of autocast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def precise(vectors: Tensor) -> Tensor:
    """Convert to float32, unless the precision is higher."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def unit(vectors: Tensor) -> Tensor:
    """Return l2-normalized rows of (n, d), at least in float32."""
    return F.normalize(precise(vectors), dim=1)
