"""Nearest neighbors by cosine, exactly: one product of a matrix and a vector per query.

The similarity with a class is the mean cosine with its k nearest rows, with all of them where it has fewer. Rows that belong to one class lie
beside each other, so that the nearest row of every class is one pass over the similarities, and the k nearest are k passes.
100,000 rows of 256 values take 9 ms on one core of a server, five neighbors 1 ms more (`benchmarks/gallery_scale.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_SIMILARITIES = 1 << 24  # in memory at a time: 64 MB
NO_ROW = -2  # the similarity with a class that has no row: less than any cosine


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1, float32; rows of zeros stay zero.

    In float64 the squares of float32 neither overflow nor underflow.
    """
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)


def similarities(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosines (m, n) of unit vectors (m, d) with unit vectors (n, d), from -1 to 1."""
    # One query: the product of a matrix and a vector reads each row once, and needs no copy.
    found = (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T
    return np.clip(found, -1, 1, out=found)


def nearest_of_each_class(
    queries: NDArray[np.float32], rows: NDArray[np.float32], starts: NDArray[np.int64], neighbors: int = 1
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield, for blocks of queries, their positions and the similarity (b, classes) with each class.

    Args:
        queries: unit vectors (m, d).
        rows: unit vectors (n, d), grouped by class.
        starts: (classes,) the first row of each class, ascending, from 0.
        neighbors: the rows of a class whose mean counts: the nearest ones, or all where it has fewer.
    """
    for part in _blocks(len(queries), len(rows)):
        yield part, _means(similarities(queries[part], rows), starts, [neighbors])[0]


def leave_one_out(
    queries: NDArray[np.float32],
    positions: NDArray[np.int64],
    rows: NDArray[np.float32],
    starts: NDArray[np.int64],
    neighbors: Sequence[int],
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """As `nearest_of_each_class`, without the row that each query is: `NO_ROW` for a class that has no other row.

    Args:
        queries: unit vectors (m, d), the images of these rows, embedded by the same or by another variant.
        positions: (m,) their rows.
        rows, starts: see `nearest_of_each_class`.
        neighbors: k numbers of rows; the similarities are (k, b, classes), in this order.
    """
    for part in _blocks(len(queries), len(rows)):
        found = similarities(queries[part], rows)
        found[np.arange(len(found)), positions[part]] = NO_ROW
        yield part, _means(found, starts, neighbors)


def _blocks(queries: int, rows: int) -> Iterator[slice]:
    block = max(1, _MOST_SIMILARITIES // max(1, rows))
    for start in range(0, queries, block):
        yield slice(start, min(start + block, queries))


def _means(found: NDArray[np.float32], starts: NDArray[np.int64], neighbors: Sequence[int]) -> NDArray[np.float32]:
    """Return the means (k, b, classes) of the largest similarities of each class, for each number of them; `found` is overwritten."""
    nearest = np.maximum.reduceat(found, starts, axis=1)
    if max(neighbors) == 1:
        return np.stack([nearest] * len(neighbors))
    counts = np.diff(starts, append=found.shape[1])
    totals = np.zeros((len(neighbors), *nearest.shape))
    taken = np.zeros(totals.shape, np.int64)
    wanted = np.array(neighbors)[:, None, None]
    for number in range(max(neighbors)):
        if number:
            nearest = np.maximum.reduceat(found, starts, axis=1)
        here = found == np.repeat(nearest, counts, axis=1)
        equal = np.where(nearest > NO_ROW, np.add.reduceat(here, starts, axis=1, dtype=np.int64), 0)
        more = np.minimum(equal, wanted - taken)
        totals += more * nearest
        taken += more
        found[here] = NO_ROW
    return np.where(taken > 0, totals / np.maximum(taken, 1), NO_ROW).astype(np.float32)
