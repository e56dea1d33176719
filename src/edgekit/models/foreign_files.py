"""Files that are often mistaken for weights: recognized by their first bytes or the names of their members, never loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO

from edgekit.foreign import Unreadable, open_regular, understood


def recognized(path: Path | str) -> tuple[str, str] | None:
    """What a file is, and what to do with it; None if it may be a file of weights.

    Args:
        path: the file; one that cannot be read is not recognized.
    """
    try:
        with open_regular(path) as stream, understood(path, "a .zip"):
            return recognized_in(stream)
    except Unreadable:
        return None


def recognized_in(stream: BinaryIO) -> tuple[str, str] | None:
    """The same for an open file, read from its start.

    Raises:
        zipfile.BadZipFile: the file begins like an archive but is not one.
    """
    start = stream.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return "an HDF5 file (as Keras writes)", "export the network to ONNX with its own tools, and give that file"
    if start[:4] == b"GGUF":
        return "a GGUF file, a quantized model of llama.cpp", "give the weights that it was made from"
    if start[:4] != b"PK\x03\x04":
        return None
    stream.seek(0)
    with zipfile.ZipFile(stream) as archive:
        return _of_members(archive.namelist())


def _of_members(names: list[str]) -> tuple[str, str] | None:
    """TorchScript has its code and constants beside the tensors (torch/csrc/jit/serialization); torch.save's files have neither."""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return (
            "a TorchScript archive, which holds a program, not only weights",
            "save its weights once, in Python: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
        )
    if ".data/extern_modules" in inner:
        return "an archive of torch.package, which holds code", "save only the state dict of its network"
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return (
            "a program that torch.export wrote, not only weights",
            "save its weights once, in Python: torch.save(torch.export.load(FILE).state_dict, 'weights.pth')",
        )
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz)", "save them as safetensors under the names of PyTorch's network"
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "a Keras model", "export the network to ONNX with its own tools, and give that file"
    return None
