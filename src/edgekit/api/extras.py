"""The extras of the wheel: packages that a device does not need."""

from __future__ import annotations

import importlib.util
import warnings

from edgekit.errors import RuntimeMissing

# package -> the extra that installs it
EXTRAS = {
    **dict.fromkeys(("onnx", "nncf"), "export"),
    **dict.fromkeys(("torch", "torchvision", "torchmetrics", "lightning", "timm", "safetensors", "sklearn"), "train"),
    **dict.fromkeys(("braceexpand", "pyarrow"), "train"),
    "optuna": "search",
    "torch_pruning": "prune",
}


def require(*packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        RuntimeMissing: a package is missing; the message names the extra that installs it.
    """
    # What timm downloads with asks for a notebook's widgets and warns where those are missing; no bar of edgekit's needs them.
    warnings.filterwarnings("ignore", "IProgress not found")
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def missing(package: str) -> RuntimeMissing:
    """Return the error for a package of `EXTRAS` that is not installed."""
    return RuntimeMissing(f"{package} is not installed", f"install edgekit's wheel with the extra [{EXTRAS[package]}]")
