"""`package.module:factory`: networks that a user's own Python code gives."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError, near


def import_factory(module: str, name: str, context: str) -> Any:
    """What a module calls `name`; the module is looked for in the current folder too. Importing it runs its code.

    Args:
        module: with dots.
        name: of a function, or with dots of something inside a class.
        here: the beginning of an error message.

    Raises:
        RecipeError: the module cannot be imported, or has no such name.
    """
    try:
        with _current_folder():
            found: Any = importlib.import_module(module)
    except Exception as error:  # the user's own code
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RecipeError(
            f"{context}: the module {module} cannot be imported: {reason}", "it is looked for in the current folder too"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            hint = near(part, dir(found)) or "accepted: module:function, which gives the network"
            raise RecipeError(f"{context}: {module} has no {name}", hint)
        found = getattr(found, part)
    return found


def source_file(module: str, context: str) -> Path:
    """The file that a module would be imported from; nothing is imported, neither it nor the packages that it is in.

    `importlib.util.find_spec` would import those, and whoever looks at a run that somebody else trained does not mean to run code
    that its recipe names.

    Raises:
        RecipeError: there is no such module.
    """
    with _current_folder():
        origin = _found(module)
    if origin is None or not Path(origin).is_file():
        raise RecipeError(f"{context}: there is no module {module}", "it is looked for in the current folder too")
    return Path(origin)


def _found(module: str) -> str | None:
    """The origin of a module, looked for in one package after the other as the import system does, without running them."""
    folders: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = _spec(name, sys.path if folders is None else folders)
        if spec is None and folders is None:  # an editable install's own finder knows top-level names
            others = (f for f in sys.meta_path if f is not PathFinder and hasattr(f, "find_spec"))
            spec = next((s for f in others if (s := f.find_spec(name, None)) is not None), None)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    return spec.origin if spec is not None else None


def _spec(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """The module of that full name in the first folder that has it; else a namespace package over all that have a part of one."""
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder or str(Path.cwd()))
        spec = finder.find_spec(name) if finder is not None and hasattr(finder, "find_spec") else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += list(spec.submodule_search_locations or []) if spec is not None else []
    if not portions:
        return None
    namespace = ModuleSpec(name, None)
    namespace.submodule_search_locations = portions
    return namespace


@contextmanager
def _current_folder() -> Iterator[None]:
    """Import from the current folder too, which a console script does not do by itself."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
