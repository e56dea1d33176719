"""Decoding: from a source to one uint8 array, on all processors, kept in a cache that is memory-mapped the next time."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from edgekit import __version__
from edgekit.data.images import Skipped
from edgekit.data.sources import Source
from edgekit.errors import DataError, EdgekitError
from edgekit.files import atomic_write, cache_folder, digest_of, write_json
from edgekit.machine import this_machine
from edgekit.preprocess import Preprocessing
from edgekit.progress import Advance, progress

CACHE_SCHEMA = 1
_CACHE_DAYS = 30  # an entry that nothing has read for so long is deleted when another is written
_CHUNK = 64  # images a task of a thread
_BAR_AFTER_SECONDS = 2.0


@dataclass(frozen=True)
class Decoded:
    """A source's images, decoded.

    Args:
        images: (n, S, S, 3) uint8, row i for name i of the source; writing to it never reaches the cache's file. Rows of
            unreadable images are black.
        digests: n content digests (see `content_digest`); empty for an unreadable image.
        skipped: the unreadable images.
        notes: what a user should know, one sentence each.
    """

    images: NDArray[np.uint8]
    digests: list[str]
    skipped: list[Skipped]
    notes: list[str] = field(default_factory=list)


def content_digest(image: Image.Image) -> str:
    """BLAKE2b-128 of an upright RGB image's size and pixels: the same for the same picture in any lossless file."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def decode(source: Source, preprocessing: Preprocessing, max_skipped: float) -> Decoded:
    """Decode and resize all images of a source, or take them from the cache.

    Args:
        source: what to decode.
        preprocessing: from the upright RGB image to the stored square.
        max_skipped: the share of unreadable images above which the source is refused.

    Raises:
        DataError: too many images are unreadable, or what they decode to fits neither on the disk nor in memory.
    """
    key = _cache_key(source, preprocessing)
    shape = _shape(source, preprocessing)
    found = _read_cache(key, shape) if key else None
    images, index, notes = found if found is not None else _decode(source, preprocessing, key)
    skipped = [Skipped(source.path(i), reason) for i, reason in sorted(index.reasons.items())]
    _refuse_too_many(source, skipped, max_skipped)
    return Decoded(images, index.digests, skipped, notes)


@dataclass
class _Index:
    digests: list[str] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)


def _refuse_too_many(source: Source, skipped: list[Skipped], max_skipped: float) -> None:
    total = len(source.names)
    if not skipped or (len(skipped) <= max_skipped * total and len(skipped) < total):
        return
    first = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    if len(skipped) == total:
        raise DataError(f"{source.where}: none of its {total} images can be read: {first}{more}", "replace them")
    raise DataError(
        f"{source.where}: {len(skipped)} of {total} images cannot be read, more than data.max_skipped ({max_skipped:g}) allows: "
        f"{first}{more}",
        "mend or delete them, or raise data.max_skipped",
    )


def _decode(
    source: Source, preprocessing: Preprocessing, key: str | None
) -> tuple[NDArray[np.uint8], _Index, list[str]]:
    shape = _shape(source, preprocessing)
    total, size = shape[0], math.prod(shape)
    notes = []
    if key:
        problem = _no_room(size)
        if not problem:
            try:
                _write_cache(key, source, preprocessing)
            except EdgekitError as error:  # for instance the disk filled up on the way
                problem = error.message
            else:
                found = _read_cache(key, shape)
                if found is not None:
                    return found
                problem = f"{_cache_paths(key)[0]} vanished"
        notes.append(
            f"the decoded images of {source.where} ({_bytes(size)}) are kept in memory, not in the cache: {problem}"
        )
    memory = this_machine().memory_bytes
    if memory is not None and size > memory:
        raise DataError(
            f"{source.where}: decoded, its {total} images take {_bytes(size)}, more than the memory ({_bytes(memory)}) and than "
            f"{cache_folder()} has free",
            "set EDGEKIT_CACHE to a folder on a larger disk, or lower data.image_size",
        )
    images = np.zeros(shape, dtype=np.uint8)
    index = _Index()
    at = 0
    for block in _blocks(source, preprocessing, index):
        images[at : at + len(block)] = block
        at += len(block)
    return images, index, notes


