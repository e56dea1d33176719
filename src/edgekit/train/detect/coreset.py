"""The bank of PatchCore: a few patches that lie near to all of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import RecipeError
from edgekit.machine import memory_bytes
from edgekit.progress import progress
from edgekit.recipe.anomaly import Coreset

_PROJECTED = 128  # features: distances among so many survive a random projection (Johnson & Lindenstrauss)
_SHARE = 0.5  # of the memory that is free
_MOST_BYTES = 1 << 30  # of a bank: an ONNX file holds 2 GB, and a device has less
# Of `auto`: the paper's share. Of few images it is a small bank, which misses much (docs/training.md); of many a bank that a device is slow with.
_PAPER, _FEWEST, _MOST = 0.01, 2000, 10_000
_BLOCK = 1 << 24  # distances that are computed at a time


def projected(patches: Tensor, seed: int) -> Tensor:
    """Patches (n, features) with at most 128 features: products with a Gaussian matrix, as the paper selects on (section 3.2)."""
    features = patches.shape[1]
    if features <= _PROJECTED:
        return patches
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features, _PROJECTED, generator=generator) / _PROJECTED**0.5
    return patches @ matrix


def greedy_coreset(patches: Tensor, count: int, seed: int) -> Tensor:
    """Choose patches so that each patch has a chosen one near to it: greedy k-center (Sener & Savarese 2018; PatchCore, algorithm 1).

    The first is drawn at random; then, again and again, the patch that is farthest from all chosen ones, of equally far ones the first.

    Args:
        patches: float32 (n, features), maybe projected.
        count: how many to choose; fewer are given where all others equal a chosen one.
        seed: of the first.

    Returns:
        int64, rows in the order of their choice.
    """
    own = patches.square().sum(1)
    nearest = torch.full((len(patches),), torch.inf)
    chosen = [int(np.random.default_rng(seed).integers(len(patches)))]
    with progress("coreset", count, unit="patches") as advance:
        while True:
            last = patches[chosen[-1]]
            distances = (own - 2 * (patches @ last) + last.square().sum()).clamp_min_(0)
            distances[chosen[-1]] = 0
            nearest = torch.minimum(nearest, distances)
            advance()
            farthest = int(nearest.argmax())
            if len(chosen) == count or float(nearest[farthest]) <= 0:
                return torch.tensor(chosen)
            chosen.append(farthest)


def bank_size(coreset: Coreset, patches: int, features: int, places: int) -> int:
    """The number of patches of a bank.

    Args:
        coreset: the recipe's: a share of the training patches, their number, or `auto`: 1 % of them, but from 2,000 to 10,000.
        patches: of all training images.
        features: of a patch.
        places: patches of one image.

    Raises:
        RecipeError: the bank takes more memory than there is.
    """
    each = 4 * (2 * features + 2 * places)  # bank and its export; the distances of one image
    free = memory_bytes(key="MemAvailable")
    allowed = min(_MOST_BYTES, int(_SHARE * free)) if free is not None else _MOST_BYTES
    fits = allowed // each
    if coreset == "auto":
        wanted = min(max(_FEWEST, round(_PAPER * patches)), _MOST)
    else:
        wanted = coreset if isinstance(coreset, int) else max(2, round(coreset * patches))
    count = min(wanted, patches)
    if count <= fits:
        return count
    value = f"{np.floor(1e4 * fits / patches) / 1e4:g}" if isinstance(coreset, float) else str(fits)
    raise RecipeError(
        f"anomaly.coreset is {coreset}: a bank of {count:,} patches and the distances of one image from it take {count * each / 1e9:.2g} GB, "
        f"of which {allowed / 1e9:.2g} GB fit",
        f"set it to {value} or less ({fits:,} patches), or take coarser levels or smaller images",
    )


def nearest_of(bank: Tensor, count: int) -> Tensor:
    """The patches of a bank that are nearest to each of its patches, itself first: int64 (k, count).

    Args:
        bank: float32 (k, features), without two that are equal.
        count: at most k.
    """
    rows = max(1, _BLOCK // len(bank))
    found = []
    for start in range(0, len(bank), rows):
        part = bank[start : start + rows]
        distances = torch.cdist(part, bank, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(start, start + len(part))
        distances[torch.arange(len(part)), own] = -1
        found.append(distances.topk(count, largest=False).indices)
    return torch.cat(found)
