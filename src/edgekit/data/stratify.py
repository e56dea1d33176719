"""Draws of images with several labels: iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of
multi-label data", algorithm 1), and N images of each class.

Labels are a matrix (n, k) of 0 and 1. All draws take images in an order that is given, by content and seed, so that a draw is the same on every
machine; a smaller draw is contained in a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def halves(order: Sequence[int], labels: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Divide images into two halves with the same share of each class, by iterative stratification.

    The class with the fewest images that are not divided yet comes first: each of its images goes to the half that misses most of this class, of
    equal ones to that which misses most images, of equal ones to the first. Images without a class come last.

    Args:
        order: positions of the images; ties between images go by it.
        labels: (n, k), of all images.

    Returns:
        The positions of both halves, each in the order.
    """
    rows = np.asarray(order, dtype=np.int64)
    own = labels[rows].astype(bool)
    left = np.ones(len(rows), dtype=bool)
    half = np.zeros(len(rows), dtype=np.int64)
    remaining = own.sum(axis=0)
    wanted = np.stack([own.sum(axis=0) / 2.0] * 2)  # by half and class
    room = np.full(2, len(rows) / 2.0)
    while (remaining > 0).any():
        c = int(np.where(remaining > 0, remaining, len(rows) + 1).argmin())
        for i in np.flatnonzero(left & own[:, c]):
            ahead = wanted[0, c] - wanted[1, c] or room[0] - room[1]
            to = 0 if ahead >= 0 else 1
            half[i] = to
            wanted[to, own[i]] -= 1
            room[to] -= 1
            left[i] = False
            remaining[own[i]] -= 1
    for i in np.flatnonzero(left):
        half[i] = to = 0 if room[0] >= room[1] else 1
        room[to] -= 1
    return rows[half == 0].tolist(), rows[half == 1].tolist()


def stratified(order: Sequence[int], labels: NDArray[np.int64], size: int) -> list[int]:
    """Draw `size` images with about the same share of each class as all of them, and at least one of each class that they have.

    Halves of halves (see `halves`) put all images into one sequence, of which the draw is the beginning. To it comes, for each class that is not in
    it, the first image of the sequence with that class.

    Args:
        order: positions of the images to draw from.
        labels: (n, k), of all images.
        size: from 0 to the number of images; the draw is larger where a rare class adds an image.

    Returns:
        Positions, sorted.
    """
    drawn: list[int] = []
    coming = [list(order)]  # parts of the sequence, the next one last; only those that are needed are divided
    while len(drawn) < size:
        part = coming.pop()
        if len(part) <= size - len(drawn):
            drawn += part
        else:
            first, second = halves(part, labels)
            coming += [second, first]
    there = labels[drawn].any(axis=0) if drawn else np.full(labels.shape[1], size == 0)
    for c in np.flatnonzero(~there):
        part = next((part for part in reversed(coming) if labels[part, c].any()), [])
        while len(part) > 1:
            first, second = halves(part, labels)
            part = first if labels[first, c].any() else second
        drawn += part
    return sorted(set(drawn))


def each_class(order: Sequence[int], labels: NDArray[np.int64], counts: Sequence[int], negatives: int) -> list[int]:
    """Draw at least `counts[c]` images of each class c, and as many images without a class as `negatives`; fewer where there are fewer.

    It goes in rounds. In round r each class that has fewer than r images among those drawn takes its next one in the order, the rarest class
    first: an image that was drawn for a rare class counts for its other classes, too, so that a frequent class seldom draws one for itself.

    Args:
        order: positions of the images to draw from.
        labels: (n, k), of all images.
        counts: images of each class.
        negatives: images without a class.

    Returns:
        Positions, sorted.
    """
    rows = np.asarray(order, dtype=np.int64)
    own = labels[rows].astype(bool)
    groups = np.concatenate([own, ~own.any(axis=1, keepdims=True)], axis=1)  # the last one: without a class
    wanted = np.minimum([*counts, negatives], groups.sum(axis=0))
    queues = [iter(np.flatnonzero(groups[:, g]).tolist()) for g in range(groups.shape[1])]
    drawn = np.zeros(len(rows), dtype=bool)
    have = np.zeros(groups.shape[1], dtype=np.int64)
    rarest_first = np.argsort(groups.sum(axis=0), kind="stable").tolist()
    for r in range(1, int(wanted.max(initial=0)) + 1):
        for g in rarest_first:
            if r <= wanted[g] and have[g] < r:
                i = next(i for i in queues[g] if not drawn[i])
                drawn[i] = True
                have += groups[i]
    return np.sort(rows[drawn]).tolist()
