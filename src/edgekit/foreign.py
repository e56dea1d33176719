"""Bytes that somebody else may have written: read within bounds, and whatever a library raises for them becomes one error.

A list of the exceptions that a parser may raise is never complete: zipfile, zlib, lzma, numpy, json and pickle raise some twenty kinds
for damaged bytes. So there is one function a format, each catches everything, and nothing else in the package parses such bytes.
The formats that need a package of their own are parsed inside `understood`, each in one module: YAML in `recipe.plain_yaml`, safetensors
and checkpoints in `models.weight_files`, ONNX in `export.graph.files`, Parquet in `data.tables`, tar in `data.tar_index`, images in `image_files`.

What is compared with a digest is read once: either into memory (`read_bytes`) or into a copy of its own (`private_copy`) for libraries
that open a path. Nobody can put other bytes between the comparison and the use.
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

from edgekit.errors import EdgekitError, one_line

MOST_JSON = 64 << 20  # far above any file of ours, and little enough to be read
MOST_CELLS = 10_000_000  # of a CSV file: rows times columns
MOST_ARRAYS = 1 << 30  # unpacked, of one archive


class Unreadable(EdgekitError):
    """Foreign bytes that cannot be understood; whoever reads them says what that means.

    Args:
        path: of the file.
        reason: why, in a few words.
        detail: the same for a message that says itself that the file cannot be read, or is not what it should be; else the reason.
        missing: whether there is no such file at all.
        too_large: whether it has more bytes than are read.
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
    """Parse in this block: whatever it raises becomes an `Unreadable` that names the file.

    Args:
        path: of the file.
        what: that it should be, with an article, for the message: `a NumPy archive`.

    Raises:
        Unreadable: anything went wrong. Errors of edgekit's own pass as they are.
    """
    try:
        yield
    except EdgekitError:
        raise
    except OSError as error:
        if error.strerror is None:  # a library's own, about the content
            raise _not(what, path, str(error) or "damaged") from error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise Unreadable(path, "no such file", missing=True) from error
        raise Unreadable(path, f"cannot be read: {error.strerror}", detail=error.strerror) from error
    except RecursionError as error:
        raise _not(what, path, "nested too deep") from error
    except MemoryError as error:
        raise _not(what, path, "it claims more memory than there is") from error
    except Exception as error:
        raise _not(what, path, one_line(str(error), 200) or type(error).__name__) from error


def _not(what: str, path: Path | str, why: str) -> Unreadable:
    return Unreadable(path, f"not {what}: {why}", detail=why)


@contextmanager
def open_regular(path: Path | str) -> Iterator[BinaryIO]:
    """Open a regular file for reading; no device or named pipe, which may never end. Parse what is in it inside `understood`.

    A pipe that the shell has opened, as in `edgekit train <(sed … recipe.yaml)`, is one, too, but cannot be read twice.

    Raises:
        Unreadable: it is missing, no regular file, or cannot be opened.
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
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would block


def read_bytes(path: Path | str, most: int = MOST_JSON) -> bytes:
    """A regular file's bytes.

    Raises:
        Unreadable: it is missing, no regular file, cannot be read, or is larger than `most` bytes.
    """
    with open_regular(path) as stream, understood(path, "a file"):
        if os.fstat(stream.fileno()).st_size > most:  # before a byte of it takes memory
            raise Unreadable(path, f"larger than {most:,} bytes", too_large=True)
        content = stream.read(most + 1)
    if len(content) > most:  # it grew
        raise Unreadable(path, f"larger than {most:,} bytes", too_large=True)
    return content


def read_text(path: Path | str, most: int = MOST_JSON, errors: Literal["strict", "replace"] = "strict") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        Unreadable: as `read_bytes`, or it is not UTF-8 and `errors` is strict.
    """
    return _decoded(read_bytes(path, most), path, errors)


def _decoded(content: bytes, path: Path | str, errors: Literal["strict", "replace"]) -> str:
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"not a text in UTF-8 (byte {error.start})") from error


class Copy(NamedTuple):
    """A file's bytes at one moment, in a file that nobody else knows: where it can be opened, and what is in it."""

    path: str
    bytes: int
    sha256: str


