"""Index a tar in one pass over its headers; then any sample is one read at an offset.

This is why shards are not read through a streaming library: with the offsets, an epoch is an exact shuffle of all samples (not of
a buffer), a training resumes at any step without reading the earlier ones, several processes share a batch without owning shards,
and the images are split by content before training. Tars must not be compressed.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.data.cache import load_json, save_json
from edgekit.data.source import extensions
from edgekit.errors import DataError
from edgekit.files import digest_of
from edgekit.foreign import Unreadable, open_regular, parse_json, understood
from edgekit.walk import is_system

_SCHEMA = 2
_BLOCK = tarfile.BLOCKSIZE
# As WebDataset splits a member's name: the key up to the first dot of the base name, and the rest.
_KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_LARGEST_LABEL = 16 << 20  # bytes of a .json member

Label = int | str


@dataclass
class TarIndex:
    """The samples of one shard.

    Args:
        names: n names of the members that hold the images.
        offsets: n positions of the encoded images in the file, in bytes.
        sizes: n lengths, in bytes.
        labels: n labels; empty if no labels were requested.
        damage: name (or position) and reason of each unusable sample.
        others: number of further image members in samples with several.
        bare: number of samples without an image.
        ended: whether the archive has its end mark.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    damage: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0
    bare: int = 0
    ended: bool = True


@dataclass(frozen=True)
class _Member:
    key: str
    extension: str
    name: str
    offset: int
    size: int


def shard_key(path: Path) -> str:
    """Return a digest of the path, size and time of a shard, which changes when the file changes.

    Raises:
        DataError: it is missing, or cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "name only existing shards") from error
    return digest_of([_SCHEMA, os.fspath(path.resolve()), status.st_size, status.st_mtime_ns])[:32]


def index_shard(path: Path, key: str, label_key: str | None) -> TarIndex:
    """Index the samples of a shard; an unchanged one comes from the cache.

    Args:
        path: of the .tar.
        key: its `shard_key`.
        label_key: key of the label in the .json members (a .cls member takes precedence), or None for no labels.

    Raises:
        DataError: it cannot be read, is compressed, or is not a tar.
    """
    entry = digest_of([key, label_key])[:32]
    content = load_json("shards", entry)
    if content is not None:
        try:
            return TarIndex(**content)
        except TypeError:
            pass
    try:
        with open_regular(path) as stream, understood(path, "a tar archive"):
            index = _scan(stream, path, label_key)
    except Unreadable as error:
        raise DataError(f"{path}: {error.reason}", "check the file") from error
    save_json("shards", entry, vars(index))
    return index


def _scan(stream: BinaryIO, path: Path, label_key: str | None) -> TarIndex:
    index = TarIndex()
    sample: list[_Member] = []
    for member in _members(stream, path, index):
        # As in WebDataset: consecutive members with the same key are one sample.
        if sample and member.key != sample[0].key:
            _add(index, sample, stream, label_key)
            sample = []
        sample.append(member)
    if sample:
        _add(index, sample, stream, label_key)
    return index


def _members(stream: BinaryIO, path: Path, index: TarIndex) -> Iterator[_Member]:
    """Yield the files of a tar; damaged headers are skipped, block by block, and recorded."""
    size = os.fstat(stream.fileno()).st_size
    try:
        with understood(path, "a tar archive"):
            # Zeros and invalid headers are ignored, so that concatenated archives are read to the end.
            archive = tarfile.open(fileobj=stream, mode="r:", ignore_zeros=True)  # noqa: SIM115 - the stream is the caller's
            following = archive.next()
    except Unreadable as error:
        raise DataError(
            f"{path}: is not a tar archive ({error.detail})", "decompress a compressed archive first"
        ) from error
    if following is None:
        raise DataError(f"{path}: is empty, or not a tar archive", "decompress a compressed archive first")
    end, before = 0, ""  # end of the last member's data, rounded up to a block; its name
    while following is not None:
        member = following
        _note_gap(stream, end, member.offset, before, index)
        end, before = member.offset_data + -(-member.size // _BLOCK) * _BLOCK, member.name
        match = _KEY.match(member.name)
        system = any(is_system(part) for part in member.name.split("/") if not part.startswith("."))
        if member.isreg() and not member.issparse() and match is not None and not system:
            yield _Member(match[1], match[2].lower(), member.name, member.offset_data, member.size)
        following = _next(archive, size, path)
        archive.members = []  # type: ignore[attr-defined] # else it would keep every member
    index.ended = end < size and not _has_data(stream, end, min(size, end + _BLOCK))
    if end < size:
        _note_gap(stream, end, size, before, index)


def _next(archive: tarfile.TarFile, size: int, path: Path) -> tarfile.TarInfo | None:
    while archive.offset < size:
        at = archive.offset
        try:
            with understood(path, "a tar header"):
                member = archive.next()
        except Unreadable as error:  # an extension header of the next member is damaged
            if isinstance(error.__cause__, OSError):
                raise
            archive.offset = at + _BLOCK
            continue
        if member is None or archive.offset > at:
            return member
        archive.offset = at + _BLOCK  # a negative size would go backwards
    return None


def _note_gap(stream: BinaryIO, start: int, stop: int, before: str, index: TarIndex) -> None:
    """Record nonzero data between two members: it is a lost member."""
    if _has_data(stream, start, stop):
        where = f"(after {before})" if before else "(at its start)"
        index.damage.append((where, f"no tar header at byte {start}: the data there is lost"))


def _has_data(stream: BinaryIO, start: int, stop: int) -> bool:
    """Return whether a file has a byte other than 0 in a range."""
    parts = ((at, min(1 << 20, stop - at)) for at in range(start, stop, 1 << 20))
    return any(os.pread(stream.fileno(), length, at).strip(b"\0") for at, length in parts)


def _add(index: TarIndex, sample: list[_Member], stream: BinaryIO, label_key: str | None) -> None:
    """Add one sample: its first image with a plain image extension (jpg), or else with one that ends in it (seg.png)."""
    images = [m for m in sample if f".{m.extension.rpartition('.')[2]}" in extensions()]
    if not images:
        index.bare += 1
        return
    image = min(images, key=lambda m: "." in m.extension)
    index.others += len(images) - 1
    if label_key is not None:
        try:
            index.labels.append(_label(sample, stream, label_key))
        except ValueError as error:
            index.damage.append((image.name, str(error)))
            return
    index.names.append(image.name)
    index.offsets.append(image.offset)
    index.sizes.append(image.size)


def _label(sample: list[_Member], stream: BinaryIO, label_key: str) -> Label:
    members = {m.extension: m for m in sample}
    member = members.get("cls") or members.get("json")
    if member is None:
        raise ValueError("its sample has neither a .cls nor a .json member")
    if member.size > _LARGEST_LABEL:
        raise ValueError(f"its .{member.extension} is too large to hold a label: {member.size} bytes")
    content = os.pread(stream.fileno(), member.size, member.offset)
    if len(content) < member.size:
        raise ValueError(f"the shard ends inside its .{member.extension}")
    if member.extension == "cls":
        return _number_or_name(content.decode().strip())
    try:
        fields = parse_json(content, "its .json", None)
    except Unreadable as error:
        raise ValueError(f"its .json cannot be read: {error.detail}") from error
    if not isinstance(fields, dict) or label_key not in fields:
        raise ValueError(f"its .json has no key {label_key}")
    return _number_or_name(fields[label_key])


def _number_or_name(value: Any) -> Label:
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if re.fullmatch(r"[0-9]+", text) else text
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"its label is {str(value)[:40]!r}, which is neither a number nor a name")
