"""What an export starts from, whatever it was given as."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.preprocess import Preprocessing


@dataclass(frozen=True)
class Source:
    """A model with everything that its export needs.

    Attributes:
        name: of the model, for the bundle.
        model: uint8 images (n, s, s, 3) -> float32 logits (n, classes), s being the preprocessing's image size.
        classes: names, in the order of the logits.
        preprocessing: how an image file becomes such pixels.
        calibration: uint8 (m, s, s, 3), without labels.
        evaluation: uint8 (k, s, s, 3) and labels (k,) to verify on.
        output: where the bundle goes if nothing else is asked for.
        provenance: where the model came from, for the bundle.
        notes: what a user should know, one sentence each.
        random: whether the weights are random ones.
    """

    name: str
    model: nn.Module
    classes: list[str]
    preprocessing: Preprocessing
    calibration: NDArray[np.uint8]
    evaluation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    output: Path
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    random: bool = False
