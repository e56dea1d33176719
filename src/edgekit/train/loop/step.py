"""The inputs and outputs of a training task at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor


class Batch(TypedDict, total=False):
    """`images` uint8 (n, h, w, 3), `index` int64 (n) of the images in their set and, where there are any, `labels` int64 (n)."""

    images: Tensor
    index: Tensor
    labels: Tensor


@dataclass(frozen=True)
class StepDraws:
    """The randomness of a step, from CPU generators that depend on the seed, the stage and the step alone.

    Args:
        own: differs between processes: for augmentation.
        shared: equal on all processes: for draws over the whole batch.
    """

    own: torch.Generator
    shared: torch.Generator


class StepOutcome(TypedDict):
    """The loss (scalar with gradient) and scalars for the log (no gradient)."""

    loss: Tensor
    logs: dict[str, Tensor]
