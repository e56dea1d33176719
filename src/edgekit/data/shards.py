"""WebDataset shards: tars whose members are grouped into samples by the name up to the first dot."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.data.files import Files
from edgekit.data.images import Skipped
from edgekit.data.source import ImageSource, at, numbered
from edgekit.data.tar_index import Label, index_shard, shard_key
from edgekit.data.workers import slow_progress
from edgekit.errors import DataError
from edgekit.preprocess import open_image
from edgekit.recipe import DataConfig
from edgekit.text import counted

_OPEN = 64  # open shards at a time


def open_shards(files: Files, key: str, data: DataConfig, labeled: bool) -> ImageSource:
    """Open the samples of all shards, in the order of the shard names.

    Args:
        files: the tars.
        key: the recipe's key that named them, for error messages.
        data: the recipe's part: `label_column`, `class_names`.
        labeled: whether labels are wanted, from .cls or .json members.

    Raises:
        DataError: a shard cannot be read, none holds an image, or the labels are invalid.
    """
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    stamps: list[tuple[str, int]] = []
    labels: list[Label] = []
    lost: list[Skipped] = []
    notes: list[str] = []
    others = bare = 0
    with slow_progress("index", len(files.names), "shards") as advance:
        for i, shard in enumerate(files.names):
            digest = shard_key(files.path(i))
            index = index_shard(files.path(i), digest, data.label_column if labeled else None)
            names += [f"{shard}/{name}" for name in index.names]
            places += [(i, *place) for place in zip(index.offsets, index.sizes, strict=True)]
            stamps += [(digest, offset) for offset in index.offsets]
            labels += index.labels
            lost += [Skipped(os.path.join(files.base, shard, name), reason) for name, reason in index.damage]
            others, bare = others + index.others, bare + index.bare
            if not index.ended:
                notes.append(f"{shard} has no end mark: it may be truncated, and samples at its end may be lost")
            advance(1)
    if not names:
        first = f": {lost[0].path}: {lost[0].reason}" if lost else ""
        raise DataError(f"{at(key, files.where)}: its shards hold no usable image{first}", "see docs/data.md, Shards")
    if others:
        notes.append(f"left out {counted(others, 'image')} of {files.where}: of the images of a sample, one is used")
    if bare:
        notes.append(f"left out {counted(bare, 'sample')} of {files.where} without an image")
    classes, numbers = numbered(labels, data.class_names, at(key, files.where)) if labeled else ([], None)
    paths = [files.path(i) for i in range(len(files.names))]
    return ImageSource(
        where=files.where,
        names=names,
        read=_ShardReader(paths, names, np.array(places, dtype=np.int64), data.max_pixels),
        stamp=stamps,
        labels=numbers,
        classes=classes,
        notes=notes,
        base=files.base,
        lost=lost,
    )


class _ShardReader:
    """Reads an image at its offset; safe for several threads."""

    def __init__(self, paths: list[Path], names: list[str], places: np.ndarray, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.names = names
        self.places = places
        # A file that leaves the cache is closed when the last thread has read from it.
        self.open = lru_cache(maxsize=_OPEN)(lambda shard: _Opened(paths[shard]))

    def __call__(self, i: int) -> Image.Image:
        shard, offset, size = (int(n) for n in self.places[i])
        try:
            content = self.open(shard).read(offset, size)
        except OSError as error:
            raise DataError(error.strerror or str(error), where=self.names[i]) from error
        if len(content) < size:
            raise DataError("the shard ends inside it", where=self.names[i])
        try:
            return open_image(content, self.max_pixels)
        except DataError as error:
            raise error.at(self.names[i]) from error


class _Opened:
    """A file that any thread may read at any offset."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.handle, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)
