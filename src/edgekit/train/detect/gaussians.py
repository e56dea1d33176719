"""The Gaussians of PaDiM: mean and whitening of the patches at each place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.progress import progress


def fit_gaussians(patches: Tensor, regularization: float) -> tuple[Tensor, Tensor]:
    """Estimate a Gaussian for each place (PaDiM, section 3.2): S = 1 / (n - 1) sum (x - mean)(x - mean)^T + e I.

    Args:
        patches: float32 (n, places, features), n >= 2.
        regularization: e, as a share of the mean variance over all places and features.

    Returns:
        The means, float32 (places, features), and for each place L of S^-1 = L L^T, float32 (places, features, features).
    """
    count, places, features = patches.shape
    mean = patches.double().mean(0)
    epsilon = regularization * float(patches.double().var(0).mean().clamp_min(1e-12))
    whitening = torch.empty(places, features, features)
    with progress("Gaussians", places, unit="places") as advance:
        for place in range(places):
            centered = patches[:, place].double() - mean[place]
            covariance = centered.T @ centered / (count - 1) + epsilon * torch.eye(features, dtype=torch.float64)
            # S = C C^T gives S^-1 = C^-T C^-1, so that L is the transposed inverse of C.
            root = torch.linalg.cholesky(covariance)
            inverse = torch.linalg.solve_triangular(root, torch.eye(features, dtype=torch.float64), upper=False)
            whitening[place] = inverse.T.float()
            advance()
    return mean.float(), whitening


def draw_channels(widths: list[int], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw features at random, from each level in proportion to its channels and at least one (PaDiM, section 3.1 and table 1).

    Args:
        widths: channels of each level.
        count: of all together; all of them where there are no more.
        seed: of the draw.

    Returns:
        For each level the channels, ascending.
    """
    total = sum(widths)
    if count >= total:
        return [np.arange(width) for width in widths]
    shares = [max(1, width * count // total) for width in widths]
    for i in sorted(range(len(widths)), key=lambda i: -widths[i]):
        shares[i] = min(widths[i], shares[i] + max(0, count - sum(shares)))
    generator = np.random.default_rng(seed)
    return [np.sort(generator.choice(width, part, replace=False)) for width, part in zip(widths, shares, strict=True)]
