"""Calibration: the images, and the distributions of the activations on them, collected once for all schemes and methods."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError
from edgekit.files import atomic_write, sha256
from edgekit.foreign import Unreadable, read_npz, understood
from edgekit.locks import locked
from edgekit.progress import Advance, progress
from edgekit.quantization import CalibrationRecord
from edgekit.quantize import ranges


class Calibration:
    """The calibration images of one export, and the distributions of the activations on them.

    Args:
        model: the float ONNX.
        images: uint8 (n, h, w, 3), without labels.
        folder: cache of the collected distributions. Another object with the same model and images finds them there, also in another
            process.
        drawn: how the images were drawn, for the bundle (see `selection.draw`).

    Raises:
        ExportError: there are no images.
    """

    def __init__(
        self, model: Path, images: NDArray[np.uint8], folder: Path, drawn: Mapping[str, Any] | None = None
    ) -> None:
        if not len(images):
            raise ExportError("no calibration images: INT8 needs images to find the ranges of the activations")
        self.model = model
        self.images = images
        self.folder = folder
        self.drawn = dict(drawn or {})

    @cached_property
    def histograms(self) -> dict[str, ranges.Histogram]:
        """The distribution of every float activation, by tensor name; collected on first use.

        Raises:
            ExportError: see `ranges.collect`.
        """
        content = hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()
        path = self.folder / f"ranges-{sha256(self.model)[:16]}-{content[:16]}.npz"
        with locked(path.with_suffix(".lock"), wait=True):  # a waiting process finds what the other one collected
            found = _load(path)
            if found is None:
                with self.progress() as advance:
                    found = ranges.collect(self.model, self.images, advance)
                _save(found, path)
        return found

    def progress(self) -> contextlib.AbstractContextManager[Advance]:
        """Show the progress of one calibration, in images."""
        return progress("calibrate", len(self.images), unit="images")

    def describe(self, method: ranges.Method = "percentile") -> CalibrationRecord:
        """The record for the bundle."""
        how = {"percentile": ranges.PERCENTILE} if method == "percentile" else {}
        return CalibrationRecord.model_validate({"method": method, **how, "images": len(self.images), **self.drawn})


def _save(histograms: Mapping[str, ranges.Histogram], path: Path) -> None:
    extremes = np.array([[h.lowest, h.highest, h.reach] for h in histograms.values()])
    counts = np.array([h.counts for h in histograms.values()])
    with atomic_write(path) as stream:
        np.savez(stream, names=np.array(list(histograms)), extremes=extremes, counts=counts)


def _load(path: Path) -> dict[str, ranges.Histogram] | None:
    found = {}
    try:
        archive = read_npz(path, ["names", "extremes", "counts"])
        with understood(path, "ranges"):
            rows = zip(archive["names"].tolist(), archive["extremes"].tolist(), archive["counts"], strict=True)
            for name, (lowest, highest, reach), counts in rows:
                found[name] = ranges.Histogram()
                found[name].lowest, found[name].highest, found[name].reach = lowest, highest, reach
                found[name].counts[:] = counts
    except Unreadable:
        return None
    return found