@contextmanager
def private_copy(path: Path | str, check: Callable[[BinaryIO, Path | str], None] | None = None) -> Iterator[Copy]:
    """The bytes that a regular file has now, for libraries that open a path: its digest is that of what they read.

    On Linux the copy lies in memory, takes its size there until the block ends, and cannot be reached by a name.

    Args:
        path: of the file.
        check: called with the opened file and its path before a byte is copied; it raises where copying is of no use. Not called for
            a pipe, which cannot be read twice.

    Raises:
        Unreadable: it is missing, no regular file, cannot be read, or is larger than this machine's memory; or `check` says so.
    """
    from edgekit.temporary import private_file  # whoever only parses JSON needs none of it

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
    """The value of a JSON text.

    Args:
        content: the text.
        path: of its file, for messages.
        kind: what the value must be; None accepts any.

    Raises:
        Unreadable: it is not JSON, or something else than `kind`.
    """
    with understood(path, "JSON"):
        value = json.loads(content)
    if kind is not None and not isinstance(value, kind):
        raise Unreadable(path, f"JSON, but holds {type(value).__name__} and not {kind.__name__}")
    return value


def read_json(path: Path, kind: type | None = dict) -> Any:
    """The value of a JSON file; see `read_bytes` and `parse_json`.

    Raises:
        Unreadable: as they do.
    """
    return parse_json(read_bytes(path), path, kind)


def read_csv(
    path: Path | str, errors: Literal["strict", "replace"] = "strict"
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file in UTF-8 with a header, and its rows: the line that each ends on, and its values by column.

    A value that a row lacks is the empty text, and values beyond the header are left out. The rows are read one by one: whoever keeps
    none of them needs no more memory than the file.

    Raises:
        Unreadable: as `read_text`, or it is no CSV; the rows raise it, too, and where they have more than `MOST_CELLS` values in all.
    """
    import csv
    import io

    content = read_bytes(path)
    _decoded(content, path, errors)
    with understood(path, "a CSV file"):
        # Decoded a second time, block by block: the whole text as a stream would take four bytes a character.
        stream = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", errors, newline="")
        reader = csv.DictReader(stream, restval="")
        columns = list(reader.fieldnames or [])
    return columns, _csv_rows(reader, columns, path)


def _csv_rows(reader: Any, columns: list[str], path: Path | str) -> Iterator[tuple[int, dict[str, str]]]:
    with understood(path, "a CSV file"):
        for number, row in enumerate(reader, 1):
            if number * len(columns) > MOST_CELLS:  # a short row has a value in each of its columns, too
                raise Unreadable(path, f"has more than {MOST_CELLS:,} values", too_large=True)
            yield reader.line_num, {name: row[name] for name in columns}


def read_npz(path: Path, names: list[str] | None = None, most: int = MOST_ARRAYS) -> dict[str, Any]:
    """Arrays of a NumPy archive (.npz); see `parse_npz`.

    Raises:
        Unreadable: there is no such file, or as `parse_npz`.
    """
    with open_regular(path) as stream:
        return parse_npz(stream, path, names, most)


def parse_npz(
    stream: BinaryIO, path: Path | str, names: list[str] | None = None, most: int = MOST_ARRAYS
) -> dict[str, Any]:
    """Arrays of a NumPy archive (.npz) by name, without pickles.

    Args:
        stream: the archive, of a file that is open or of bytes.
        path: of its file, for messages.
        names: which; None for all.
        most: bytes that they may take together, unpacked.

    Raises:
        Unreadable: it is no such archive, damaged, lacks one of them, holds something else under its name, or is too large.
    """
    import zipfile

    import numpy as np

    with understood(path, "a NumPy archive"):
        with zipfile.ZipFile(stream) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        if lacking := [name for name in names or [] if name not in sizes]:
            raise Unreadable(path, f"holds no array named {', '.join(lacking)}")
        wanted = list(sizes) if names is None else names
        if (needed := sum(sizes[name] for name in wanted)) > most:
            raise Unreadable(path, f"unpacks to {needed:,} bytes, more than {most:,}")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in wanted}
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise Unreadable(path, f"{name} in it is no array")
    return found
