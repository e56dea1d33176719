"""The images that variants are judged on: the evaluation set or, where there is none, images held back from calibration.

INT8 that is judged on the images that calibrated it looks better than it is: its ranges were made for them.
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
from edgekit.quantize.selection import ADVISED, FEWEST, Candidates

Evaluation = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Judged:
    """What variants are judged on, and what is left to calibrate INT8 with.

    Attributes:
        images: uint8 (k, s, s, 3).
        labels: int64 (k,); None where there are none.
        calibration: the images that INT8 may be calibrated with.
        held_back: whether `images` are of the same pool as the calibration's, and none of them is among these.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    calibration: Candidates
    held_back: bool

    @classmethod
    def of(cls, evaluation: Evaluation | None, candidates: Candidates) -> Judged:
        """Take the evaluation set, or hold images back.

        Raises:
            ExportError: there are no images to calibrate with.
        """
        if not candidates.total:
            raise ExportError("no calibration images: INT8 needs some to find the activations' ranges")
        if evaluation is not None:
            return cls(*evaluation, candidates, False)
        rest, held = candidates.held_back()
        images = candidates.read(held if len(held) else np.arange(candidates.total))
        return cls(np.ascontiguousarray(images), None, rest, len(held) > 0)

    def require_enough(self, few_images: bool) -> None:
        """Make sure that there are images enough to calibrate INT8 with.

        Args:
            few_images: whether the user wants it with fewer all the same.

        Raises:
            ExportError: there are fewer than `FEWEST`.
        """
        count = self.calibration.drawn
        if count >= FEWEST or few_images:
            return
        beside = f" beside the {len(self.images)} that are held back to judge it" if self.held_back else ""
        raise ExportError(
            f"INT8 would be calibrated with {count} images{beside}: fewer than {FEWEST} say too little about its ranges",
            f"give more images ({ADVISED} or more are advised), or add --few-images if there are no more",
        )

    @property
    def where(self) -> str:
        """Which images these are, in words."""
        if self.labels is not None:
            return "test images"
        return "images held back from calibration" if self.held_back else "calibration images themselves"

    def describe(self) -> dict[str, Any]:
        """For the bundle."""
        return {
            "images": len(self.images),
            "labels": self.labels is not None,
            "held_back": self.held_back,
            "are": self.where,
        }


def shared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """How many of some images (n, s, s, 3) are among others, pixel by pixel."""
    digests = {_digest(image) for image in other}
    return sum(_digest(image) in digests for image in one)


def notes(variants: Iterable[Variant]) -> list[str]:
    """What a user should know of how INT8 was calibrated and judged, one sentence each."""
    found = []
    calibrations = [v.quantization.calibration for v in variants if v.quantization is not None and v.quantization.calibration]
    if (count := min((c.images for c in calibrations if c.images is not None), default=ADVISED)) < ADVISED:
        found.append(
            f"INT8 is calibrated with only {count} images ({ADVISED} or more are advised): what is rare may lie beyond its ranges"
        )
    if overlap := max((c.also_judged_on for c in calibrations), default=0):
        found.append(
            f"{overlap} of the images that calibrate INT8 are also among those that it is judged on: its loss may be larger than it looks"
        )
    return found


def merged(first: Sequence[str], more: Sequence[str]) -> list[str]:
    """Notes without repetitions, in order."""
    return list(dict.fromkeys([*first, *more]))


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
