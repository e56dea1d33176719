"""The images that variants are evaluated on: the evaluation set or, if there is none, images held back from calibration.

INT8 that is evaluated on its own calibration images looks better than it is: its ranges fit these images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.quantize.selection import ADVISED, FEWEST, CalibrationPool
from edgekit.text import counted

Evaluation = tuple[NDArray[np.uint8], NDArray[Any]]  # images and labels in the task's form
Judging = tuple[NDArray[np.uint8], NDArray[Any] | None]  # the same, or without labels


@dataclass(frozen=True)
class Judged:
    """The images that variants are evaluated on, and the pool for INT8 calibration.

    Attributes:
        images: uint8 (k, h, w, 3).
        labels: in the task's form, k of them; None where there are none.
        calibration: the pool that calibration images are drawn from.
        held_back: whether `images` have no labels and are left out of calibration.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any] | None
    calibration: CalibrationPool
    held_back: bool

    @classmethod
    def of(cls, evaluation: Judging | None, candidates: CalibrationPool) -> Judged:
        """Take the evaluation set, or hold images back.

        Raises:
            ExportError: there are no calibration images.
        """
        if not candidates.total:
            raise ExportError("no calibration images: INT8 needs images to find the ranges of the activations")
        if evaluation is not None:
            return cls(*evaluation, candidates, evaluation[1] is None)
        rest, held = candidates.held_back()
        images = candidates.read(held if len(held) else np.arange(candidates.total))
        return cls(np.ascontiguousarray(images), None, rest, len(held) > 0)

    def require_enough(self, few_images: bool) -> None:
        """Check that there are enough images to calibrate INT8.

        Args:
            few_images: whether the user accepts fewer.

        Raises:
            ExportError: there are fewer than `FEWEST`.
        """
        count = self.calibration.drawn
        if count >= FEWEST or few_images:
            return
        beside = f" ({len(self.images)} more are held back for evaluation)" if self.held_back else ""
        raise ExportError(
            f"only {counted(count, 'image')} to calibrate INT8{beside}: fewer than {FEWEST} give unreliable ranges",
            f"give more images ({ADVISED} or more are advised), or add --few-images if you have no more",
        )

    @property
    def labeled(self) -> Evaluation | None:
        """The images with their labels; None where there are none."""
        return None if self.labels is None else (self.images, self.labels)

    @property
    def where(self) -> str:
        """What these images are, in words."""
        if self.labels is not None:
            return "test images"
        return "images held back from calibration" if self.held_back else "calibration images themselves"

    def describe(self) -> dict[str, Any]:
        """The record for the bundle."""
        return {
            "images": len(self.images),
            "labels": self.labels is not None,
            "held_back": self.held_back,
            "are": self.where,
        }


def shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """The number of images in `one` (n, h, w, 3) that are also in `other`, pixel by pixel."""
    digests = {_digest(image) for image in other}
    return sum(_digest(image) in digests for image in one)


def notes(variants: Iterable[Variant]) -> list[str]:
    """Notes for the user on the calibration and evaluation of INT8, one sentence each."""
    found = []
    calibrations = [
        v.quantization.calibration for v in variants if v.quantization is not None and v.quantization.calibration
    ]
    if (count := min((c.images for c in calibrations if c.images is not None), default=ADVISED)) < ADVISED:
        found.append(
            f"INT8 is calibrated with only {counted(count, 'image')} ({ADVISED} or more are advised): rare images may exceed its ranges"
        )
    if overlap := max((c.also_judged_on for c in calibrations), default=0):
        found.append(
            f"{overlap} of the calibration images of INT8 are also evaluation images: its real loss of accuracy may be larger"
        )
    return found


def merged(first: Sequence[str], more: Sequence[str]) -> list[str]:
    """Notes without repetitions, in order."""
    return list(dict.fromkeys([*first, *more]))


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
