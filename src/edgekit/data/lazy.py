"""Pixels that are decoded on access, in place of an array that fits neither on the disk nor into memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.images import content_digest
from edgekit.data.pixels import margins
from edgekit.data.source import ImageSource
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing, bounded_decoding
from edgekit.processors import usable_cpus
from edgekit.sizes import ImageSize, SizeLike

_PART = 16  # images per task of a thread


class LazyPixels:
    """Reads like an array (n, H, W, 3) uint8: an index, a slice, a mask or an array of rows returns decoded pixels.

    Every image is compared with the digest that it was indexed with. So a stage trains on exactly the images that its record lists,
    and test images stay out of the pool, whatever happens to the files meanwhile.

    Args:
        source: where the images are read.
        preprocessing: from the upright RGB image to the stored one.
        digests: content digests of the images of the source; an image with an empty one (unreadable) must not be accessed.
        rows: (n,) positions of these images in the source, in this order; default all.
        center: the part to keep: its first row, its first column and its size; None: all.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        digests: Sequence[str],
        rows: NDArray[np.int64] | None = None,
        center: tuple[int, int, ImageSize] | None = None,
    ) -> None:
        self.source = source
        self.preprocessing = preprocessing
        self.digests = digests
        self.rows = np.arange(len(source.names)) if rows is None else rows
        self.center = center or (0, 0, preprocessing.image_size)
        self.shape = (len(self.rows), *self.center[2], 3)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return self[[index]][0]
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode") as pool:
            for future in self.decode_into(out, rows, pool):
                future.result()
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[:]
        return pixels if dtype is None else pixels.astype(dtype)

    def subset(self, rows: NDArray[np.int64]) -> LazyPixels:
        """Return the images at `rows`, in that order, still undecoded."""
        return LazyPixels(self.source, self.preprocessing, self.digests, self.rows[rows], self.center)

    def center_crop(self, size: SizeLike) -> LazyPixels:
        """Return the centers of this size."""
        top, left, whole = self.center
        size = ImageSize.of(size)
        down, right = margins(self.shape, size)
        part = ImageSize(min(size.height, whole.height), min(size.width, whole.width))
        return LazyPixels(self.source, self.preprocessing, self.digests, self.rows, (top + down, left + right, part))

    def decode_into(
        self, out: NDArray[np.uint8], rows: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> list[Future[None]]:
        """Decode rows[i] into out[i]; return the futures, whose results raise DataError if an image has changed."""

        def work(start: int) -> None:
            for i in range(start, min(start + _PART, len(rows))):
                out[i] = self._decode(int(self.rows[rows[i]]))

        return [pool.submit(work, start) for start in range(0, len(rows), _PART)]

    def _decode(self, row: int) -> NDArray[np.uint8]:
        try:
            with bounded_decoding():
                image = self.source.rgb(row)
                if content_digest(image) == self.digests[row]:
                    top, left, part = self.center
                    return self.preprocessing(image)[top : top + part.height, left : left + part.width]
            reason = "its pixels are no longer those that were indexed"
        except DataError as error:
            reason = error.reason
        raise DataError(
            f"{self.source.path(row)}: changed while it was in use: {reason}",
            "put it back and run the same command again to resume from the last checkpoint, or choose another --run to train on the "
            "images as they are now",
        )
