"""The extras of the wheel: packages that a device does not need."""

from __future__ import annotations

import importlib.util

from edgekit.errors import RuntimeMissing

# package -> the extra that installs it
EXTRAS = {
    **dict.fromkeys(("onnx", "nncf"), "export"),
    **dict.fromkeys(("torch", "torchvision", "torchmetrics", "lightning", "timm", "safetensors", "sklearn"), "train"),
    **dict.fromkeys(("braceexpand", "pyarrow"), "train"),
}


def require(*packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        RuntimeMissing: a package is missing; the message names the extra that installs it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def missing(package: str) -> RuntimeMissing:
    """Return the error for a package of `EXTRAS` that is not installed."""
    return RuntimeMissing(f"{package} is not installed", f"install edgekit's wheel with the extra [{EXTRAS[package]}]")
