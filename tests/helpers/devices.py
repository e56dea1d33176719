"""Copies of the device trees in tests/fixtures/devices, which a test may change while a sampler reads them.

The kernel has names like `intel-rapl:0`, which not every file system and no source distribution takes: the fixtures have = for the colon.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def _with_the_kernels_names() -> Path:
    """A copy of all trees, for reading alone."""
    folder = Path(tempfile.mkdtemp(prefix="edgekit-devices-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "devices", folder, dirs_exist_ok=True)
    for path in sorted(folder.rglob("*=*"), reverse=True):
        path.rename(path.with_name(path.name.replace("=", ":")))
    return folder


TREES = _with_the_kernels_names()
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
