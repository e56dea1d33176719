"""Calibration: the images that INT8's ranges are taken from, and those ranges, collected once for all schemes and methods."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError
from edgekit.export import ranges
from edgekit.progress import Advance, progress


class Calibration:
    """The calibration images of one export, and the distributions that they give the activations.

    Args:
        model: the float ONNX.
        images: uint8 (n, s, s, 3), without labels.
        folder: for what is made on the way.

    Raises:
        ExportError: there are no images.
    """

    def __init__(self, model: Path, images: NDArray[np.uint8], folder: Path) -> None:
        if not len(images):
            raise ExportError("no calibration images: INT8 needs some to find the activations' ranges")
        self.model = model
        self.images = images
        self.folder = folder

    @cached_property
    def histograms(self) -> dict[str, ranges.Histogram]:
        """The distribution of every float activation, by the name of its tensor; collected when first asked for."""
        with self.progress() as advance:
            return ranges.collect(self.model, self.images, advance)

    def progress(self) -> contextlib.AbstractContextManager[Advance]:
        """Show the progress of one calibration, in images."""
        return progress("calibrate", len(self.images), unit="images")

    def describe(self, method: ranges.Method = "percentile") -> dict[str, Any]:
        """What the bundle records about it."""
        how = {"percentile": ranges.PERCENTILE} if method == "percentile" else {}
        return {"method": method, **how, "images": len(self.images)}
