"""edgekit: from unlabelled images to a small, fast, proven model on your device.

Importing this package loads nothing else; each room is imported where it is used. `edgekit.Bundle` and `edgekit.Predictor` are
there for whoever only wants to classify images; they are imported when they are first named.
"""

from edgekit import privacy

privacy.switch_off()  # here, since whatever of edgekit imports a runtime imports this first

__version__ = "0.1.0"

_NAMES = {"Bundle": "edgekit.bundle", "Predictor": "edgekit.runtimes.predictor"}


def __getattr__(
    name: str,
) -> object:  # typed in __init__.pyi; typing itself would cost as much as all the rest of this import
    if name not in _NAMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
