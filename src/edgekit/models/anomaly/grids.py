"""Resampling as matrix products: features onto one grid of patches, and patch scores to a smooth heat map.

Averaging over neighbors, bilinear interpolation and a Gaussian blur are linear and separable, so that any chain of them is one matrix for
each axis. Products with constants run the same in every runtime, whatever it makes of padding and of the coordinates of a Resize, and cost
less than a convolution with a wide kernel.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Size = tuple[int, int]
Matrix = NDArray[np.float64]


def interpolation(size: int, count: int) -> Matrix:
    """Bilinear interpolation from `size` values to `count`, (count, size), of pixels with centers at half positions (as `align_corners=False`)."""
    at = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, size - 1), at - low
    matrix = np.zeros((count, size))
    np.add.at(matrix, (np.arange(count), low), 1 - share)
    np.add.at(matrix, (np.arange(count), high), share)
    return matrix


def means(size: int, count: int) -> Matrix:
    """Means over `count` even parts of `size` values, (count, size); parts may share values at their borders."""
    matrix = np.zeros((count, size))
    for i in range(count):
        begin, end = i * size // count, -(-(i + 1) * size // count)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix


def neighborhood(size: int, reach: int = 1) -> Matrix:
    """The mean over each value and its `reach` neighbors at either side, zeros beyond the border, (size, size).

    As in the authors' code and in anomalib. A mean over fewer values at the border would be noisier there, and the largest distance of a
    normal image would lie at its border.
    """
    place = np.arange(size)
    return (np.abs(place[:, None] - place) <= reach) / (2 * reach + 1)


def gaussian(size: int, sigma: float) -> Matrix:
    """A Gaussian blur with the standard deviation `sigma`, cut at 4 sigma, (size, size); at a border, its weights are those inside."""
    if sigma <= 0:
        return np.eye(size)
    place = np.arange(size)
    apart = place[:, None] - place
    weights = np.where(np.abs(apart) <= np.ceil(4 * sigma), np.exp(-(apart**2) / (2 * sigma**2)), 0)
    return weights / weights.sum(1, keepdims=True)


def resampling(size: int, count: int, *, aggregate: bool) -> Matrix:
    """From a map's axis to the grid's, (count, size): neighbors averaged where `aggregate`, then interpolated, or averaged on a coarser grid."""
    first = neighborhood(size) if aggregate else np.eye(size)
    return (interpolation if count >= size else means)(size, count) @ first


class PatchGrid(nn.Module):
    """Feature maps of several resolutions as one vector for each place of a grid.

    Args:
        sizes: height and width of each map.
        grid: height and width of the grid.
        aggregate: whether each value is first averaged with its neighbors (3 x 3), the local neighborhood of PatchCore.
        channels: of each map, which channels are taken, int64; empty: all of them.
    """

    def __init__(self, sizes: list[Size], grid: Size, *, aggregate: bool, channels: list[Tensor] | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.count = len(sizes)
        self.chosen = channels is not None
        for i, (height, width) in enumerate(sizes):
            self.register_buffer(
                f"rows_{i}", _tensor(resampling(height, grid[0], aggregate=aggregate)), persistent=False
            )
            columns = resampling(width, grid[1], aggregate=aggregate).T
            self.register_buffer(f"columns_{i}", _tensor(columns), persistent=False)
            if channels is not None:
                self.register_buffer(f"channels_{i}", channels[i])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Patches (n, places, features) of maps (n, c, h, w); the places row by row."""
        parts = []
        for i, every in enumerate(maps):
            values = every.index_select(1, getattr(self, f"channels_{i}")) if self.chosen else every
            parts.append(getattr(self, f"rows_{i}") @ values @ getattr(self, f"columns_{i}"))
        together = torch.cat(parts, 1)
        return together.reshape(-1, together.shape[1], self.grid[0] * self.grid[1]).transpose(1, 2)


class HeatMap(nn.Module):
    """Scores of a grid's places as a heat map of the image: bilinear interpolation, then a Gaussian blur.

    Args:
        grid: height and width of the grid.
        size: height and width of the image, in pixels.
        sigma: standard deviation of the blur, in pixels; 0: none.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: Size, size: Size, sigma: float) -> None:
        super().__init__()
        self.grid = grid
        rows, columns = (gaussian(full, sigma) @ interpolation(few, full) for few, full in zip(grid, size, strict=True))
        self.register_buffer("rows", _tensor(rows), persistent=False)
        self.register_buffer("columns", _tensor(columns.T), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """A map (n, height, width) of scores (n, places) or (n, rows, columns)."""
        return self.rows @ scores.reshape(-1, *self.grid) @ self.columns


def _tensor(matrix: Matrix) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
