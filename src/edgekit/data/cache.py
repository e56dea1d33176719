"""The cache between commands, in `$EDGEKIT_CACHE`: decoded images, content digests, indices of shards.

An entry is complete or absent; a damaged one, or one of another version, counts as absent. A cache that cannot be written is not an error.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.files import atomic_write, cache_folder, write_bytes
from edgekit.foreign import Unreadable, read_json, understood
from edgekit.temporary import remove_debris

_DAYS = 30  # an entry that was not read for this long is deleted when another is written


def entry_folder(kind: str) -> Path:
    """Return the folder of the entries of a kind."""
    return cache_folder() / kind


def load_json(kind: str, key: str) -> Any:
    """Read an entry; None if there is no complete one."""
    path = entry_folder(kind) / f"{key}.json"
    try:
        content = read_json(path, None)
    except Unreadable:
        return None
    _touch(path)
    return content


def save_json(kind: str, key: str, content: Any) -> None:
    """Write an entry, if the cache can be written."""
    folder = entry_folder(kind)
    _purge(folder)
    with suppress(EdgekitError):
        write_bytes(folder / f"{key}.json", json.dumps(content, separators=(",", ":")).encode())


def load_images(key: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Read decoded images of this shape, memory-mapped copy-on-write; None if there is no such entry."""
    path = entry_folder("images") / f"{key}.npy"
    try:
        with understood(path, "a NumPy array"):
            images = np.load(path, mmap_mode="c", allow_pickle=False)
    except Unreadable:
        return None
    _touch(path)
    return np.asarray(images) if images.shape == shape and images.dtype == np.uint8 else None


def save_images(key: str, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
    """Write decoded images block by block.

    Raises:
        EdgekitError: the disk is full, or the cache cannot be written.
    """
    folder = entry_folder("images")
    _purge(folder)
    with atomic_write(folder / f"{key}.npy") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in blocks:
            stream.write(block.data)


def no_room(size: int) -> str:
    """Return why `size` bytes of decoded images cannot be added, or an empty string."""
    folder = entry_folder("images")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return f"{folder} has {in_bytes(free)} free" if size * 1.02 > free else ""


def in_bytes(size: float) -> str:
    """Format a number of bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in {"bytes", "kB"} else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _touch(path: Path) -> None:
    with suppress(OSError):  # a read-only cache can still be read
        os.utime(path)


def _purge(folder: Path) -> None:
    """Delete entries that were not used for a month, and leftovers of killed writers."""
    remove_debris(folder)
    oldest = time.time() - _DAYS * 86400
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:  # another process was faster, or it is not ours to delete
            continue
