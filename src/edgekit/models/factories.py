"""`package.module:factory`: networks from a user's own Python code."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from edgekit.errors import EdgekitError, RecipeError, near, typed_reason_of


def import_factory(module: str, name: str, context: str) -> Any:
    """Import an object of a module, which is also searched for in the current folder. Importing it runs its code.

    Args:
        module: name of the module, with dots.
        name: name of a function, or with dots of an attribute of a class.
        context: the beginning of error messages.

    Raises:
        RecipeError: the module cannot be imported, or has no such attribute.
    """
    try:
        with _current_folder():
            found: Any = importlib.import_module(module)
    except Exception as error:  # the user's own code
        reason = typed_reason_of(error)
        raise RecipeError(
            f"{context}: the module {module} cannot be imported: {reason}",
            "put it on the Python path or in the current folder",
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            hint = near(part, dir(found)) or "accepted: module:function, where the function returns the network"
            raise RecipeError(f"{context}: {module} has no {name}", hint)
        found = getattr(found, part)
    return found


def network_of(factory: tuple[str, str], context: str) -> nn.Module:
    """Import a function without arguments, call it, and return its network.

    Args:
        factory: module and name, see `import_factory`.
        context: the beginning of error messages.

    Raises:
        RecipeError: it cannot be imported, fails, or returns something else.
    """
    function = import_factory(*factory, context)
    with users_code(f"{context}: fails", "the function must take no arguments and return the network"):
        network = function()
    if not isinstance(network, nn.Module):
        raise RecipeError(f"{context}: returned a {type(network).__name__}, not an nn.Module", "return the network")
    return network


@contextmanager
def users_code(what: str, hint: str) -> Iterator[None]:
    """Turn whatever a user's network or function raises in this block into one line.

    Args:
        what: failed, the beginning of the message.
        hint: what to do.

    Raises:
        RecipeError: with the type and text of the error.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:  # code of the user may raise anything
        reason = typed_reason_of(error)
        raise RecipeError(f"{what}: {reason}", hint) from error


def source_file(module: str, context: str) -> Path:
    """Find the file that a module would be imported from, without importing it or the packages that contain it.

    `importlib.util.find_spec` would import these packages, but a user who looks at somebody else's run does not expect it to run code
    named in its recipe.

    Raises:
        RecipeError: there is no such module.
    """
    with _current_folder():
        origin = _found(module)
    if origin is None or not Path(origin).is_file():
        raise RecipeError(
            f"{context}: there is no module {module}", "put it on the Python path or in the current folder"
        )
    return Path(origin)


def _found(module: str) -> str | None:
    """Find the origin of a module, package by package as the import system does, without running them."""
    folders: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = _spec(name, sys.path if folders is None else folders)
        if spec is None and folders is None:  # the finder of an editable installation knows top-level names
            others = (f for f in sys.meta_path if f is not PathFinder and hasattr(f, "find_spec"))
            spec = next((s for f in others if (s := f.find_spec(name, None)) is not None), None)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    return spec.origin if spec is not None else None


def _spec(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """The module in the first folder that has it; otherwise a namespace package over all folders that have a part of it."""
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
    """Import from the current folder too, which a console script does not do by default."""
    folder = str(Path.cwd())
    if folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
