"""The losses of the contrastive methods, each with its paper and equation.

All are computed in float32 whatever the autocast (float64 stays). With several processes, each compares its rows with those of all
processes, and its loss is the mean over its own rows: the mean of the processes' losses is the loss of the whole batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.loop.distributed import gather, rank, world_size
from edgekit.train.loop.numerics import unit

_MASKED = -1e9  # a large negative fill: boolean indexing would make shapes dynamic and synchronize with the host
_FARTHER = 5.0  # than any squared distance of unit vectors, which is at most 4


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent, the normalized temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, equation 1).

    For each of the 2n projections, cross-entropy over the 2n - 1 others with its sibling view as the target, averaged over
    all 2n (Google's code sums the two directions, which doubles the gradient; LightlySSL averages as we do).

    Args:
        first: projections (n, d) of the first views.
        second: projections (n, d) of the second views, in the same order.
        temperature: tau > 0.

    Returns:
        float32 scalar.
    """
    similarities, selves, siblings = _compared(first, second)
    mask = _one_hot(selves, similarities)
    return F.cross_entropy((similarities / temperature).masked_fill(mask, _MASKED), siblings)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with a queue (MoCo, He et al. 2020, equation 1; van den Oord et al. 2018).

    For each query, cross-entropy over its own key and all negatives, with its own key as the target; averaged over n.

    Args:
        queries: projections (n, d).
        keys: projections (n, d) of the momentum encoder, in the same order.
        negatives: (m, d), l2-normalized; the same on every process.
        temperature: tau > 0.

    Returns:
        float32 scalar.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = unit(queries), unit(keys)
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ negatives.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def nce(
    projections: Tensor, slots: Tensor, samples: Tensor, temperature: float, log_normalizer: Tensor, images: int
) -> Tensor:
    """Noise-contrastive estimation over a memory bank (InstDisc, Wu et al. 2018, equations 4 to 7).

    P(i|v) = exp(v.f_i / tau) / Z (4) with the normalizing constant Z of `nce_log_normalizer`; noise P_n = 1 / images;
    h(i, v) = P(i|v) / (P(i|v) + m P_n(i)) (6) is the probability that i is v's own image and not one of m draws of the noise;
    the loss is -log h(i, v) - sum over the m draws j of log(1 - h(j, v)) (7), averaged over n. All in logarithms: low
    temperatures do not overflow.

    Args:
        projections: v (n, d).
        slots: f_i (n, d), the bank's l2-normalized slots of the same images.
        samples: f_j (m, d), slots drawn uniformly from the bank, shared by the whole batch.
        temperature: tau > 0.
        log_normalizer: log Z, scalar.
        images: how many the bank holds.

    Returns:
        float32 scalar.
    """
    with torch.autocast(projections.device.type, enabled=False):
        v = unit(projections)
        own = (v * slots).sum(1) / temperature - log_normalizer
        drawn = v @ samples.T / temperature - log_normalizer
    log_noise = math.log(len(samples) / images)  # m P_n
    # log h = -softplus(log m P_n - log P) and log(1 - h) = -softplus(log P - log m P_n)
    return (F.softplus(log_noise - own) + F.softplus(drawn - log_noise).sum(1)).mean()


@torch.no_grad()
def nce_log_normalizer(projections: Tensor, samples: Tensor, temperature: float, images: int) -> Tensor:
    """log Z of `nce`: Z = images * mean of exp(v.f_j / tau) over all draws and the whole batch (Wu et al. 2018, equation 8).

    The paper takes it for a constant and estimates it on the first batches; we do on the first one, as its code does.

    Args:
        projections: v (n, d).
        samples: f_j (m, d), slots drawn uniformly from the bank.
        temperature: tau > 0.
        images: how many the bank holds.

    Returns:
        float32 scalar, the same on every process.
    """
    with torch.autocast(projections.device.type, enabled=False):
        similarities = unit(projections) @ samples.T / temperature
    everybody = gather(similarities.flatten().logsumexp(0, keepdim=True)).logsumexp(0)
    return everybody - math.log(similarities.numel() * world_size() / images)


Mining = Literal["semi-hard", "hard", "all"]


def triplet(first: Tensor, second: Tensor, margin: float, mining: Mining) -> Tensor:
    """Triplet loss on squared distances of l2-normalized projections (FaceNet, Schroff et al. 2015, equation 3).

    Every one of the 2n projections is an anchor a, its sibling view the positive p, the views of other images are candidates
    for the negative: [|a - p|^2 - |a - n|^2 + margin]_+, averaged.

    - semi-hard: the nearest candidate that is farther than the positive (section 3.2, equation 4); where every candidate is
      nearer, the farthest one, as TensorFlow Addons has it (the paper does not say).
    - hard: the nearest candidate.
    - all: every candidate, averaged over all triplets, those without loss included.

    Args:
        first: projections (n, d) of the first views.
        second: projections (n, d) of the second views, in the same order.
        margin: alpha > 0.
        mining: which candidates.

    Returns:
        float32 scalar.
    """
    similarities, selves, siblings = _compared(first, second)
    distances = 2 - 2 * similarities
    positives = distances.gather(1, siblings[:, None])
    same_image = _one_hot(selves, distances) | _one_hot(siblings, distances)
    if mining == "all":
        losses = F.relu(positives - distances + margin).masked_fill(same_image, 0.0)
        return losses.sum() / (len(distances) * (distances.shape[1] - 2))
    candidates = distances.masked_fill(same_image, _FARTHER)
    if mining == "hard":
        negatives = candidates.min(1).values
    else:
        beyond = (distances > positives) & ~same_image
        nearest_beyond = candidates.masked_fill(~beyond, _FARTHER).min(1).values
        farthest = distances.masked_fill(same_image, -1.0).max(1).values
        negatives = torch.where(beyond.any(1), nearest_beyond, farthest)
    return F.relu(positives[:, 0] - negatives + margin).mean()


def _compared(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine similarities (2n, 2N) of this process's projections with those of all, first views before second ones.

    The other two, int64 (2n), say in which column each row stands itself, and in which one its sibling.
    """
    n, total, start = len(first), len(first) * world_size(), len(first) * rank()
    with torch.autocast(first.device.type, enabled=False):  # a matrix product would go back to bfloat16
        first, second = unit(first), unit(second)
        similarities = torch.cat([first, second]) @ torch.cat([gather(first), gather(second)]).T
    own = torch.arange(start, start + n, device=first.device)
    return similarities, torch.cat([own, own + total]), torch.cat([own + total, own])


def _one_hot(columns: Tensor, like: Tensor) -> Tensor:
    """Boolean, of `like`'s shape: true in each row at its column."""
    return columns[:, None] == torch.arange(like.shape[1], device=like.device)
