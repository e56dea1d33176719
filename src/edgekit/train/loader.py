"""Batches of uint8 images whose order depends on the seed and the epoch alone, so that a resumed training sees the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgekit.data.images import ImageSet


def seed_for(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one use, for instance `seed_for(recipe.seed, "pretrain", step)`; different paths are independent."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of indexes; the last partial one is left out (BatchNorm and NT-Xent want whole batches).

    Args:
        count: number of images.
        batch_size: images a batch.
        seed: with the epoch, decides the order.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng(seed_for(self.seed, self.epoch)).permutation(self.count)
        for i in range(len(self)):
            yield order[i * self.batch_size : (i + 1) * self.batch_size].tolist()


class BatchedImages(Dataset[dict[str, Tensor]]):
    """Whole batches by their indexes: `images` uint8 (n, h, w, 3) and, where there are any, `labels` int64 (n)."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        self.images = images
        self.labels = labels

    def __getitem__(self, indexes: list[int]) -> dict[str, Tensor]:
        batch = {"images": torch.from_numpy(self.images[indexes])}
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[indexes])
        return batch


def batches(images: ImageSet, batch_size: int, seed: int) -> DataLoader[dict[str, Tensor]]:
    """A loader of shuffled whole batches."""
    sampler = EpochBatches(len(images), batch_size, seed)
    return DataLoader(BatchedImages(images.images, images.labels), sampler=sampler, batch_size=None)
