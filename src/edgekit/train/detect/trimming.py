"""Leave out the training images that are most unusual, where a pool of normal images holds a few anomalous ones.

An image is as unusual as its most unusual patch, and a patch as far as it is from the patches of the other images: from the nearest one of
the third nearest image, so that two copies of one defect do not vouch for each other. PatchCore's own selection looks for the patches that
are farthest from all others, so a bank without this step holds every defect of the pool.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.progress import progress

_REFERENCES = 16_384  # patches that all others are compared with, the same number of each image
_VOUCHING = 3  # images that must hold something alike


def unusual(patches: Tensor, seed: int) -> NDArray[np.float64]:
    """How unusual each image is among the others, (n,): the largest distance of its patches, see above.

    Args:
        patches: float32 (n, places, features), maybe projected.
        seed: of the draw of patches to compare with.
    """
    count, places, _ = patches.shape
    if count < 2:
        return np.zeros(count)
    vouching = min(_VOUCHING, count - 1)
    each = max(1, min(places, _REFERENCES // count))
    generator = np.random.default_rng(seed)
    rows = torch.from_numpy(np.stack([generator.permutation(places)[:each] for _ in range(count)]))
    references = torch.stack([patches[i, rows[i]] for i in range(count)]).reshape(count * each, -1)
    lengths = references.square().sum(1)
    found = np.zeros(count)
    with progress("trim", count, unit="images") as advance:
        for i in range(count):
            own = patches[i]
            squared = own.square().sum(1, keepdim=True) - 2 * own @ references.T + lengths
            by_image = squared.reshape(places, count, each).amin(2)
            by_image[:, i] = torch.inf
            vouched = by_image.kthvalue(vouching, dim=1).values
            found[i] = float(vouched.max().clamp_min(0).sqrt())
            advance()
    return found


def images_to_drop(count: int, share: float) -> int:
    """How many of so many images such a share is; at least two images stay."""
    return min(int(np.ceil(share * count)), max(0, count - 2)) if share else 0


def kept_images(unusualness: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """The images that are left after so large a share of the most unusual ones is taken out: rows, ascending; at least two of them."""
    count = len(unusualness)
    order = np.argsort(unusualness, kind="stable")
    return np.sort(order[: count - images_to_drop(count, share)])
