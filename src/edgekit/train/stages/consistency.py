"""Consistency on pseudo-labels: which class a weak view of an unlabeled image has, whether that counts, and what a strong view loses by it.

All statistics run over the images of all processes, are float32 whatever the autocast, and are buffers: a checkpoint holds them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.numerics import precise

_MOMENTUM = 0.99  # of the running means; FreeMatch has 0.999 for a million steps
_FLOOR = 1e-6  # of a share that is divided by
SETTLED = 50  # steps after which the running means say something


def align(probabilities: Tensor, share: Tensor, target: Tensor) -> Tensor:
    """Distribution alignment (ReMixMatch, Berthelot et al. 2020, section 3.1): normalize(q * target / share).

    Args:
        probabilities: q (n, k).
        share: (k) the running mean of q over the unlabeled images.
        target: (k) what it should be.
    """
    aligned = probabilities * (target / share.clamp(min=_FLOOR))
    return aligned / aligned.sum(1, keepdim=True)


def class_thresholds(level: Tensor, share: Tensor) -> Tensor:
    """FreeMatch's thresholds (k) (Wang et al. 2023, equation 8): share / max(share) * level.

    Args:
        level: scalar, the running mean of the highest probability (equation 5).
        share: (k) the running mean of the probabilities (equation 6).
    """
    return share / share.max() * level


def pseudo_label_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of strong views under the pseudo-labels that count, averaged over all images (FixMatch, equation 4).

    Args:
        logits: (n, k) of the strong views.
        labels: int64 (n), the pseudo-labels.
        counts: bool (n).

    Returns:
        float32 scalar; 0 where none counts.
    """
    return (F.cross_entropy(precise(logits), labels, reduction="none") * counts).mean()


def drift(share: Tensor, start: Tensor) -> Tensor:
    """Total variation distance (0 to 1) of two distributions over classes (k): the share of images that changed their class."""
    return (share - start).abs().sum() / 2


class Decided(NamedTuple):
    """Pseudo-labels int64 (n), and which of them count, bool (n)."""

    labels: Tensor
    counts: Tensor


class PseudoLabels(nn.Module):
    """Turns logits of weak views into pseudo-labels.

    Args:
        start: (k) mean probabilities that the model gives the pool before it is trained.
        target: (k) shares to align to, or None for no alignment.
        threshold: the confidence from which one counts, or adaptive.
        max_drift: `drift` from the start beyond which the pseudo-labels are not to be trusted.
    """

    def __init__(
        self, start: Tensor, target: Tensor | None, threshold: float | Literal["adaptive"], max_drift: float
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.max_drift = max_drift
        self.register_buffer("start", precise(start).clone())
        self.register_buffer("target", None if target is None else precise(target).clone())
        self.register_buffer(
            "share", precise(start).clone()
        )  # of the classes in the probabilities, before the alignment
        self.register_buffer("aligned_share", precise(start if target is None else target).clone())
        self.register_buffer("level", torch.tensor(1 / len(start)))
        self.register_buffer("steps", torch.tensor(0, dtype=torch.int64))
        self.start: Tensor
        self.target: Tensor | None
        self.share: Tensor
        self.aligned_share: Tensor
        self.level: Tensor
        self.steps: Tensor

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Decided:
        """Pseudo-labels of weak views' logits (n, k), and an update of the running means."""
        probabilities = precise(logits).softmax(1)
        self._follow(self.share, everywhere(probabilities.mean(0)))
        aligned = self._aligned(probabilities)
        if self.threshold == "adaptive":
            means = everywhere(torch.cat([aligned.mean(0), aligned.max(1).values.mean()[None]]))
            self._follow(self.aligned_share, means[:-1])
            self._follow(self.level, means[-1])
        self.steps += 1
        return self._decided(aligned)[0]

    @torch.no_grad()
    def judge(self, logits: Tensor) -> tuple[Decided, Tensor]:
        """Pseudo-labels of other images' logits (n, k) and their confidence (n); the running means stay as they are."""
        return self._decided(self._aligned(precise(logits).softmax(1)))

    def drift(self) -> float:
        """How far the classes' shares have moved from the start; 0 in the first steps. Waits for the device."""
        return float(drift(self.share, self.start)) if int(self.steps) >= SETTLED else 0.0

    def _aligned(self, probabilities: Tensor) -> Tensor:
        return probabilities if self.target is None else align(probabilities, self.share, self.target)

    def _decided(self, aligned: Tensor) -> tuple[Decided, Tensor]:
        confidence, labels = aligned.max(1)
        if self.threshold == "adaptive":
            counts = confidence > class_thresholds(self.level, self.aligned_share)[labels]
        else:
            counts = confidence >= self.threshold
        return Decided(labels, counts), confidence

    @staticmethod
    def _follow(mean: Tensor, value: Tensor) -> None:
        mean.lerp_(value, 1 - _MOMENTUM)


def everywhere(mean: Tensor) -> Tensor:
    """The mean over all processes, whose shares of the batch are equal."""
    if world_size() > 1:
        dist.all_reduce(mean)
        mean /= world_size()
    return mean
