"""Whether pseudo-labels deserve their confidence: what labeled images that nothing learns from say about them.

The images are the probe set's; their labels choose no weight. The averaged model, which gives the pool its pseudo-labels, sees weak
views of them, too, with the same alignment and the same threshold. Two things can be wrong:

- those that would count are seldom right: the confidence is not earned, for instance because the labels are wrong;
- far more, or far fewer, of them would count than of the pool: the pool shows something else than the labeled images.

Both are lower bounds at 95 %, so that few images prove little. Without a probe set there is only the label budget: the frozen encoder's
linear probe, leave-one-out, must be better than guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from edgekit.intervals import unpaired, wilson
from edgekit.shares import percent, share_of

MOST = 500  # held-out images that are looked at
_ABOVE_CHANCE = 0.1  # of what there is above chance, which the linear probe must be able to reach

Reason = Literal["", "drift", "wrong", "other pool", "labels"]
Ground = Literal["better than guessing", "not better than guessing", "too few labels to tell"]


@dataclass(frozen=True)
class Look:
    """What the model makes of held-out images at one time.

    Args:
        images: held out.
        counted: of these, how many would count as pseudo-labels.
        right: of those, how many are right.
        confidence: their mean; 0 where none counts.
        pool_images: images of the pool since the look before.
        pool_counted: of these, how many counted.
    """

    images: int
    counted: int
    right: int
    confidence: float
    pool_images: int
    pool_counted: int

    @property
    def overconfidence(self) -> float:
        """Confidence minus accuracy of those that would count, at least; 0 where none does."""
        if not self.counted:
            return 0.0
        return max(0.0, self.confidence - wilson(self.right / self.counted, self.counted)[1])

    @property
    def difference(self) -> float:
        """Share of the pool that counts, minus that of the held-out images (either way), at least."""
        if not self.images or not self.pool_images:
            return 0.0
        shares = self.pool_counted / self.pool_images, self.counted / self.images
        low, high = unpaired(*shares, (self.pool_images, self.images))
        return max(0.0, low, -high)

    def reason(self, max_gap: float) -> Reason:
        """What is wrong; empty where nothing is shown.

        Args:
            max_gap: the largest overconfidence and difference that are let pass.
        """
        if self.overconfidence > max_gap:
            return "wrong"
        return "other pool" if self.difference > max_gap else ""

    def problem(self, max_gap: float) -> str:
        """What is wrong, as the end of a sentence; empty where nothing is shown. See `reason`."""
        reason = self.reason(max_gap)
        if reason == "wrong":
            return (
                f"of {self.images} held-out images (probe set) it is sure of {self.counted} ({self.confidence:.0%} on average), and only "
                f"{self.right} of these are right"
            )
        if reason == "other pool":
            pool, held = share_of(self.pool_counted, self.pool_images), share_of(self.counted, self.images)
            return (
                f"{percent(pool)} of the pool's pseudo-labels are confident, and {percent(held)} of the held-out images' (probe set): the "
                "pool shows something else than the labeled images"
            )
        return ""

    def content(self) -> dict[str, Any]:
        """For the stage's record and its checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Look | None:
        """From a mapping that holds one beside other things; None where it holds none."""
        if content.get("images") is None:
            return None
        counts = {name: int(content[name]) for name in LOOK if name != "confidence"}
        return cls(confidence=float(content["confidence"]), **counts)


LOOK = tuple(field.name for field in fields(Look))


def judged(labels: Tensor, counts: Tensor, confidence: Tensor, truth: Tensor, pool: tuple[int, int]) -> Look:
    """A look from pseudo-labels (n) of held-out images, which of them count (n), their confidence (n) and the true classes (n).

    Args:
        labels: int64.
        counts: bool.
        confidence: of the pseudo-labels.
        truth: int64.
        pool: images of the pool, and how many counted.
    """
    counted = int(counts.sum())
    mean = float(confidence[counts].double().mean()) if counted else 0.0
    return Look(len(labels), counted, int((labels == truth)[counts].sum()), mean, *pool)


def ground(error: float | None, labels: Tensor) -> Ground:
    """Whether labels teach a linear probe on the frozen encoder anything: what there is to check without a probe set.

    Args:
        error: its share of wrong answers, leave-one-out; None where a class has a single label.
        labels: int64 (n).
    """
    if error is None:
        return "too few labels to tell"
    chance = float(labels.bincount().max()) / len(labels)
    low, high = wilson(1 - error, len(labels))
    if high < chance + _ABOVE_CHANCE * (1 - chance):
        return "not better than guessing"
    return "better than guessing" if low > chance else "too few labels to tell"


def weak_generator(step: int) -> torch.Generator:
    """For the views of held-out images: the training's own draws must not depend on whether somebody looks."""
    return torch.Generator().manual_seed(step)
