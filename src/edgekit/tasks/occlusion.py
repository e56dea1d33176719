"""Which places of an image speak for a model's answer: cover them one after another, and see how much the answer loses.

Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2 (figure 6): a square in a neutral color is moved over the
image. It asks nothing of the network but its outputs, so it works for every runtime and precision, and shows what that very variant does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]
Scores = Callable[[Pixels], NDArray[np.floating]]

# A square covers two by two cells: a quarter of the shorter side (Zeiler and Fergus: 50 of 224 pixels). It moves on by one cell.
_CELLS = 8
BATCH = 16  # images per run: few enough for a small device
WEAK = 1.0  # log-odds, a factor of e: where no place speaks more strongly, drawings stay pale


@dataclass(frozen=True)
class Explanation:
    """Which places of an image speak for a class.

    Attributes:
        name: of the class.
        heat: float32 (height, width), as the model sees the image: by how much the log-odds of the class fall where the place is covered, in
            natural logarithms, the mean of all squares that cover it. Negative: the place speaks against the class.
    """

    name: str
    heat: Heat

    @property
    def span(self) -> tuple[float, float]:
        """The values from which to which a drawing goes from no color to the fullest."""
        return drawn_span(self.heat)


def drawn_span(heat: Heat) -> tuple[float, float]:
    """Return the values of a map between which a drawing goes from no color to the fullest: from 0 to the highest, `WEAK` at least."""
    return 0.0, max(float(heat.max(initial=0.0)), WEAK)


def log_odds(scores: NDArray[np.floating], chosen: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of a class under the softmax: its score minus the log-sum-exp of the others.

    Unlike the probability it does not saturate, and unlike the logit it does not change when all logits do by the same amount.

    Args:
        scores: (n, classes), logits. Of one class alone, they are returned as they are.
        chosen: index of the class.

    Returns:
        float64 (n,).
    """
    own, others = scores[:, chosen].astype(np.float64), np.delete(scores.astype(np.float64), chosen, axis=1)
    if not others.shape[1]:
        return own
    highest = others.max(axis=1)
    return np.asarray(own - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1)))


def run_count(size: tuple[int, int]) -> int:
    """Return how many images a model answers for one map, the uncovered one among them.

    Args:
        size: height and width of what the model takes.
    """
    rows, columns = (len(edges) for edges in cell_edges(size))
    return 1 + rows * columns


def cell_edges(size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the cells of a height and a width begin and end: their numbers of cells, plus one, ascending from 0. Cells are about square."""
    shorter = min(size)
    side = shorter / min(_CELLS, shorter)
    rows, columns = (np.rint(np.linspace(0, length, max(1, round(length / side)) + 1)) for length in size)
    return rows.astype(np.int64), columns.astype(np.int64)


def covered(pixels: Pixels) -> Iterator[Pixels]:
    """Yield copies of an image, uint8 (h, w, 3), each with one square in the image's mean color; squares go row by row.

    The mean of the training images, which stood for gray in the paper, is not known to a bundle. Squares reach over the borders by one cell, so
    that every cell is covered by four of them.
    """
    rows, columns = cell_edges(pixels.shape[:2])
    color = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    for top, bottom in _spans(rows):
        for left, right in _spans(columns):
            copy = pixels.copy()
            copy[top:bottom, left:right] = color
            yield copy


def occlusion_map(
    pixels: Pixels,
    scores: Scores,
    odds: Callable[[NDArray[np.floating], int], NDArray[np.float64]] = log_odds,
    chosen: int | None = None,
    *,
    advance: Callable[[int], object] = lambda steps: None,
) -> tuple[int, Heat]:
    """Return the class that a map is of, and the map.

    Args:
        pixels: uint8 (h, w, 3), as the model takes them.
        scores: maps uint8 (n, h, w, 3) to the scores of all classes, (n, classes).
        odds: maps scores and the index of a class to (n,), how strongly they speak for it.
        chosen: index of the class; None: the one with the highest score.
        advance: called with the number of images after each run; `run_count` says how many there will be.

    Returns:
        The index, and float32 (h, w): see `Explanation.heat`.
    """
    whole = scores(pixels[None])
    advance(1)
    if chosen is None:
        chosen = int(whole[0].argmax())
    rows, columns = cell_edges(pixels.shape[:2])
    values: list[NDArray[np.float64]] = []
    copies = covered(pixels)
    while batch := list(islice(copies, BATCH)):
        values.append(odds(scores(np.stack(batch)), chosen))
        advance(len(batch))
    drops = odds(whole, chosen)[0] - np.concatenate(values).reshape(len(rows), len(columns))
    return chosen, _smooth(mean_of_squares(drops), rows, columns)


def mean_of_squares(drops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each cell, (rows, columns), the mean over the four squares that cover it, from (rows + 1, columns + 1)."""
    return (drops[:-1, :-1] + drops[1:, :-1] + drops[:-1, 1:] + drops[1:, 1:]) / 4


def _spans(edges: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Begin and end of each square along an axis: two cells, at the borders one."""
    last = len(edges) - 1
    return [(int(edges[max(i - 1, 0)]), int(edges[min(i + 1, last)])) for i in range(last + 1)]


def _smooth(cells: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Heat:
    """Interpolate linearly between the middles of cells: one value for each pixel."""

    def along(values: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
        pixels, middles = np.arange(edges[-1]) + 0.5, (edges[1:] + edges[:-1]) / 2
        return np.stack([np.interp(pixels, middles, row) for row in values])

    return along(along(cells, columns).T, rows).T.astype(np.float32)
