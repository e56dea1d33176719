"""Guided stop-gradient (arXiv 2503.09058) for BYOL and SimSiam: distances decide which crop is the source and which the target.

Each image i gets a partner r(i), another image of the batch. Of the four pairs of a crop of i and a crop of r(i), the closest one is
predicted, and receives the gradient; the other crop of each image is its target. Pulling these two crops toward their own siblings
pushes the closest crops of two different images apart: repulsion without negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.data.to_device import to_device
from edgekit.train.loop.distributed import gather, rank
from edgekit.train.loop.numerics import precise
from edgekit.train.pretrain.byol import BYOL
from edgekit.train.pretrain.siamese import Siamese
from edgekit.train.pretrain.simsiam import SimSiam


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """Draw a random partner for each index, never itself: int64 (count), one cycle through all in a random order.

    All other indices are equally likely.

    Args:
        count: 2 or more.
        generator: a CPU generator.
    """
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def closest(first: Tensor, second: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Which crop of each image and which of its partner's are closest, by Euclidean distance of the projections as they are.

    Args:
        first: projections (n, d) of the first crops.
        second: projections (n, d) of the second crops.
        partner: int64 (n).

    Returns:
        int64 (n) each, 0 for the first crop and 1 for the second: of the image, and of its partner.
    """
    with torch.autocast(first.device.type, enabled=False):
        crops = torch.stack([precise(first), precise(second)])
        # Differences, not the product that is faster: rounding must not decide between near crops.
        squares = [(mine - its).square().sum(1) for mine in crops for its in crops[:, partner]]
    nearest = torch.stack(squares).argmin(0)
    return nearest // 2, nearest % 2


def guidance(partner: Tensor, own: Tensor, its: Tensor) -> Tensor:
    """The weights with which `siamese.negative_cosine` is the guided loss.

    The mean over i of -1/2 [cos(p_1a, z_1a') + cos(p_2b, z_2b')], where a' and b' are the other crops, sums terms of single images:
    each image's crop that was chosen as i's, and its crop that was chosen as the partner's of the image whose partner it is.
    So no predictions need to be gathered from other processes, and SimSiam is the case where both crops weigh the same.

    Args:
        partner: a permutation, int64 (n).
        own: a, 0 or 1, (n): the source crop of each image.
        its: b, 0 or 1, (n): the source crop of each image's partner.

    Returns:
        float32 (2, n): how often each crop of each image is a source, 0 to 2; 2 in all.
    """
    as_partner = torch.empty_like(its)
    as_partner[partner] = its
    second = (own + as_partner).float()
    return torch.stack([2 - second, second])


class Guided(Siamese):
    """Guides the stop-gradient of the method that it is mixed into; partners are drawn from the batch of all processes."""

    def weights(self, targets: list[Tensor], generator: torch.Generator) -> Tensor:
        """Of this process's images, (2, n)."""
        n = len(targets[0])
        first, second = (gather(z.detach()) for z in targets)
        partner = to_device(derangement(len(first), generator), first.device)
        return guidance(partner, *closest(first, second, partner))[:, rank() * n : (rank() + 1) * n]


class BYOLGuided(Guided, BYOL):
    """BYOL with guided stop-gradient: distances and targets are the average's."""


class SimSiamGuided(Guided, SimSiam):
    """SimSiam with guided stop-gradient."""
