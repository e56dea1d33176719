"""edgekit: from unlabeled images to a small, fast, proven model on your device.

`edgekit.train`, `edgekit.export`, `edgekit.load` and the other names in `__all__` do in Python what the commands of the same name do.
Importing this package loads nothing else: each name is imported when it is first used (`__init__.pyi` types them).
"""

import sys

from edgekit import privacy

privacy.switch_off()  # here, since whatever of edgekit imports a runtime imports this first

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in the order of the job; all but the version are imported on first use
    "Recipe", "Run", "train", "evaluate", "embed", "report", "export", "Bundle", "load", "Predictor", "Prediction", "bench", "search",
    "Result",
    "EdgekitError", "__version__",
]  # fmt: skip

# name -> the module that defines it
_MODULES = {
    "Bundle": "edgekit.bundle",
    "EdgekitError": "edgekit.errors",
    "Prediction": "edgekit.tasks.classification",
    "Predictor": "edgekit.runtimes.predictor",
    "Recipe": "edgekit.recipe",
    "Result": "edgekit.result",
    "Run": "edgekit.api.runs",
    "embed": "edgekit.api.embedding",
    "evaluate": "edgekit.api.training",
    "load": "edgekit.api.predicting",
}
# Functions whose name is a subpackage's, too: `edgekit.train(recipe)` and `edgekit.train.stages.pipeline` both work.
_CALLABLE = {
    "bench": "edgekit.api.benching",
    "export": "edgekit.api.exporting",
    "report": "edgekit.api.reporting",
    "search": "edgekit.api.searching",
    "train": "edgekit.api.training",
}


class _CallableModule(type(sys)):  # type: ignore[misc]
    """A subpackage that can be called: the call goes to the function of the same name."""

    def __call__(self, *args, **options):  # type: ignore[no-untyped-def]
        return self._function()(*args, **options)

    @property
    def __signature__(self):  # type: ignore[no-untyped-def]
        from inspect import signature

        return signature(self._function())

    def _function(self):  # type: ignore[no-untyped-def]
        name = self.__name__.rpartition(".")[2]
        return getattr(_import(_CALLABLE[name]), name)


class _Package(type(sys)):  # type: ignore[misc]
    """This package: a subpackage of `_CALLABLE` becomes callable when the import system binds it here, whoever imported it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _CALLABLE and type(value) is type(sys):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _import(module: str):  # type: ignore[no-untyped-def]
    from importlib import import_module

    return import_module(module)


def __getattr__(name: str) -> object:
    if name in _CALLABLE:
        return _import(f"edgekit.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    value = globals()[name] = getattr(_import(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
