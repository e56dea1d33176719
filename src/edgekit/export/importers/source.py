"""`ModelSource`: the common result of all importers, from which an export starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.export.alarms import AlarmRequest
from edgekit.preprocess import Preprocessing
from edgekit.quantize.selection import CalibrationPool


@dataclass(frozen=True)
class ModelSource:
    """A model with everything that its export needs.

    Attributes:
        name: name of the model, for the bundle.
        model: uint8 images (n, h, w, 3) -> float32 logits (n, classes), h and w being those of the preprocessing; or a float ONNX
            of this form.
        classes: names, in the order of the logits.
        preprocessing: how an image file becomes such pixels.
        calibration: unlabeled images, uint8 (m, h, w, 3); or a pool to draw them from.
        evaluation: uint8 (k, h, w, 3) and labels (k,) for verification, None where they have none; None: images of the pool are held back.
        held_out: labeled images from which no model learned, beside those for verification, to calibrate its confidence on; None: there is
            no such set, and half of the images for verification serve.
        output: default folder of the bundle.
        provenance: where the model came from, for the bundle.
        notes: notes for the user, one sentence each.
        random: whether the weights are random.
        alarm: of an anomaly detector: how the score above which an image is anomalous is set.
        trained: runs the trained model and returns its outputs by name, if that is not `model` itself.
    """

    name: str
    model: nn.Module | Path
    classes: list[str]
    preprocessing: Preprocessing
    calibration: NDArray[np.uint8] | CalibrationPool
    evaluation: tuple[NDArray[np.uint8], NDArray[Any] | None] | None
    output: Path
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    random: bool = False
    held_out: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    alarm: AlarmRequest | None = None
    trained: Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]] | None = None
