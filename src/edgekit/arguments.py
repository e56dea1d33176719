"""What the functions and methods of the Python interface accept for an argument."""

from __future__ import annotations

import builtins
import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from edgekit.errors import EdgekitError, near, quoted

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Within:
    """The bounds of a finite number; `more`: the lower one is not possible itself."""

    least: float
    most: float = math.inf
    more: bool = False

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"{'above' if self.more else 'of at least'} {self.least:g}"
        return f"from {self.least:g} to {self.most:g}"

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds; `nan` is not."""
        return value < math.inf and (self.least < value if self.more else self.least <= value) and value <= self.most


Count = Annotated[int, Within(1)]
CountOrZero = Annotated[int, Within(0)]
Positive = Annotated[float, Within(0, more=True)]

_KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path", NoneType: "None", Sequence: "a list",
    Mapping: "a dictionary", Callable: "a function",
}  # fmt: skip


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text, or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def checked(*but: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let a function refuse an argument that its annotation does not allow, before it does anything.

    What an annotation names for type checkers alone is not checked.

    Args:
        but: parameters that the function checks itself.

    Returns:
        A decorator; the function then raises EdgekitError, in one line.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        signature = inspect.signature(function)
        kinds = functools.cache(lambda: _kinds(function, signature, but))  # of use only once the module is whole
        called = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
            try:
                given = signature.bind(*args, **options).arguments
            except TypeError:
                given = {}  # Python says so itself
            for name, value in given.items():
                if name in kinds() and not _is_allowed(kinds()[name], value):
                    raise _refusal(f"{called}: {name}", kinds()[name], value)
            return function(*args, **options)

        return call

    return decorate


class _Names(dict[str, Any]):
    """The names of a module; one that is imported for type checkers alone means anything."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return Any


def _kinds(function: Callable[..., Any], signature: inspect.Signature, but: Sequence[str]) -> dict[str, Any]:
    """Return what each parameter allows that has an annotation."""
    names, kinds = _Names(function.__globals__), dict[str, Any]()
    for name, parameter in signature.parameters.items():
        if name not in but and isinstance(parameter.annotation, str):
            try:
                kinds[name] = eval(parameter.annotation, {}, names)
            except (AttributeError, TypeError):  # `nn.Module`, where nn is imported for type checkers alone
                continue
    return kinds


def _is_allowed(kind: Any, value: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        return _is_allowed(parts[0], value) and parts[1].holds(value)
    if origin in (Union, UnionType):
        return any(_is_allowed(part, value) for part in parts)
    if origin is Sequence:
        is_list = isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, Mapping))
        return is_list and all(_is_allowed(parts[0], element) for element in value)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and len(value) == len(parts) and all(map(_is_allowed, parts, value))
    return isinstance(value, str) and value in parts if origin is Literal else _is_a(origin or kind, value)


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value is of a class; of Python's numbers, NumPy's belong to one, too, and a bool is none."""
    if kind is Callable:
        return callable(value)
    if kind in (bool, int, float):
        is_bool = type(value).__name__ in {"bool", "bool_"}
        return is_bool if kind is bool else not is_bool and isinstance(value, Integral if kind is int else Real)
    return isinstance(value, kind)


def _refusal(where: str, kind: Any, value: Any) -> EdgekitError:
    """Return the error about an argument; it shows no content but that of a text or a number."""
    is_short = value is None or isinstance(value, (str, Real, Path))
    choices = [part for part in _parts(kind) if isinstance(part, str)]
    hint = near(value, choices) if isinstance(value, str) else ""
    accepted = list(dict.fromkeys(_described(part) for part in _parts(kind)))
    listed = accepted[0] if len(accepted) == 1 else f"{', '.join(accepted[:-1])} or {accepted[-1]}"
    shown = quoted(str(value) if isinstance(value, Path) else value) if is_short else f"of type {type(value).__name__}"
    return EdgekitError(f"{where} cannot be {shown}", hint or f"give {listed}")


def _parts(kind: Any) -> list[Any]:
    """Return what a union allows; of a Literal, its texts."""
    if get_origin(kind) in (Union, UnionType, Literal):
        return [each for part in get_args(kind) for each in _parts(part)]
    return [kind]


def _described(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_described(parts[0])} {parts[1]}"
    if isinstance(kind, str):
        return repr(kind)
    return f"{len(parts)} numbers" if origin is tuple else _KINDS.get(origin or kind, getattr(kind, "__name__", ""))
