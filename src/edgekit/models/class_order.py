"""The order of classes that only folders name: sorted by letter (0, 1, 10, 11, 2, …) or by number (0, 1, 2, …)."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_CERTAIN = 3.0  # standard errors between two orders


def natural(names: list[str]) -> list[str]:
    """Sort names by the numbers in them: class_2 before class_10."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name

    return sorted(names, key=key)


def hits(orders: tuple[list[str], list[str]], decided: NDArray[np.int64], true: list[str]) -> tuple[int, int, bool]:
    """How often a network is right with its logits in one order or another, and whether the two differ by more than chance.

    Args:
        orders: two orders of the same names.
        decided: (n,) the position of each image's largest logit.
        true: the names of the n images' classes.

    Returns:
        Hits in the first order, hits in the second, and whether they differ by more than three standard errors. Images that are
        right in both orders do not count: McNemar's test (1947).
    """
    first, second = (np.array(names)[decided] == np.array(true) for names in orders)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    certain = (only_first - only_second) ** 2 > _CERTAIN**2 * (only_first + only_second)
    return int(first.sum()), int(second.sum()), certain
