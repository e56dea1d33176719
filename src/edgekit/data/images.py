"""Decoded images with their names, content digests and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.pixels import OnDemand, Pixels, center_crop
from edgekit.sizes import ImageSize, SizeLike


@dataclass(frozen=True)
class Skipped:
    """A file, or a sample of a shard or table, that could not be decoded as an image."""

    path: str
    reason: str


def content_digest(image: Image.Image) -> str:
    """Return the BLAKE2b-128 of an upright RGB image's size and pixels: equal for the same picture in any lossless file."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def spread_rows(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of `count` rows, sorted and evenly spaced: in a set sorted by class, every class is among them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images of one size.

    Args:
        images: (n, H, W, 3) uint8, read-only. An array is C-contiguous and may be a memory map. The pool, and a budget of all
            labels, may exceed the memory: then they are pixels on demand, and each access to rows collects or decodes them.
        names: n paths relative to the source's folder, with forward slashes.
        digests: n BLAKE2b-128 digests (32 hexadecimal digits) of the upright RGB pixels and size before resizing.
        labels: (n,) int64 indices into the classes; where images have several, (n, k) int64 of 0 and 1; None where there are no labels.

    Raises:
        ValueError: the lengths differ, or the images have another shape or dtype.
    """

    images: Pixels
    names: list[str]
    digests: list[str]
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count, *shape = self.images.shape
        if len(shape) != 3 or shape[2] != 3 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be (n, H, W, 3) uint8, not {self.images.shape} {self.images.dtype}")
        lengths = {count, len(self.names), len(self.digests)} | (
            {len(self.labels)} if self.labels is not None else set()
        )
        if len(lengths) != 1:
            raise ValueError(f"images, names, digests and labels differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> ImageSize:
        """H and W, in pixels."""
        return ImageSize(int(self.images.shape[1]), int(self.images.shape[2]))

    def subset(self, index: Sequence[int] | NDArray[Any]) -> ImageSet:
        """Return a copy of the images at `index` (integers, or a mask of n booleans), in that order."""
        rows = np.arange(len(self))[np.asarray(index)] if len(index) else np.zeros(0, dtype=np.int64)
        return ImageSet(
            images=np.ascontiguousarray(self.images[rows]),
            names=[self.names[i] for i in rows],
            digests=[self.digests[i] for i in rows],
            labels=self.labels[rows] if self.labels is not None else None,
        )

    def center_crop(self, size: SizeLike) -> ImageSet:
        """Return the centers of this size, for images that are stored larger than models take; of an array, a copy."""
        if all(have <= wanted for have, wanted in zip(self.size, ImageSize.of(size), strict=True)):
            return self
        cropped = center_crop(self.images, size)
        images = cropped if isinstance(cropped, OnDemand) else np.ascontiguousarray(cropped)
        return ImageSet(images=images, names=self.names, digests=self.digests, labels=self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content digests in their order, the labels and the size; it does not depend on the names."""
        digest = hashlib.sha256(f"S={self.size}\n".encode())  # of a square, its side, as in older stage records
        digest.update("\n".join(self.digests).encode())
        # The spelling of the digests in older stage records.
        digest.update(b"unlabelled" if self.labels is None else self.labels.astype("<i8").tobytes())
        return digest.hexdigest()
