"""Nearest neighbors by cosine, exactly: one product of a matrix and a vector per query.

Rows that belong to one class lie beside each other, so that the nearest image of every class is one pass over the similarities.
100,000 rows of 256 values take 3 to 4 ms on one core of a server (`benchmarks/gallery_scale.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MOST_SIMILARITIES = 1 << 24  # in memory at a time: 64 MB


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
    queries: NDArray[np.float32], rows: NDArray[np.float32], starts: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield, for blocks of queries, their positions and the similarity (b, classes) of the nearest row of each class.

    Args:
        queries: unit vectors (m, d).
        rows: unit vectors (n, d), grouped by class.
        starts: (classes,) the first row of each class, ascending, from 0.
    """
    block = max(1, _MOST_SIMILARITIES // max(1, len(rows)))
    for start in range(0, len(queries), block):
        part = slice(start, min(start + block, len(queries)))
        yield part, np.maximum.reduceat(similarities(queries[part], rows), starts, axis=1)


def leave_one_out(
    queries: NDArray[np.float32], positions: NDArray[np.int64], rows: NDArray[np.float32], starts: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """As `nearest_of_each_class`, without the row that each query is: -2 for a class that has no other row.

    Args:
        queries: unit vectors (m, d), the images of these rows, embedded by the same or by another variant.
        positions: (m,) their rows.
        rows, starts: see `nearest_of_each_class`.
    """
    block = max(1, _MOST_SIMILARITIES // max(1, len(rows)))
    for start in range(0, len(queries), block):
        part = slice(start, min(start + block, len(queries)))
        found = similarities(queries[part], rows)
        found[np.arange(len(found)), positions[part]] = -2
        yield part, np.maximum.reduceat(found, starts, axis=1)