def _blocks(source: Source, preprocessing: Preprocessing, index: _Index) -> Iterator[NDArray[np.uint8]]:
    """Decoded images in the source's order, a block at a time; `index` is filled on the way."""
    total = len(source.names)
    side = preprocessing.image_size

    def work(start: int) -> tuple[NDArray[np.uint8], list[str], dict[int, str]]:
        stop = min(start + _CHUNK, total)
        block = np.zeros((stop - start, side, side, 3), dtype=np.uint8)
        digests, reasons = [], {}
        for i in range(start, stop):
            try:
                image = source.read(i)
                block[i - start] = preprocessing(image)
                digests.append(content_digest(image))
            except DataError as error:
                reasons[i] = error.message.rpartition(f"{source.names[i]}: ")[2]
                digests.append("")
        return block, digests, reasons

    began = time.monotonic()
    bar: Advance | None = None
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ExitStack() as stack:
        # Pillow warns of odd metadata and large images; what matters about a file is whether it decodes.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="decode"))
        starts = iter(range(0, total, _CHUNK))
        waiting: deque[Future[tuple[NDArray[np.uint8], list[str], dict[int, str]]]] = deque()
        while True:
            # A bounded queue: decoding must not run ahead of what is written, or the memory would hold all of it.
            while len(waiting) < 4 * threads and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(work, start))
            if not waiting:
                return
            block, digests, reasons = waiting.popleft().result()
            if bar is None and time.monotonic() - began > _BAR_AFTER_SECONDS:
                bar = stack.enter_context(progress("decode", total, len(index.digests), "images"))
            index.digests += digests
            index.reasons |= reasons
            if bar is not None:
                bar(len(digests))
            yield block


def _cache_key(source: Source, preprocessing: Preprocessing) -> str | None:
    if source.stamp is None:
        return None
    return digest_of([CACHE_SCHEMA, __version__, PIL.__version__, preprocessing.model_dump(), source.stamp])[:32]


def _cache_paths(key: str) -> tuple[Path, Path]:
    folder = cache_folder() / "images"
    return folder / f"{key}.npy", folder / f"{key}.json"


def _write_cache(key: str, source: Source, preprocessing: Preprocessing) -> None:
    """Decode straight into the cache. The .json is written last: without it there is no entry."""
    pixels, meta = _cache_paths(key)
    header = {"descr": "|u1", "fortran_order": False, "shape": _shape(source, preprocessing)}
    _purge(pixels.parent)
    index = _Index()
    with atomic_write(pixels) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in _blocks(source, preprocessing, index):
            stream.write(block.data)
    content = {"schema": CACHE_SCHEMA, "digests": index.digests, "reasons": index.reasons}
    write_json(meta, content)


def _shape(source: Source, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    return len(source.names), preprocessing.image_size, preprocessing.image_size, 3


def _read_cache(key: str, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], _Index, list[str]] | None:
    """An entry of the cache, memory-mapped copy-on-write, or None where there is none that is whole."""
    pixels, meta = _cache_paths(key)
    try:
        content = json.loads(meta.read_bytes())
        index = _Index([str(d) for d in content["digests"]], {int(i): str(r) for i, r in content["reasons"].items()})
        images = np.load(pixels, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    whole = images.shape == shape and images.dtype == np.uint8 and len(index.digests) == shape[0]
    if not whole or content.get("schema") != CACHE_SCHEMA:
        return None
    with suppress(OSError):  # a cache that somebody else may write is read all the same
        for path in (pixels, meta):
            os.utime(path)
    return np.asarray(images), index, []


def _no_room(size: int) -> str:
    """Why `size` bytes cannot be added to the cache, or an empty string."""
    folder = cache_folder() / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return f"{folder} has {_bytes(free)} free" if size * 1.02 > free else ""


def _purge(folder: Path) -> None:
    """Delete what nothing has used for a month, and what an interrupted writer left behind as long ago."""
    oldest = time.time() - _CACHE_DAYS * 86400
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:  # another process was faster, or it is not ours to delete
            continue


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in {"bytes", "kB"} else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
