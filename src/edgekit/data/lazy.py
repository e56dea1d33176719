"""Pixels that are decoded when they are asked for: what stands in for an array of images that nothing could hold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.images import content_digest
from edgekit.data.source import ImageSource
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing, bounded_decoding
from edgekit.processors import usable_cpus

_PART = 16  # images a task of a thread


class LazyPixels:
    """Reads like an array (n, S, S, 3) uint8: an index, a slice, a mask or an array of rows gives decoded pixels.

    Every image is compared with the digest that it was indexed with, so that what a training sees is what its stage says
    that it saw, and what was kept out of the pool stays out, whatever happens to the files meanwhile.

    Args:
        source: where the images are read.
        preprocessing: from the upright RGB image to the square.
        digests: content digests of the source's images; an empty one (unreadable) must not be asked for.
        rows: (n,) the source's images that these are, in this order; default all.
        margin: pixels cut off at each side.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        digests: Sequence[str],
        rows: NDArray[np.int64] | None = None,
        margin: int = 0,
    ) -> None:
        self.source = source
        self.preprocessing = preprocessing
        self.digests = digests
        self.rows = np.arange(len(source.names)) if rows is None else rows
        self.margin = margin
        side = preprocessing.image_size - 2 * margin
        self.shape = (len(self.rows), side, side, 3)

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
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def subset(self, rows: NDArray[np.int64]) -> LazyPixels:
        """The images at `rows`, in that order, still undecoded."""
        return LazyPixels(self.source, self.preprocessing, self.digests, self.rows[rows], self.margin)

    def center_crop(self, size: int) -> LazyPixels:
        """The central squares of `size` pixels."""
        margin = self.margin + (self.shape[1] - size) // 2
        return LazyPixels(self.source, self.preprocessing, self.digests, self.rows, margin)

    def decode_into(
        self, out: NDArray[np.uint8], rows: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> list[Future[None]]:
        """Futures after which out[i] holds the pixels of rows[i]; their results raise DataError where an image has changed."""

        def work(start: int) -> None:
            for i in range(start, min(start + _PART, len(rows))):
                out[i] = self._decode(int(self.rows[rows[i]]))

        return [pool.submit(work, start) for start in range(0, len(rows), _PART)]

    def _decode(self, row: int) -> NDArray[np.uint8]:
        try:
            with bounded_decoding():
                image = self.source.rgb(row)
                if content_digest(image) == self.digests[row]:
                    pixels, margin = self.preprocessing(image), self.margin
                    return pixels[margin:-margin, margin:-margin] if margin else pixels
            reason = "its pixels are not those that it was indexed with"
        except DataError as error:
            reason = error.reason
        raise DataError(
            f"{self.source.path(row)}: changed while it was in use: {reason}",
            "put it back and repeat the command, which goes on from the last checkpoint; to train on the images as they are now, "
            "choose another --run",
        )
