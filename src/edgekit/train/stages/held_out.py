"""Checks of pseudo-labels on held-out images: labeled images from which no model learns.

The held-out images are those of the probe set. They are treated like the pool: the averaged model predicts their classes on weak views,
with the same alignment and the same threshold. Each check compares two numbers with a limit:

- overconfidence: confidence minus accuracy of the images that would count as pseudo-labels. If it is too high, the pseudo-labels are
  wrong, for instance because the labels are wrong. Fine-tuning drops them.
- pool difference: the share of images that count in the pool, against that in the probe set. If it is too high, the pool shows other
  things than the labeled images. Such pseudo-labels teach little, but dropping them gains nothing: this is only a warning.

Both numbers are lower bounds at 95 %, so that few images prove nothing. One failed check has no consequences, two in a row have. Without
a probe set, there is only the label budget: a linear probe on the frozen encoder must be better than guessing (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from edgekit.intervals import unpaired, wilson
from edgekit.shares import percent, share_of

MAX_IMAGES = 500  # held-out images of a check
_IN_A_ROW = 2  # failed checks before anything happens
_MIN_GAIN = 0.1  # of the range between chance and 1, which the accuracy of the linear probe must be able to reach

LabelCheck = Literal["better than guessing", "not better than guessing", "too few labels to tell"]


@dataclass(frozen=True)
class HeldOutCheck:
    """The predictions for the held-out images and for the pool at one time.

    Args:
        images: number of held-out images.
        counted: number of held-out images that would count as pseudo-labels.
        right: number of those whose predicted class is right.
        confidence: mean confidence of those, in [0, 1]; 0 if none counts.
        pool_images: images of the pool since the previous check.
        pool_counted: number of those that counted as pseudo-labels.
    """

    images: int
    counted: int
    right: int
    confidence: float
    pool_images: int
    pool_counted: int

    @property
    def overconfidence(self) -> float:
        """Lower bound of confidence minus accuracy of the held-out images that would count; 0 if none does."""
        if not self.counted:
            return 0.0
        return max(0.0, self.confidence - wilson(self.right / self.counted, self.counted)[1])

    @property
    def pool_difference(self) -> float:
        """Lower bound of the absolute difference between the shares of images that count, in the pool and in the held-out images."""
        if not self.images or not self.pool_images:
            return 0.0
        shares = self.pool_counted / self.pool_images, self.counted / self.images
        low, high = unpaired(*shares, (self.pool_images, self.images))
        return max(0.0, low, -high)

    @property
    def wrong(self) -> str:
        """Sentence for overconfident pseudo-labels."""
        return (
            f"on the probe set, the model is confident about {self.counted} of {self.images} images (mean confidence {self.confidence:.0%}), "
            f"but only {self.right} of these are right"
        )

    @property
    def other_pool(self) -> str:
        """Sentence for a pool that differs from the held-out images."""
        pool, held_out = share_of(self.pool_counted, self.pool_images), share_of(self.counted, self.images)
        return (
            f"the pool seems to show other things than the labeled images: {percent(pool)} of its pseudo-labels are confident, but "
            f"{percent(held_out)} on the probe set"
        )

    def content(self) -> dict[str, Any]:
        """Return the fields, for the record of the stage and the checkpoint."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], prefix: str = "") -> HeldOutCheck | None:
        """Read a check from a mapping with further keys; return None if it holds no check.

        Args:
            content: a mapping from names to numbers or None.
            prefix: of the names of the fields.
        """
        if content.get(f"{prefix}images") is None:
            return None
        counts = {name: int(content[prefix + name]) for name in FIELDS if name != "confidence"}
        return cls(confidence=float(content[f"{prefix}confidence"]), **counts)


FIELDS = tuple(field.name for field in fields(HeldOutCheck))


class HeldOutChecks:
    """The checks of one fine-tuning, and what follows from them.

    Args:
        max_gap: limit of `HeldOutCheck.overconfidence` and `HeldOutCheck.pool_difference`.
    """

    def __init__(self, max_gap: float) -> None:
        self.max_gap = max_gap
        self.last: HeldOutCheck | None = None
        self.other_pool: HeldOutCheck | None = None  # the first check that confirmed that the pool differs
        self._wrong_in_a_row = 0
        self._other_in_a_row = 0

    @property
    def wrong(self) -> bool:
        """Whether the pseudo-labels have been shown to be wrong."""
        return self._wrong_in_a_row >= _IN_A_ROW

    def add(self, check: HeldOutCheck, counts: bool) -> None:
        """Add a check.

        Args:
            check: the newest one.
            counts: whether it may fail; False in the first steps, in which the averaged model moves away from the linear probe.
        """
        self.last = check
        self._wrong_in_a_row = self._wrong_in_a_row + 1 if counts and check.overconfidence > self.max_gap else 0
        self._other_in_a_row = self._other_in_a_row + 1 if counts and check.pool_difference > self.max_gap else 0
        if self.other_pool is None and self._other_in_a_row >= _IN_A_ROW:
            self.other_pool = check

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers, and None for what there is not yet."""
        last = dict.fromkeys(FIELDS) if self.last is None else self.last.content()
        other = dict.fromkeys(FIELDS) if self.other_pool is None else self.other_pool.content()
        return {
            **last,
            **{f"other_{name}": value for name, value in other.items()},
            "wrong_in_a_row": self._wrong_in_a_row or None,
            "other_in_a_row": self._other_in_a_row or None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore `state`; checkpoints of older versions hold none of it."""
        self.last = HeldOutCheck.from_content(state)
        self.other_pool = HeldOutCheck.from_content(state, "other_")
        self._wrong_in_a_row = int(state.get("wrong_in_a_row") or 0)
        self._other_in_a_row = int(state.get("other_in_a_row") or 0)


def check_pseudo_labels(
    labels: Tensor, counts: Tensor, confidence: Tensor, truth: Tensor, pool: tuple[int, int]
) -> HeldOutCheck:
    """Compare the pseudo-labels of held-out images with their classes.

    Args:
        labels: int64 (n), the pseudo-labels.
        counts: bool (n), which of them would count.
        confidence: (n), in [0, 1].
        truth: int64 (n), the classes.
        pool: images of the pool since the previous check, and how many of them counted.
    """
    counted = int(counts.sum())
    mean = float(confidence[counts].double().mean()) if counted else 0.0
    return HeldOutCheck(len(labels), counted, int((labels == truth)[counts].sum()), mean, *pool)


def check_labels(error: float | None, labels: Tensor) -> LabelCheck:
    """Check that labels match their images, without a probe set: a linear probe on the frozen encoder must be better than guessing.

    Args:
        error: leave-one-out error of the probe; None if a class has a single label.
        labels: int64 (n).
    """
    if error is None:
        return "too few labels to tell"
    chance = float(labels.bincount().max()) / len(labels)
    low, high = wilson(1 - error, len(labels))
    if high < chance + _MIN_GAIN * (1 - chance):
        return "not better than guessing"
    return "better than guessing" if low > chance else "too few labels to tell"


def weak_generator(step: int) -> torch.Generator:
    """Return the generator for the views of held-out images, separate from that of the training: checks do not change its results."""
    return torch.Generator().manual_seed(step)
