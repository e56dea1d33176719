"""Batches of images that are decoded ahead of the training and not stored."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from edgekit.data.images import ImageSet
from edgekit.data.lazy import LazyPixels
from edgekit.processors import usable_cpus
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.step import Batch

_BUFFER_BYTES = 256 << 20  # limit of the images decoded ahead (but always the next batch)
_MOST_AHEAD = 16  # batches


def shuffled(images: ImageSet, batch_size: int, seed: int, every: bool = False) -> ShuffledImages:
    """Return shuffled batches of images in memory or decoded on demand; the batches are the same.

    Args:
        images: what the batches are drawn from.
        batch_size: images a batch, of all processes together.
        seed: with the epoch, decides the order.
        every: show every image in every epoch (see `ShuffledImages`).
    """
    kind = StreamedImages if isinstance(images.images, LazyPixels) else ShuffledImages
    return kind(images, batch_size, seed, every)


class StreamedImages(ShuffledImages):
    """The batches of `ShuffledImages`, bit for bit, decoded by threads ahead of the training.

    The images of a step depend on the seed and the step, and each is one read at a known position: starting at any step costs
    nothing, and every process decodes only its own share. Threads decode the next batches during training; the amount decoded ahead
    is bounded.

    Args:
        images: their pixels are `LazyPixels`.
        batch_size: images a batch, of all processes together.
        seed: with the epoch, decides the order.
        every: show every image in every epoch (see `ShuffledImages`).
    """

    def stream(self, start: int) -> Iterator[Batch]:
        """See `Batches`.

        Raises:
            DataError: an image is missing or changed since it was indexed.
        """
        pixels = self.images.images
        assert isinstance(pixels, LazyPixels)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata; the images were decoded before
        all_rows = self.rows(start)
        share = self.batch_size // world_size()
        ahead = min(_MOST_AHEAD, max(1, _BUFFER_BYTES // (share * int(np.prod(pixels.shape[1:])))))
        waiting: deque[tuple[np.ndarray, np.ndarray, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(_threads(), thread_name_prefix="stream")
        try:
            while True:
                while len(waiting) < ahead:
                    rows = next(all_rows)
                    out = np.empty((len(rows), *pixels.shape[1:]), dtype=np.uint8)
                    waiting.append((rows, out, pixels.decode_into(out, rows, pool)))
                rows, out, futures = waiting.popleft()
                for future in futures:
                    future.result()
                yield self.batch(rows, out)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _threads() -> int:
    """This process's share of the machine's processors."""
    return max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
