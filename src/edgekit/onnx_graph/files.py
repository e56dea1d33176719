"""ONNX files: the one place that parses them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

from edgekit.foreign import read_bytes, understood

LARGEST = 2**31 - 1  # bytes of a protobuf message


def read_onnx(path: Path, *, external: bool = True) -> onnx.ModelProto:
    """The model in a file.

    Args:
        path: of the file.
        external: whether weights that lie in files beside it are read, too.

    Raises:
        Unreadable: it is missing, no regular file, damaged, no ONNX, larger than 2 GB, or its external data cannot be read.
    """
    model = parse_onnx(read_bytes(path, LARGEST), path)
    if external:
        read_external(model, path)
    return model


def parse_onnx(content: bytes, path: Path) -> onnx.ModelProto:
    """The model that bytes stand for, its external data not looked at.

    Raises:
        Unreadable: they are no ONNX.
    """
    with understood(path, "an ONNX model"):
        return onnx.load_model_from_string(content)


def read_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie in files beside a model into it, in place.

    Raises:
        Unreadable: they are missing, outside the model's folder, or cannot be read.
    """
    with understood(path, "a model with its external data"):
        load_external_data_for_model(model, str(path.parent))
