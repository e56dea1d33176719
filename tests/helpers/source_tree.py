"""A copy of what packages are built from: building must not leave anything in the tree."""

from __future__ import annotations

import shutil
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def source_tree(folder: Path, *more: str) -> Path:
    """Copy what the wheel is made of to a new folder, and `more`: files and folders of the root. Git's own folder is not there."""
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", *more):
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(_ROOT / name, folder)
    return folder
