"""What pydantic found wrong, in the words of somebody who writes YAML: the key's path, the value, and what would be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from edgekit.errors import near

_MEANING = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be letters, digits, dots, dashes and underscores, a letter or digit first",
}
_PAIR = {"tuple_type", "missing", "too_long"}  # a key is never missing, defaults are merged in before; an element is


def problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence a key; the several errors of a union (one for each type that it might have been) become one."""
    grouped: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors():
        keys = tuple(part for part in problem["loc"] if isinstance(part, str) and not _is_union_tag(part))
        grouped.setdefault(keys, []).append(problem)
    return [_sentence(model, keys, found) for keys, found in grouped.items()]


def _sentence(model: type[BaseModel], keys: tuple[str, ...], found: list[Any]) -> str:
    kind, value, key = found[0]["type"], found[0]["input"], ".".join(keys) or "recipe"
    if kind == "extra_forbidden":
        siblings = _keys_of(model, keys[:-1])
        return f"unknown key {key} ({near(keys[-1], siblings) or 'accepted: ' + ', '.join(siblings)})"
    if (
        kind == "value_error"
    ):  # a check of ours: its message begins with the key inside the group, or with the whole path
        message = str(found[0]["msg"]).removeprefix("Value error, ")
        begins_with_key = message.split(maxsplit=1)[0] in _keys_of(model, keys)
        return ("" if not keys else f"{key}." if begins_with_key else f"{key}: ") + message
    if kind in {"model_type", "model_attributes_type"}:
        accepted = f"must be a group of keys ({', '.join(_keys_of(model, keys))})"
    elif kind in _PAIR:
        accepted = f"must be two numbers, low and high ({_description(model, keys)})"
    elif len(found) > 1:
        accepted = f"accepted is {_description(model, keys)}"
    else:
        accepted = _MEANING.get(kind) or str(found[0]["msg"]).replace("Input should be", "must be")
    return f"{key}: {accepted}; got {value!r}"


def _is_union_tag(part: str) -> bool:
    return part.startswith(("constrained-", "function-")) or part in {"str", "int", "float"}


def _keys_of(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    group = _group(model, keys)
    return [field.alias or name for name, field in group.model_fields.items()] if group is not None else []


def _description(model: type[BaseModel], keys: Sequence[str]) -> str:
    group = _group(model, keys[:-1])
    field = group.model_fields.get(keys[-1]) if group is not None and keys else None
    return (field.description if field is not None else None) or "another value"


def _group(model: type[BaseModel], keys: Sequence[str]) -> type[BaseModel] | None:
    group: Any = model
    for name in keys:
        field = group.model_fields.get(name)
        group = field.annotation if field is not None else None
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            return None
    found: type[BaseModel] = group
    return found
