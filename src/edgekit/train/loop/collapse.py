"""The collapse monitor: two numbers that show during training whether the representation collapses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Below this share of 1/sqrt(d) the projections are called collapsed. Healthy trainings end at 0.7 to 1; MoCo's, whose projections
# share a direction for long, were seen at 0.31. Batch-normalized projections (SimSiam's) have mean 0 and cannot all be one point: all
# but one of a batch of n can, a share of 2/sqrt(n). So of 64 images a batch, their collapse stops just above this line.
STD_SHARE = 0.25
MIN_RANK = 2.0


def projection_std(projections: Tensor) -> Tensor:
    """Mean over the dimensions of the standard deviation of the l2-normalized projections (n, d), times sqrt(d).

    1 is a uniform sphere, 0 a single point (SimSiam, Chen & He 2021, figure 2).
    """
    normalized = F.normalize(projections.detach().float(), dim=1)
    return normalized.std(dim=0).mean() * math.sqrt(projections.shape[1])


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalized singular values of the centered features (n, d): between 1 and min(n, d).

    Roy & Vetterli 2007, "The effective rank". Needs no labels; a falling rank is a dimensional collapse.
    """
    centered = features.detach().float() - features.detach().float().mean(dim=0)
    values = torch.linalg.svdvals(torch.nan_to_num(centered))  # a diverged loss is reported elsewhere
    shares = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(shares * torch.log(shares.clamp(min=1e-12))).sum())


def verdict(std: float, rank: float) -> str | None:
    """Return a warning if the representation has collapsed, else None."""
    if std < STD_SHARE:
        return (
            f"the projections are collapsing to a point: their spread is {std:.2f} of that of a uniform sphere (below {STD_SHARE}); lower the "
            "learning rate, or, where all images are nearly alike, take published weights, fewer epochs, or tiles of the images (pretrain.tiles)"
        )
    if rank < MIN_RANK:
        return f"the features are collapsing to a line: their effective rank is {rank:.1f} (below {MIN_RANK:g})"
    return None
