"""`package.module:factory`: networks that a user's own Python code gives."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError, near


def import_factory(module: str, name: str, here: str) -> Any:
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
            f"{here}: the module {module} cannot be imported: {reason}", "it is looked for in the current folder too"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            hint = near(part, dir(found)) or "accepted: module:function, which gives the network"
            raise RecipeError(f"{here}: {module} has no {name}", hint)
        found = getattr(found, part)
    return found


def source_file(module: str, here: str) -> Path:
    """The file that a module is imported from.

    Raises:
        RecipeError: there is no such module.
    """
    try:
        with _current_folder():
            spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise RecipeError(f"{here}: there is no module {module}", "it is looked for in the current folder too")
    return Path(spec.origin)


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
