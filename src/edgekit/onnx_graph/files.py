"""Reading of ONNX files: the only place that parses them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

from edgekit.foreign import read_bytes, understood

LARGEST = 2**31 - 1  # bytes of a protobuf message


def read_onnx(path: Path, *, external: bool = True) -> onnx.ModelProto:
    """Read the model in a file.

    Args:
        path: the file.
        external: whether to read weights that are stored in files beside it, too.

    Raises:
        Unreadable: the file is missing, not a regular file, damaged, not ONNX, larger than 2 GB, or its external data cannot be read.
    """
    model = parse_onnx(read_bytes(path, LARGEST), path)
    if external:
        read_external(model, path)
    return model


def parse_onnx(content: bytes, path: Path) -> onnx.ModelProto:
    """Parse a model from bytes, without its external data.

    Raises:
        Unreadable: the bytes are not an ONNX model.
    """
    with understood(path, "an ONNX model"):
        return onnx.load_model_from_string(content)


def read_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that are stored in files beside a model into it, in place.

    Raises:
        Unreadable: they are missing, outside the model's folder, or cannot be read.
    """
    with understood(path, "a model with its external data"):
        load_external_data_for_model(model, str(path.parent))
