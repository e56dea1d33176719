"""Pixels of many images: the interface of arrays, of chosen rows of an array, and of images decoded on demand."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.sizes import ImageSize, SizeLike


class Pixels(Protocol):
    """Images (n, H, W, 3) uint8 that are read by rows, such as a NumPy array; other classes decode or collect the rows on access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.uint8]:
        """Return the images at a slice, a mask or an array of rows; for one row number, its image (H, W, 3)."""
        ...

    def __array__(self) -> NDArray[Any]:
        """Return all images: `np.asarray(pixels)`."""
        ...


@runtime_checkable
class OnDemand(Pixels, Protocol):
    """Pixels that are made on access: choosing and cropping cost nothing before."""

    def subset(self, rows: NDArray[np.int64]) -> OnDemand:
        """Return the images at `rows`, in that order."""
        ...

    def center_crop(self, size: SizeLike) -> OnDemand:
        """Return the centers of this size."""
        ...


class ChosenRows:
    """Rows of an array in any order, without copying it: it may be a memory map larger than the memory.

    Args:
        array: (m, H, W, 3) uint8; not changed.
        rows: (n,) positions in it.
    """

    def __init__(self, array: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self.array = read_only(array)
        self.rows = rows
        self.dtype = array.dtype
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        return self.array[self.rows[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)

    def subset(self, rows: NDArray[np.int64]) -> ChosenRows:
        """Return the images at `rows`, in that order."""
        return ChosenRows(self.array, self.rows[rows])

    def center_crop(self, size: SizeLike) -> ChosenRows:
        """Return the centers of this size."""
        return ChosenRows(_center(self.array, size), self.rows)


def choose(pixels: Pixels, rows: NDArray[np.int64]) -> Pixels:
    """Return the images at `rows`, in that order, without a copy; `pixels` does not change."""
    if isinstance(pixels, OnDemand):
        return pixels.subset(rows)
    array = np.asarray(pixels)
    if np.array_equal(rows, np.arange(len(rows))):
        return read_only(array[: len(rows)])
    return ChosenRows(array, rows)


def center_crop(pixels: Pixels, size: SizeLike) -> Pixels:
    """Return the centers of this size, without a copy."""
    return pixels.center_crop(size) if isinstance(pixels, OnDemand) else _center(np.asarray(pixels), size)


def read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a read-only view of the array."""
    view = array.view()
    view.flags.writeable = False
    return view


def margins(shape: tuple[int, ...], size: ImageSize) -> tuple[int, int]:
    """Return the first row and the first column of the center of images (n, H, W, 3); a side that is too short stays whole."""
    return max(0, (shape[1] - size.height) // 2), max(0, (shape[2] - size.width) // 2)


def _center(array: NDArray[np.uint8], size: SizeLike) -> NDArray[np.uint8]:
    size = ImageSize.of(size)
    top, left = margins(array.shape, size)
    return array[:, top : top + size.height, left : left + size.width]
