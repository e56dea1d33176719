"""What the names of networks in a recipe say: a library and its network, a tag, or a function of the user."""

from __future__ import annotations

import re

PRETRAINED = "pretrained"  # in place of a file of weights
_LIBRARY = re.compile(r"(timm|torchvision):([^:]+)")
_FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")


def library_of(model: str) -> tuple[str, str] | None:
    """Return library and name of `timm:NAME` or `torchvision:NAME`; None for another text."""
    match = _LIBRARY.fullmatch(model)
    return (match[1], match[2]) if match else None


def factory_of(model: str) -> tuple[str, str] | None:
    """Return module and function of `module:factory`; None for another text."""
    match = _FACTORY.fullmatch(model)
    return (match[1], match[2]) if match and library_of(model) is None else None


def tag_of(name: str) -> str:
    """Return the tag of a name of timm, the name of its weights: `a1_in1k` of `timm:resnet18.a1_in1k`; empty without one."""
    library, _, bare = name.rpartition(":")
    return bare.partition(".")[2] if library in {"", "timm"} else ""


def check_std(std: float | tuple[float, float, float] | None) -> None:
    """Refuse a standard deviation that is not positive, with a ValueError."""
    if any(value is not None and value <= 0 for value in (std if isinstance(std, tuple) else (std,))):
        raise ValueError(f"std ({std}) must be greater than 0")
