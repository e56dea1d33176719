"""Consistency on pseudo-labels: the pseudo-labels of weak views of unlabeled images, which of them count, and the loss of strong views.

All statistics cover the images of all processes. They are float32, also under autocast, and buffers, so that checkpoints hold them.
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
_FLOOR = 1e-6  # of divisors
SETTLED = 50  # steps until the running means no longer depend on their start


def align(probabilities: Tensor, share: Tensor, target: Tensor) -> Tensor:
    """Return aligned probabilities (n, k): normalize(q * target / share) (ReMixMatch, Berthelot et al. 2020, section 3.1).

    Args:
        probabilities: q (n, k).
        share: (k) the running mean of q over the unlabeled images.
        target: (k) the desired mean.
    """
    aligned = probabilities * (target / share.clamp(min=_FLOOR))
    return aligned / aligned.sum(1, keepdim=True)


def class_thresholds(level: Tensor, share: Tensor) -> Tensor:
    """Return the thresholds (k) of the classes: share / max(share) * level (FreeMatch, Wang et al. 2023, equation 8).

    Args:
        level: scalar, the running mean of the highest probability (equation 5).
        share: (k) the running mean of the probabilities (equation 6).
    """
    return share / share.max() * level


def pseudo_label_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the cross-entropy of strong views and the pseudo-labels that count, averaged over all images (FixMatch, equation 4).

    Args:
        logits: (n, k) of the strong views.
        labels: int64 (n), the pseudo-labels.
        counts: bool (n).

    Returns:
        float32 scalar; 0 if none counts.
    """
    return (F.cross_entropy(precise(logits), labels, reduction="none") * counts).mean()


def drift(share: Tensor, start: Tensor) -> Tensor:
    """Return the total variation distance of two distributions over classes (k), in [0, 1]: the share of images that changed their class."""
    return (share - start).abs().sum() / 2


class PseudoLabeled(NamedTuple):
    """Pseudo-labels int64 (n), and which of them count, bool (n)."""

    labels: Tensor
    counts: Tensor


class PseudoLabels(nn.Module):
    """Turn logits of weak views into pseudo-labels.

    Args:
        start: (k) mean probabilities of the model on the pool, before training.
        target: (k) shares to align to; None for no alignment.
        threshold: smallest confidence of a pseudo-label that counts; or adaptive.
        max_drift: limit of `drift` from the start.
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
    def forward(self, logits: Tensor) -> PseudoLabeled:
        """Return the pseudo-labels for logits (n, k) of weak views, and update the running means."""
        probabilities = precise(logits).softmax(1)
        self._update(self.share, everywhere(probabilities.mean(0)))
        aligned = self._aligned(probabilities)
        if self.threshold == "adaptive":
            means = everywhere(torch.cat([aligned.mean(0), aligned.max(1).values.mean()[None]]))
            self._update(self.aligned_share, means[:-1])
            self._update(self.level, means[-1])
        self.steps += 1
        return self._labeled(aligned)[0]

    @torch.no_grad()
    def label(self, logits: Tensor) -> tuple[PseudoLabeled, Tensor]:
        """Return the pseudo-labels for logits (n, k) of other images, and their confidence (n), without an update of the running means."""
        return self._labeled(self._aligned(precise(logits).softmax(1)))

    def drift(self) -> float:
        """Return the `drift` of the class shares since the start; 0 in the first steps. Waits for the device."""
        return float(drift(self.share, self.start)) if int(self.steps) >= SETTLED else 0.0

    def _aligned(self, probabilities: Tensor) -> Tensor:
        return probabilities if self.target is None else align(probabilities, self.share, self.target)

    def _labeled(self, aligned: Tensor) -> tuple[PseudoLabeled, Tensor]:
        confidence, labels = aligned.max(1)
        if self.threshold == "adaptive":
            counts = confidence > class_thresholds(self.level, self.aligned_share)[labels]
        else:
            counts = confidence >= self.threshold
        return PseudoLabeled(labels, counts), confidence

    @staticmethod
    def _update(mean: Tensor, value: Tensor) -> None:
        mean.lerp_(value, 1 - _MOMENTUM)


def everywhere(mean: Tensor) -> Tensor:
    """Return the mean over all processes, whose parts of the batch have equal sizes."""
    if world_size() > 1:
        dist.all_reduce(mean)
        mean /= world_size()
    return mean
