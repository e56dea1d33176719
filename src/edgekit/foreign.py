"""Read untrusted files within limits, and turn every parser's exceptions into one error.

A list of the exceptions that a parser may raise is never complete: zipfile, zlib, lzma, numpy, json and pickle raise about twenty kinds
for damaged bytes. So there is one function per format, which catches everything, and no other code in the package parses such bytes.
Formats that need their own package are parsed inside `understood`, each in one module: YAML in `recipe.plain_yaml`, safetensors and
checkpoints in `models.weight_files`, ONNX in `onnx_graph.files`, Parquet in `data.tables`, tar in `data.tar_index`, images in `image_files`.

Bytes that are compared with a digest are read once: into memory (`read_bytes`), or into a private copy (`private_copy`) for libraries
that open a path. So they cannot be replaced between the comparison and the use.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from edgekit.errors import EdgekitError, one_line, reason_of

MOST_JSON = 64 << 20  # far larger than any file of ours, and small enough to read
MOST_CELLS = 10_000_000  # of a CSV file: rows times columns
MOST_ARRAYS = 1 << 30  # unpacked, of one archive


class Unreadable(EdgekitError):
    """An untrusted file that cannot be read; callers turn it into an error of their own.

    Args:
        path: of the file.
        reason: why, in a few words.
        detail: the reason for messages that already say that the file cannot be read or is not of its kind; by default `reason`.
        missing: whether the file does not exist.
        too_large: whether it is larger than the limit.
    """

    def __init__(
        self, path: Path | str, reason: str, *, detail: str = "", missing: bool = False, too_large: bool = False
    ) -> None:
        super().__init__(one_line(reason, 200), where=path)
        self.detail = one_line(detail or reason, 200)
        self.missing = missing
        self.too_large = too_large


@contextmanager
def understood(path: Path | str, what: str) -> Iterator[None]:
    """Turn every exception in this block into an `Unreadable` that names the file.

    Args:
        path: of the file.
        what: its expected kind, with an article, for the message: `a NumPy archive`.

    Raises:
        Unreadable: the block raised any other error than edgekit's own, which pass unchanged.
    """
    try:
        yield
    except EdgekitError:
        raise
    except OSError as error:
        if error.strerror is None:  # raised by a library, about the content
            raise _not(what, path, str(error) or "damaged") from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise Unreadable(path, "no such file", missing=True) from error
        raise Unreadable(path, f"cannot be read: {error.strerror}", detail=error.strerror) from error
    except RecursionError as error:
        raise _not(what, path, "nested too deep") from error
    except MemoryError as error:
        raise _not(what, path, "it claims more memory than there is") from error
    except Exception as error:
        raise _not(what, path, reason_of(error)) from error


def _not(what: str, path: Path | str, why: str) -> Unreadable:
    return Unreadable(path, f"not {what}: {why}", detail=why)


@contextmanager
def open_regular(path: Path | str) -> Iterator[BinaryIO]:
    """Open a regular file for reading; devices and named pipes, which may never end, are refused. Parse its content inside `understood`.

    A pipe that the shell has opened, as in `edgekit train <(sed … recipe.yaml)`, is accepted, but cannot be read twice.

    Raises:
        Unreadable: it is missing, not a regular file, or cannot be opened.
    """
    with understood(path, "a file"):
        try:
            stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - closed below, outside of `understood`
        except IsADirectoryError as error:
            raise Unreadable(path, "a folder, not a file") from error
    with stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISFIFO(mode) and os.path.basename(os.path.realpath(path)).startswith("pipe:["):
            os.set_blocking(stream.fileno(), True)
        elif not stat.S_ISREG(mode):
            raise Unreadable(path, "not a regular file")
        yield stream


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe without a writer would block


def read_bytes(path: Path | str, most: int = MOST_JSON) -> bytes:
    """Return a regular file's bytes.

    Raises:
        Unreadable: it is missing, not a regular file, cannot be read, or is larger than `most` bytes.
    """
    with open_regular(path) as stream, understood(path, "a file"):
        if os.fstat(stream.fileno()).st_size > most:  # before a byte of it takes memory
            raise Unreadable(path, f"larger than {most:,} bytes", too_large=True)
        content = stream.read(most + 1)
    if len(content) > most:  # it grew
        raise Unreadable(path, f"larger than {most:,} bytes", too_large=True)
    return content


def read_text(path: Path | str, most: int = MOST_JSON, errors: Literal["strict", "replace"] = "strict") -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        Unreadable: as in `read_bytes`, or it is not UTF-8 and `errors` is strict.
    """
    return _decoded(read_bytes(path, most), path, errors)


def _decoded(content: bytes, path: Path | str, errors: Literal["strict", "replace"]) -> str:
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"not UTF-8 text (byte {error.start})") from error


class Copy(NamedTuple):
    """A private copy of a file's bytes at one moment: its path, size and digest."""

    path: str
    bytes: int
    sha256: str


