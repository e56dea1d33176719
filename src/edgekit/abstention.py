"""The rules by which a classifier answers `unknown`, by name. Cheap to import: a command's options list them."""

from __future__ import annotations

from typing import Literal, get_args

from edgekit.conformal import fewest_samples

Rule = Literal["distance", "probability", "energy"]
DISTANCE, PROBABILITY, ENERGY = get_args(Rule)
RULES: tuple[Rule, ...] = get_args(Rule)

FALSE_ABSTAIN = 0.05  # of the known images, by default
FEWEST = 20  # labeled images: with fewer, the interval of a rate of 5 % reaches beyond 17 %


def fewest_images(false_abstain: float) -> int:
    """The least number of images for a threshold that so large a share of them is below: where it is one of them, and at least `FEWEST`."""
    return max(FEWEST, fewest_samples(false_abstain))
