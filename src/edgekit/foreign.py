"""Bytes that somebody else may have written: read within bounds, and whatever a library raises for them becomes one error.

A list of the exceptions that a parser may raise is never complete: zipfile, zlib, lzma, numpy, json and pickle raise some twenty kinds
for damaged bytes. So there is one function a format, each catches everything, and nothing else in the package parses such bytes.
The formats that need a package of their own are parsed inside `understood` where they are used: YAML in `recipe`, safetensors and
checkpoints in `models` and `train`, Parquet in `data`, images in `preprocess`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, one_line

MOST_JSON = 64 << 20  # far above any file of ours, and little enough to be read
MOST_ARRAYS = 1 << 30  # unpacked, of one archive


class Unreadable(EdgekitError):
    """Foreign bytes that cannot be understood; whoever reads them says what that means.

    Args:
        path: of the file.
        reason: why, in a few words.
        missing: whether there is no such file at all.
    """

    def __init__(self, path: Path | str, reason: str, *, missing: bool = False) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = one_line(reason, 200)
        self.missing = missing


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
            raise Unreadable(path, f"not {what}: {error or 'damaged'}") from error
        missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
        raise Unreadable(
            path, "no such file" if missing else f"cannot be read: {error.strerror}", missing=missing
        ) from error
    except RecursionError as error:
        raise Unreadable(path, f"not {what}: nested too deep") from error
    except MemoryError as error:
        raise Unreadable(path, f"not {what}: it claims more memory than there is") from error
    except Exception as error:
        raise Unreadable(path, f"not {what}: {one_line(str(error), 200) or type(error).__name__}") from error


def read_bytes(path: Path, most: int = MOST_JSON) -> bytes:
    """A regular file's bytes; no pipe or device, which may never end.

    Raises:
        Unreadable: it is missing, no regular file, cannot be read, or is larger than `most` bytes.
    """
    with understood(path, "a file"):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would block
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable(path, "not a regular file")
            content = stream.read(most + 1)
    if len(content) > most:
        raise Unreadable(path, f"larger than {most:,} bytes")
    return content


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


def read_npz(path: Path, names: list[str] | None = None, most: int = MOST_ARRAYS) -> dict[str, Any]:
    """Arrays of a NumPy archive (.npz) by name, without pickles.

    Args:
        path: the file.
        names: which; None for all.
        most: bytes that they may take together, unpacked.

    Raises:
        Unreadable: it is no such archive, damaged, lacks one of them, holds something else under its name, or is too large.
    """
    import zipfile

    import numpy as np

    with understood(path, "a NumPy archive"):
        if not path.is_file():
            raise Unreadable(
                path, "no such file" if not path.exists() else "not a regular file", missing=not path.exists()
            )
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        if lacking := [name for name in names or [] if name not in sizes]:
            raise Unreadable(path, f"holds no array named {', '.join(lacking)}")
        wanted = list(sizes) if names is None else names
        if (needed := sum(sizes[name] for name in wanted)) > most:
            raise Unreadable(path, f"unpacks to {needed:,} bytes, more than {most:,}")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in wanted}
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise Unreadable(path, f"{name} in it is no array")
    return found
