"""The kind of a MODEL on the command line, found without loading the model or running code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from edgekit.errors import ExportError
from edgekit.models.foreign_files import recognized

Kind = Literal["run", "onnx", "safetensors", "timm", "torchvision", "factory"]
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_WEIGHTS = {".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".th", ".tar"}


def _with_command(hint: str) -> str:
    if "weights.pth" not in hint:
        return hint
    return f"{hint}; then name the network: edgekit export timm:NAME --weights weights.pth, or torchvision:NAME, or package.module:factory"


def kind_of(model: str) -> Kind:
    """The kind of a MODEL.

    Raises:
        ExportError: it is a file of a kind that cannot be exported; the hint says what can.
    """
    if model.startswith("timm:"):
        return "timm"
    if model.startswith("torchvision:"):
        return "torchvision"
    path = Path(model).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".onnx" and not path.is_dir():
        return "onnx"
    if suffix == ".safetensors" and not path.is_dir():
        return "safetensors"
    if path.is_file():
        if other := recognized(path):
            raise ExportError(f"{model}: is {other[0]}", _with_command(other[1]))
        if suffix in _WEIGHTS:
            raise ExportError(
                f"{model}: holds weights without a network, or a pickle that could run code; it was not opened",
                f"name the network: edgekit export timm:NAME --weights {model}, or torchvision:NAME, or package.module:factory",
            )
        raise ExportError(
            f"{model}: is not a model that edgekit can export", "accepted: a run's folder, .onnx, .safetensors, timm:NAME, "
            "torchvision:NAME, package.module:factory",
        )  # fmt: skip
    if _FACTORY.fullmatch(model) and not path.exists():
        return "factory"
    return "run"
