"""Batches of uint8 images whose order depends on the seed and the epoch alone, so that a resumed training sees the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset

from edgekit.data.images import ImageSet
from edgekit.recipe.budget import even_batches, whole_batches
from edgekit.train.loop.distributed import rank, world_size
from edgekit.train.loop.step import Batch

_AHEAD = 2  # batches to prepare while one is trained on


def seed_for(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one use, for instance `seed_for(recipe.seed, "pretrain", step)`; different paths are independent."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Batches(Protocol):
    """The source of the batches of a training.

    `batch_size` counts the images of all processes together, `steps` the batches of an epoch.
    """

    batch_size: int
    steps: int

    def stream(self, start: int) -> Iterator[Batch]:
        """This process's share of every batch from step `start` on (counted over all epochs), without end.

        The batch of a step depends on the seed and the step alone.
        """
        ...


class ShuffledImages:
    """Shuffled batches of images in memory.

    Args:
        images: what the batches are drawn from.
        batch_size: images a batch, of all processes together.
        seed: with the epoch, decides the order.
        every: show every image in every epoch, in batches of nearly equal size (see `edgekit.recipe.budget.even_batches`); else all
            batches are full, as NT-Xent and the queue of MoCo need them, and an epoch leaves out the images of a partial batch.

    Raises:
        ValueError: the batch cannot be divided among the processes.
    """

    def __init__(self, images: ImageSet, batch_size: int, seed: int, every: bool = False) -> None:
        if batch_size % world_size():
            raise ValueError(f"a batch of {batch_size} cannot be divided among {world_size()} processes")
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        own = batch_size // world_size()
        self._shares = (
            even_batches(len(images), batch_size, world_size())
            if every
            else [own] * whole_batches(len(images), batch_size)
        )  # images of each process, step by step
        self._begins = [0, *accumulate(self._shares)]
        self.steps = len(self._shares)

    def stream(self, start: int) -> Iterator[Batch]:
        """See `Batches`."""
        for rows in self.rows(start):
            yield self.batch(rows, self.images.images[rows])

    def rows(self, start: int) -> Iterator[np.ndarray]:
        """Which images, sorted, are this process's share of every batch from step `start` on, without end."""
        epoch, first = divmod(start, self.steps)
        while True:
            order = np.random.default_rng(seed_for(self.seed, epoch)).permutation(len(self.images))
            order = np.resize(
                order, max(len(order), world_size() * self._begins[-1])
            )  # starts again to fill the last batch
            for step in range(first, self.steps):
                share = self._shares[step]
                begin = world_size() * self._begins[step] + rank() * share
                # Sorted rows read a memory map in its order; a batch's own order carries no information.
                yield np.sort(order[begin : begin + share])
            epoch, first = epoch + 1, 0

    def batch(self, rows: np.ndarray, images: np.ndarray) -> Batch:
        """A batch of the images at `rows`, whose pixels are `images`."""
        batch = Batch(images=torch.from_numpy(images), index=torch.from_numpy(rows))
        if self.images.labels is not None:
            batch["labels"] = torch.from_numpy(self.images.labels[rows])
        return batch


class Ahead(IterableDataset[Batch]):
    """The remaining batches of a training, prepared by a thread while the device works; pinned if that lets copies overlap.

    Args:
        batches: where they come from.
        start: the first step.
        stop: the step after the last one.
        pin: page-lock the tensors, for asynchronous copies to a GPU.
    """

    def __init__(self, batches: Batches, start: int, stop: int, pin: bool) -> None:
        self.batches = batches
        self.start = start
        self.stop = stop
        self.pin = pin

    def __iter__(self) -> Iterator[Batch]:
        stream = self.batches.stream(self.start)

        def prepare() -> Batch:
            batch = next(stream)
            return Batch(**{k: v.pin_memory() for k, v in batch.items()}) if self.pin else batch  # type: ignore[attr-defined,typeddict-item]

        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            waiting: list[Future[Batch]] = []
            for _ in range(self.start, self.stop):
                while len(waiting) < _AHEAD:
                    waiting.append(thread.submit(prepare))
                yield waiting.pop(0).result()
            for future in waiting:
                future.cancel()
