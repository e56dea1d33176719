"""What an export starts from, whatever it was given as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import Candidates


@dataclass(frozen=True)
class ModelSource:
    """A model with everything that its export needs.

    Attributes:
        name: of the model, for the bundle.
        model: uint8 images (n, s, s, 3) -> float32 logits (n, classes), s being the preprocessing's image size; or a float ONNX
            that does.
        classes: names, in the order of the logits.
        preprocessing: how an image file becomes such pixels.
        calibration: uint8 (m, s, s, 3), without labels; or a pool to draw them from.
        evaluation: uint8 (k, s, s, 3) and labels (k,) to verify on; None where nobody gave labeled images.
        output: where the bundle goes if nothing else is asked for.
        provenance: where the model came from, for the bundle.
        notes: what a user should know, one sentence each.
        random: whether the weights are random ones.
        trained: what the trained model answers, by output, where that is not `model` itself.
    """

    name: str
    model: nn.Module | Path
    classes: list[str]
    preprocessing: Preprocessing
    calibration: NDArray[np.uint8] | Candidates
    evaluation: tuple[NDArray[np.uint8], NDArray[np.int64]] | None
    output: Path
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    random: bool = False
    trained: Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]] | None = None
