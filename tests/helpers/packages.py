"""Versions of installed packages; and packages that are installed for one test: folders with a distribution's metadata, put on the paths of
this process and of its children.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest


def version_of(distribution: str) -> tuple[int, int]:
    """Return the first two numbers of an installed distribution's version."""
    first, second = metadata.version(distribution).split(".")[:2]
    return int(first), int(second)


def installing(monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> Iterator[Callable[..., None]]:
    """Yield a function that installs folders, and uninstalls those that it installed before.

    Args:
        monkeypatch: undoes it at the end of the test.
        forget: clears what edgekit remembers of the installed packages.
    """
    path, variable = list(sys.path), os.environ.get("PYTHONPATH", "")

    def install(*folders: Path) -> None:
        monkeypatch.setattr(sys, "path", [*map(str, folders), *path])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), variable]))
        importlib.invalidate_caches()
        forget()

    yield install
    forget()


def write_package(
    folder: Path, code: str, group: str, entry: str, *, name: str = "theirs", distribution: str = ""
) -> Path:
    """Write a package of one module and one entry point; return the folder.

    Args:
        folder: to write into.
        code: of the module.
        group, name: of the entry point.
        entry: the attribute of the module that it names.
        distribution: its name; empty: the module's, which differs from folder to folder.
    """
    module = f"package_{abs(hash(str(folder)))}"
    metadata = folder / f"{module}-2.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{module}.py").write_text(f"{code}\n")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or module}\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{entry}\n")
    return folder
