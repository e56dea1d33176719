"""Copies of the device trees in tests/fixtures/devices, which a test may change while a sampler reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

TREES = Path(__file__).parents[1] / "fixtures" / "devices"
JETSON, PI, X86 = "jetson-orin-nano", "raspberry-pi-5", "x86-rapl"


def device(name: str, folder: Path) -> Path:
    """A copy of a tree in `folder`."""
    return Path(shutil.copytree(TREES / name, folder / name))


def plant(root: Path, files: dict[str, object]) -> None:
    """Write files into a tree, each at once: the kernel's files are never half-written, nor are they empty for a moment."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}")
        written.write_text(f"{content}\n")
        written.replace(path)
