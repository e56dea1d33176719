"""Foreign files of weights: safetensors, and the formats of `torch.save`. Code in a file is never run.

This is the only place that parses them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from edgekit.foreign import MOST_JSON, Unreadable, open_regular, parse_json, private_copy, understood
from edgekit.models.foreign_files import recognized_in

_REBUILT: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
# Types that training scripts store beside their weights and that only hold data: options, the best accuracy as a NumPy scalar, paths.
# NumPy 2 moved two of its functions; a file has the names of the version that wrote it.
_HARMLESS: list[Any] = [
    argparse.Namespace, pathlib.PurePosixPath, pathlib.PosixPath, np.ndarray, np.dtype,
    *((rebuild, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, rebuild in _REBUILT.items()),
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")},
]  # fmt: skip
_DAMAGED = "damaged, or not a file of weights"


class NotWeights(Unreadable):
    """A file that does not hold weights, or not only weights; it was not loaded.

    Args:
        path: the file.
        reason: what it is.
        hint: what to do with it.
    """

    def __init__(self, path: Path | str, reason: str, hint: str) -> None:
        super().__init__(path, reason)
        self.hint = hint


class Content(NamedTuple):
    """The content of a file, and the SHA-256 of its bytes."""

    value: Any
    sha256: str


def read_weights(path: Path) -> Content:
    """Read a file of weights, with its tensors on the CPU: safetensors (recognized by content) or a file of `torch.save`.

    Raises:
        NotWeights: the file is of another kind, or would run code.
        Unreadable: the file is missing, not a regular file, damaged, or larger than the memory.
    """
    with private_copy(path, _check_kind) as copy:
        with open(copy.path, "rb") as stream:
            _check_kind(stream, path)  # again: a pipe was not checked before, and a file may have changed
            stream.seek(0)
            is_safetensors = _is_safetensors(stream)
        if is_safetensors:
            return Content(_safetensors(copy.path, path), copy.sha256)
        return Content(_torch(copy.path, path, "cpu"), copy.sha256)


def read_safetensors(path: Path) -> Content:
    """Read the tensors of a safetensors file, by name.

    Raises:
        Unreadable: the file is missing, not a regular file, damaged, or larger than the memory.
    """
    with private_copy(path, _check_size) as copy:
        return Content(_safetensors(copy.path, path), copy.sha256)


def read_checkpoint(path: Path, map_location: Any = None) -> Any:
    """Read a file of `torch.save`, after checking the CRC-32 of each of its records.

    Raises:
        NotWeights: the file would run code.
        Unreadable: the file is missing, not a regular file, or damaged.
    """
    with open_regular(path) as stream:
        with understood(path, "a checkpoint"), zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise Unreadable(path, f"the checksum of its record {damaged} is wrong")
        stream.seek(0)
        return _torch(stream, path, map_location)


def _is_safetensors(stream: BinaryIO) -> bool:
    return stream.read(9)[8:] == b"{"  # eight bytes of length, then JSON


def _check_kind(stream: BinaryIO, path: Path | str) -> None:
    """Refuse files that are not weights by their first and last bytes, before reading the rest, which may be huge."""
    is_safetensors = _is_safetensors(stream)
    stream.seek(0)
    if is_safetensors:
        _check_size(stream, path)
        return
    start = stream.read(264)
    stream.seek(0)
    try:
        other = recognized_in(stream)
    except Exception as error:  # a broken archive may raise anything
        raise Unreadable(path, f"{_DAMAGED}: {error}") from error
    if other:
        raise NotWeights(path, f"is {other[0]}", other[1])
    # torch.load reads archives, pickles, and the tar files of its first versions, which it then refuses itself.
    if not (start.startswith((b"PK\x03\x04", b"\x80")) or start[257:262] == b"ustar"):
        raise Unreadable(path, _DAMAGED) from ValueError("its first bytes are of no known format")


def _check_size(stream: BinaryIO, path: Path | str) -> None:
    """Refuse a safetensors file whose size does not match its header, before reading the rest, which may be huge.

    Source: safetensors' format: 8 bytes for the header's length N (little-endian), N bytes of JSON, then the tensors' bytes.
    """
    begins = _is_safetensors(stream)
    stream.seek(0)
    with understood(path, "safetensors"):
        if not begins:
            raise ValueError("no header at the start")
        size, length = os.fstat(stream.fileno()).st_size, int.from_bytes(stream.read(8), "little")
        if length > min(MOST_JSON, size - 8):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        tensors = [entry for name, entry in parse_json(stream.read(length), path).items() if name != "__metadata__"]
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        if end != size:
            raise ValueError(f"{size:,} bytes, where its header describes {end:,}")


def _safetensors(copy: str, path: Path) -> dict[str, Tensor]:
    with understood(path, "safetensors"):
        tensors: dict[str, Tensor] = safetensors.torch.load_file(copy)
        return tensors


def _torch(source: str | BinaryIO, path: Path, map_location: Any) -> Any:
    """Hide PyTorch's own messages: they advise to load without the restriction, which would run code in the file."""
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings(), understood(path, _DAMAGED):
            warnings.simplefilter("ignore")  # about pickles of other programs
            return torch.load(source, map_location=map_location, weights_only=True)
    except Unreadable as error:
        message = str(error.__cause__)
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise NotWeights(
                path, _not_weights(message), "save only its weights: as safetensors, or with torch.save of a state dict"
            ) from error
        why = "it cannot be understood" if "weights_only" in message else " ".join(message.split())[:120]
        raise Unreadable(path, f"{_DAMAGED}: {why}", detail=why) from error


def _not_weights(reason: str) -> str:
    named = re.search(r"(?:GLOBAL|class|callable)\s+([\w.]+)", reason)
    if named:
        return f"holds more than weights ({named[1]}); it could run code and is never loaded"
    if "Unsupported operand 149" in reason:  # FRAME, from later pickle protocols, which torch.save does not use
        return "a pickle that does not hold weights; it could run code and is never loaded"
    return _DAMAGED