@contextmanager
def private_copy(path: Path | str, check: Callable[[BinaryIO, Path | str], None] | None = None) -> Iterator[Copy]:
    """Copy a regular file's current bytes for libraries that open a path, so that the digest is that of the bytes they read.

    On Linux the copy is in memory until the block ends, and has no name.

    Args:
        path: of the file.
        check: called with the opened file and its path before the copy; it raises an error if copying is pointless. Not called for
            a pipe, which cannot be read twice.

    Raises:
        Unreadable: it is missing, not a regular file, cannot be read, or is larger than this machine's memory; or `check` raised it.
    """
    from edgekit.temporary import private_file  # not needed for parsing JSON

    with open_regular(path) as stream, private_file() as (copy, name):
        digest, size = hashlib.sha256(), 0
        with understood(path, "a file"):
            if os.fstat(stream.fileno()).st_size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
                raise Unreadable(path, "larger than this machine's memory", too_large=True)
            if check is not None and stream.seekable():
                check(stream, path)
                stream.seek(0)
            while block := stream.read(1 << 20):
                digest.update(block)
                copy.write(block)
                size += len(block)
            copy.flush()
        yield Copy(name, size, digest.hexdigest())


def parse_json(content: bytes | str, path: Path | str, kind: type | None = dict) -> Any:
    """Parse a JSON text.

    Args:
        content: the text.
        path: of its file, for messages.
        kind: the required type of the value; None accepts any.

    Raises:
        Unreadable: it is not JSON, or not of type `kind`.
    """
    with understood(path, "JSON"):
        value = json.loads(content)
    if kind is not None and not isinstance(value, kind):
        raise Unreadable(path, f"JSON, but a {type(value).__name__} and not a {kind.__name__}")
    return value


def read_json(path: Path, kind: type | None = dict) -> Any:
    """Read a JSON file; see `read_bytes` and `parse_json`.

    Raises:
        Unreadable: as in these functions.
    """
    return parse_json(read_bytes(path), path, kind)


def read_csv(
    path: Path | str, errors: Literal["strict", "replace"] = "strict"
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV file (UTF-8, with a header), and its rows: the line on which each ends, and its values by column.

    Values are separated by commas, or, if the header has no comma, by semicolons or tabs, as spreadsheets write them in many countries.
    Empty lines are ignored. Missing values of a row are empty texts. The rows are an iterator, so that they need not be in memory.

    Raises:
        Unreadable: as in `read_text`, or it is not CSV; also raised by the iterator, if a row has a value beyond the header, and if there are
            more than `MOST_CELLS` values.
    """
    import csv
    import io
    import itertools

    content = read_bytes(path)
    _decoded(content, path, errors)
    with understood(path, "a CSV file"):
        # Decoded a second time, block by block: the whole text would take four bytes per character.
        stream = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", errors, newline="")
        empty = 0
        while (header := stream.readline()) and not header.strip():
            empty += 1
        delimiter = next((mark for mark in ",;\t" if mark in header), ",")
        reader = csv.DictReader(itertools.chain([header], stream), restval="", delimiter=delimiter)
        columns = list(reader.fieldnames or [])
    return columns, _csv_rows(reader, columns, empty, path)


def _csv_rows(reader: Any, columns: list[str], empty: int, path: Path | str) -> Iterator[tuple[int, dict[str, str]]]:
    with understood(path, "a CSV file"):
        for number, row in enumerate(reader, 1):
            if number * len(columns) > MOST_CELLS:  # a short row has a value in each column, too
                raise Unreadable(path, f"has more than {MOST_CELLS:,} values", too_large=True)
            line = reader.line_num + empty
            if any(value.strip() for value in row.get(None, ())):
                raise Unreadable(
                    path, f"line {line} has more values than the header has columns (put values with commas in quotes)"
                )
            yield line, {name: row[name] for name in columns}


def read_npz(path: Path, names: list[str] | None = None, most: int = MOST_ARRAYS) -> dict[str, Any]:
    """Read arrays of a NumPy archive (.npz); see `parse_npz`.

    Raises:
        Unreadable: the file is missing, or as in `parse_npz`.
    """
    with open_regular(path) as stream:
        return parse_npz(stream, path, names, most)


def parse_npz(
    stream: BinaryIO, path: Path | str, names: list[str] | None = None, most: int = MOST_ARRAYS
) -> dict[str, Any]:
    """Parse arrays of a NumPy archive (.npz) by name, without pickles.

    Args:
        stream: the archive, an open file or bytes.
        path: of its file, for messages.
        names: names of the arrays; None for all.
        most: limit of their total size, unpacked, in bytes.

    Raises:
        Unreadable: it is not such an archive, is damaged, lacks an array, has something else under its name, or is too large.
    """
    import zipfile

    import numpy as np

    with understood(path, "a NumPy archive"):
        with zipfile.ZipFile(stream) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        if lacking := [name for name in names or [] if name not in sizes]:
            raise Unreadable(path, f"has no array named {', '.join(lacking)}")
        wanted = list(sizes) if names is None else names
        if (needed := sum(sizes[name] for name in wanted)) > most:
            raise Unreadable(path, f"unpacks to {needed:,} bytes, more than {most:,}")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            arrays_by_name = {name: arrays[name] for name in wanted}
    for name, array in arrays_by_name.items():
        if not isinstance(array, np.ndarray):
            raise Unreadable(path, f"{name} in it is not an array")
    return arrays_by_name
