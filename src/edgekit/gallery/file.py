"""A gallery's file: a NumPy archive (.npz) that is not compressed, with `vectors`, `keys`, and the record as JSON.

The vectors are aligned in it, so that a large gallery is mapped into memory: several processes share its pages, and only those that are
read are loaded. A gallery is replaced as a whole, never changed in place: a process that has mapped the old one keeps it.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgekit.errors import DataError
from edgekit.files import atomic_write
from edgekit.foreign import MOST_JSON, Unreadable, open_regular, parse_json, understood
from edgekit.gallery.record import GALLERY_SCHEMA, GalleryRecord
from edgekit.locks import take
from edgekit.validation import first_problem

VECTORS, KEYS, RECORD = "vectors.npy", "keys.npy", "record.json"
MAPPED_FROM = 64 << 20  # bytes of a file: smaller ones are read at once
_ALIGNMENT = 64
_BLOCK = 1 << 16  # vectors that are checked at a time
_LENGTH = 1e-3  # how far the square of a vector's length may be from 1
_HINT = "create it again with `edgekit gallery create`, or copy it again"


def write(path: Path, record: GalleryRecord, vectors: NDArray[np.float32], keys: NDArray[np.uint64]) -> None:
    """Write a gallery atomically; equal galleries give equal bytes.

    Raises:
        EdgekitError: the folder cannot be written, or the disk is full.
    """
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        _add_array(archive, VECTORS, vectors)
        _add_array(archive, KEYS, keys)
        archive.writestr(zipfile.ZipInfo(RECORD), record.model_dump_json(indent=2, by_alias=True) + "\n")


def _add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Add an array as .npy, its numbers at a multiple of 64 bytes from the file's beginning, as memory mapping needs."""
    entry = zipfile.ZipInfo(name)
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(name) + 20  # the local header, and ZIP64's sizes, which `force_zip64` writes
    # A field that readers skip: a header of 4 bytes (an unassigned kind), and zeros.
    padding = -(begin + 4) % _ALIGNMENT
    entry.extra = b"\x65\x6b" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(entry, "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def read(path: Path) -> tuple[GalleryRecord, NDArray[np.float32], NDArray[np.uint64]]:
    """Read a gallery; the vectors of a file from 64 MiB on are mapped into memory.

    Raises:
        DataError: it is missing, damaged, or of a newer edgekit.
    """
    try:
        with open_regular(path) as stream, understood(path, "a gallery"):
            record, vectors, keys = _parsed(stream, path, os.fstat(stream.fileno()).st_size >= MAPPED_FROM)
    except Unreadable as error:
        hint = "create one with `edgekit gallery create BUNDLE FOLDER`" if error.missing else _HINT
        raise DataError(f"{path}: {'no such gallery' if error.missing else error.reason}", hint) from error
    if vectors.shape != (sum(record.counts), record.features) or keys.shape != (len(vectors),):
        raise DataError(f"{path}: not a gallery: its vectors do not match its record", _HINT)
    if fault := _fault(vectors):
        raise DataError(f"{path}: not a gallery: its vectors are not {fault}", _HINT)
    return record, vectors, keys


def _fault(vectors: NDArray[np.float32]) -> str:
    """What vectors (n, features) are not: finite, and of length 1 or 0 (similarities are cosines); empty if they are."""
    for start in range(0, len(vectors), _BLOCK):
        part = vectors[start : start + _BLOCK]
        with np.errstate(over="ignore"):
            squares = np.einsum("ij,ij->i", part, part)
        if not ((np.abs(squares - 1) < _LENGTH) | (squares == 0)).all():
            return "of length 1" if np.isfinite(part).all() else "finite"
    return ""


def _parsed(
    stream: BinaryIO, path: Path, mapped: bool
) -> tuple[GalleryRecord, NDArray[np.float32], NDArray[np.uint64]]:
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        for name in (VECTORS, KEYS, RECORD):
            if name not in entries or entries[name].compress_type != zipfile.ZIP_STORED:
                raise Unreadable(path, f"not a gallery: it has no {name}")
        if entries[RECORD].file_size > MOST_JSON:
            raise Unreadable(path, f"not a gallery: its {RECORD} is too large")
        record = _record(archive.read(RECORD), path)
        keys = _array(archive.read(KEYS), np.dtype(np.uint64), 1)
        if not mapped:
            return record, _array(archive.read(VECTORS), np.dtype(np.float32), 2), keys
        with archive.open(VECTORS) as entry:  # its beginning; the checksum is compared below
            version = np.lib.format.read_magic(entry)
            header = np.lib.format.read_array_header_1_0(entry) if version == (1, 0) else None
            length = entry.tell()
    if header is not None and header[0] != (sum(record.counts), record.features):  # before that much is mapped
        raise Unreadable(path, "not a gallery: its vectors do not match its record")
    return record, _mapped(stream, path, entries[VECTORS], header, length), keys


def _mapped(
    stream: BinaryIO, path: Path, entry: zipfile.ZipInfo, header: tuple[Any, ...] | None, length: int
) -> NDArray[np.float32]:
    """The vectors in the file, mapped into memory, once their checksum was compared.

    Args:
        stream: the file.
        path: its path, for messages.
        entry: the archive's entry.
        header: what NumPy's header at its beginning says: shape, order, type. None where it is of an unknown version.
        length: of that header, in bytes.
    """
    if header is None or header[1] or header[2] != np.dtype(np.float32) or len(header[0]) != 2:
        raise Unreadable(path, "not a gallery: its vectors are not float32 (n, features)")
    begin = _data_offset(stream, entry)
    vectors = np.memmap(stream, np.float32, "r", begin + length, header[0]).view(np.ndarray)
    head = os.pread(stream.fileno(), length, begin)
    if zlib.crc32(vectors.reshape(-1).view(np.uint8).data, zlib.crc32(head)) != entry.CRC:
        raise Unreadable(path, "not a gallery: damaged, the checksum of its vectors differs")
    return vectors


def _data_offset(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its local header, whose two lengths may differ from those in the directory."""
    local = os.pread(stream.fileno(), 30, entry.header_offset)
    return entry.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _array(content: bytes, dtype: np.dtype[Any], axes: int) -> NDArray[Any]:
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype != dtype or array.ndim != axes:
        raise ValueError(f"an array in it is {array.dtype} of {array.ndim} axes, not {dtype} of {axes}")
    return array


def _record(text: bytes, path: Path) -> GalleryRecord:
    content = parse_json(text, path)
    schema = content.get("schema")
    if isinstance(schema, int) and schema > GALLERY_SCHEMA:
        raise DataError(
            f"{path}: the gallery's schema is {schema}, this edgekit reads up to {GALLERY_SCHEMA}",
            "update edgekit on this machine",
        )
    try:
        return GalleryRecord.model_validate(content)
    except ValidationError as error:
        raise Unreadable(path, f"not a gallery: {first_problem(error)}") from error


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold a gallery's lock while the block reads it, changes it and writes it, so that of two commands neither loses what the other adds.

    Raises:
        DataError: it is missing.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(
                f"{path}: {'no such gallery' if isinstance(error, FileNotFoundError) else error.strerror}",
                "create one with `edgekit gallery create BUNDLE FOLDER`",
            ) from error
        try:
            with suppress(OSError):  # this file system has no locks
                take(handle, wait=True)
            if _is_at(path, handle):  # otherwise it was replaced while this command waited
                yield
                return
        finally:
            os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
