"""Decode a source to uint8 pixels: once, into a memory-mapped cache, or on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from edgekit import __version__
from edgekit.data.cache import entry_folder, in_bytes, load_images, load_json, no_room, save_images, save_json
from edgekit.data.images import Skipped, content_digest
from edgekit.data.lazy import LazyPixels
from edgekit.data.pixels import Pixels
from edgekit.data.source import ImageSource, RangeNeeded
from edgekit.data.workers import in_order
from edgekit.errors import DataError, EdgekitError
from edgekit.files import digest_of
from edgekit.machine import this_machine
from edgekit.pixel_range import Depth
from edgekit.preprocess import Preprocessing, bounded_decoding
from edgekit.text import counted

CACHE_SCHEMA = 3  # 3: the order of the two passes of resizing no longer depends on Pillow
_MEMORY_SHARE = 0.5  # share of the memory that decoded images may take; networks and other programs need the rest

Stream = bool | Literal["auto"]


@dataclass(frozen=True)
class Decoded:
    """The decoded images of a source.

    Args:
        images: (n, H, W, 3) uint8, row i for name i of the source; writing to it never reaches the cache's file. Rows of
            unreadable images are black. An array, or `LazyPixels`, which decode rows on access.
        digests: n content digests (see `content_digest`); empty for an unreadable image.
        skipped: the unreadable images.
        notes: notes for the user, one sentence each.
    """

    images: Pixels
    digests: list[str]
    skipped: list[Skipped]
    notes: list[str] = field(default_factory=list)

    @property
    def lazy(self) -> LazyPixels | None:
        """The images if they are decoded on demand, else None."""
        return self.images if isinstance(self.images, LazyPixels) else None


def decode(
    source: ImageSource, preprocessing: Preprocessing, max_skipped: float, stream: Stream | None = None
) -> Decoded:
    """Decode and resize all images of a source, or read them from the cache, or only index them to decode them on demand.

    Args:
        source: what to decode.
        preprocessing: from the upright RGB image to the stored one.
        max_skipped: the largest share of unreadable images; with more, the source is refused.
        stream: the recipe's `data.stream`, or None for a set that is never streamed. True: decode images on demand; "auto": only if
            they fit neither on the disk nor into memory.

    Raises:
        DataError: too many images are unreadable, or the decoded images fit neither on the disk nor into memory.
        RangeNeeded: an image has more than 8 bits, and the source has no range of values.
    """
    if stream is True:
        return _on_demand(source, preprocessing, max_skipped, [])
    key = _key(source, preprocessing.model_dump()) if source.stamp is not None else None
    shape = (len(source.names), *preprocessing.image_size, 3)
    decoded, problem = _from_cache(key, shape) if key else None, ""
    if decoded is None and key:
        decoded, problem = _into_cache(key, shape, source, preprocessing)
    notes: list[str] = []
    if decoded is None:
        size = math.prod(shape)
        fits = fits_memory(size)
        if not fits and stream == "auto" and source.streamable:
            note = f"the images of {source.where}, {in_bytes(size)} decoded, are streamed: {problem}"
            return _on_demand(source, preprocessing, max_skipped, [note])
        if not fits:
            raise _too_large(source, size, problem, stream)
        if key:
            size_of = f"the decoded images of {source.where} ({in_bytes(size)})"
            notes = [f"{size_of} are kept in memory instead of the cache: {problem}"]
        decoded = _into_memory(shape, source, preprocessing)
    images, index = decoded
    _check_range(source, index)
    notes += _depth_notes(source, index)
    return Decoded(images, index.digests, _skipped(source, index, max_skipped), notes)


def _check_range(source: ImageSource, index: _Index) -> None:
    """Refuse deep images without a range: a cache entry may hold images that were mapped by their number type."""
    if source.pixel_range == "auto" and index.depth.deep:
        raise RangeNeeded


def _depth_notes(source: ImageSource, index: _Index) -> list[str]:
    pixel_range = None if source.pixel_range == "auto" else source.pixel_range
    if pixel_range is None:
        hint = "the model has no range for them: its training images had 8 bits, or it was trained before edgekit measured ranges"
    else:
        hint = "if that is too few, set the range (data.pixel_range, --pixel-range): LOW and HIGH become 0 and 255"
    return index.depth.notes(source.where, pixel_range, hint)


def fits_memory(size: int) -> bool:
    """Return whether this many bytes of decoded images may be held in memory."""
    memory = this_machine().memory_bytes
    return memory is None or size <= _MEMORY_SHARE * memory


@dataclass
class _Index:
    digests: list[str] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    depth: Depth = field(default_factory=Depth)

    def add(self, part: _Index) -> None:
        self.digests += part.digests
        self.reasons |= part.reasons
        self.depth.merge(part.depth)

    def content(self) -> dict[str, Any]:
        return {"schema": CACHE_SCHEMA, "digests": self.digests, "reasons": self.reasons, "depth": self.depth.content()}

    @classmethod
    def of(cls, content: Any, total: int) -> _Index | None:
        """Read an entry of the cache; None if it is of another version or number of images."""
        try:
            digests = [str(d) for d in content["digests"]]
            reasons = {int(i): str(r) for i, r in content["reasons"].items()}
            depth = Depth.of(content["depth"])
            return cls(digests, reasons, depth) if content["schema"] == CACHE_SCHEMA and len(digests) == total else None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


def _on_demand(source: ImageSource, preprocessing: Preprocessing, max_skipped: float, notes: list[str]) -> Decoded:
    """Decode each image once for its digest, which the splits need and which finds damaged images; pixels follow on demand."""
    if not source.streamable:
        raise DataError(
            f"{source.where}: a Parquet table cannot be streamed, because it is read in whole row groups",
            "set data.stream to auto or false, or convert the images to WebDataset shards",
        )
    key = _key(source, "digests") if source.stamp is not None else None
    index = _Index.of(load_json("digests", key), len(source.names)) if key else None
    if index is None:
        index = _Index()
        for part in in_order(len(source.names), lambda start, stop: _read(source, start, stop), "index"):
            index.add(part)
        if key:
            save_json("digests", key, index.content())
    _check_range(source, index)
    images = LazyPixels(source, preprocessing, index.digests)
    notes = [*notes, *_depth_notes(source, index)]
    return Decoded(images, index.digests, _skipped(source, index, max_skipped), notes)


def _read(
    source: ImageSource,
    start: int,
    stop: int,
    preprocessing: Preprocessing | None = None,
    out: NDArray[np.uint8] | None = None,
) -> _Index:
    """Index images `start` to `stop`; with a preprocessing, also write their pixels into `out`."""
    part = _Index()
    for i in range(start, stop):
        try:
            with bounded_decoding():
                image = source.rgb(i, part.depth)
                if preprocessing is not None and out is not None:
                    out[i - start] = preprocessing(image)
                part.digests.append(content_digest(image))
        except DataError as error:
            part.reasons[i] = error.reason
            part.digests.append("")
    return part


def _blocks(source: ImageSource, preprocessing: Preprocessing, index: _Index) -> Iterator[NDArray[np.uint8]]:
    """Yield decoded images in the order of the source, block by block, and fill `index`."""

    def work(start: int, stop: int) -> tuple[NDArray[np.uint8], _Index]:
        block = np.zeros((stop - start, *preprocessing.image_size, 3), dtype=np.uint8)
        return block, _read(source, start, stop, preprocessing, block)

    for block, part in in_order(len(source.names), work, "decode"):
        index.add(part)
        yield block


def _from_cache(key: str, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], _Index] | None:
    index = _Index.of(load_json("images", key), shape[0])
    images = load_images(key, shape) if index is not None else None
    return (images, index) if images is not None and index is not None else None


def _into_cache(
    key: str, shape: tuple[int, ...], source: ImageSource, preprocessing: Preprocessing
) -> tuple[tuple[NDArray[np.uint8], _Index] | None, str]:
    """Decode directly into the cache; if that is impossible, return None and the reason."""
    problem = no_room(math.prod(shape))
    if problem:
        return None, problem
    index = _Index()
    try:
        save_images(key, shape, _blocks(source, preprocessing, index))
    except EdgekitError as error:  # for instance, the disk filled up
        return None, error.message
    save_json("images", key, index.content())  # last: without it there is no entry
    images = load_images(key, shape)
    return ((images, index), "") if images is not None else (None, f"{entry_folder('images')}: the entry vanished")


def _too_large(source: ImageSource, size: int, problem: str, stream: Stream | None) -> DataError:
    or_stream = " set data.stream to true," if stream is False and source.streamable else ""
    half = in_bytes(_MEMORY_SHARE * (this_machine().memory_bytes or 0))
    return DataError(
        f"{source.where}: its {len(source.names):,} images need {in_bytes(size)} when decoded, "
        f"but {f'{problem}, and ' if problem else ''}half of the memory is {half}",
        f"set EDGEKIT_CACHE to a folder on a disk with {in_bytes(1.02 * size)} free,{or_stream} or lower data.image_size",
    )


def _into_memory(
    shape: tuple[int, ...], source: ImageSource, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], _Index]:
    images = np.zeros(shape, dtype=np.uint8)
    index = _Index()
    at = 0
    for block in _blocks(source, preprocessing, index):
        images[at : at + len(block)] = block
        at += len(block)
    return images, index


def _skipped(source: ImageSource, index: _Index, max_skipped: float) -> list[Skipped]:
    """Return the unreadable images; refuse the source if there are too many."""
    skipped = [*source.lost, *(Skipped(source.path(i), reason) for i, reason in sorted(index.reasons.items()))]
    total = len(source.names) + len(source.lost)
    if not skipped or (len(skipped) <= max_skipped * total and len(skipped) < total):
        return skipped
    first = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    if len(skipped) == total:
        raise DataError(f"{source.where}: no image can be read, of {total}: {first}{more}", "replace them")
    raise DataError(
        f"{source.where}: {len(skipped)} of {counted(total, 'image')} cannot be read, more than data.max_skipped ({max_skipped:g}) allows: "
        f"{first}{more}",
        "repair or delete them, or raise data.max_skipped",
    )


def _key(source: ImageSource, purpose: Any) -> str:
    ranged = [source.pixel_range] if source.pixel_range not in {"auto", None} else []
    return digest_of([CACHE_SCHEMA, __version__, PIL.__version__, purpose, source.stamp, *ranged])[:32]
