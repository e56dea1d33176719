"""Turn pydantic's errors into messages for authors of YAML: the key's path, the value, and the accepted values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from edgekit.errors import near, quoted, shortened

_MEANING = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_too_long": "must be shorter",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be letters, digits, dots, dashes and underscores, a letter or digit first",
}
_GROUPS_OR_VALUES = {"LabelCount"}  # groups that can replace a plain value: one message, from the description
_MOST = 10  # problems in one message
_PAIR = {"tuple_type", "missing", "too_long"}  # a key is never missing, defaults are merged in before; an element is


def first_problem(error: ValidationError) -> str:
    """Return the first error that pydantic found in a file or a message, for people who did not write it: `measurement.batch: …`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = shortened(".".join(str(part) for part in first["loc"]))
    message = shortened(first["msg"].removeprefix("Value error, "), 200)
    return f"{where}: {message}" if where else message


def problems(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return one sentence per key; the errors of a union (one for each possible type) are merged into one.

    Only the first ten problems are listed, and long values and keys are shortened.
    """
    grouped: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors():
        where = takewhile(lambda part: part not in _GROUPS_OR_VALUES, problem["loc"])
        path = tuple(part for part in where if isinstance(part, str) and not _is_union_tag(part))
        grouped.setdefault(path, []).append(problem)
    sentences = [_sentence(model, path, errors) for path, errors in list(grouped.items())[:_MOST]]
    return sentences + ([f"and {len(grouped) - _MOST} more"] if len(grouped) > _MOST else [])


def _sentence(model: type[BaseModel], path: tuple[str, ...], errors: list[Any]) -> str:
    keys = _without_tags(model, path)
    kind, value, key = errors[0]["type"], errors[0]["input"], shortened(".".join(keys)) or "recipe"
    if kind == "extra_forbidden":
        siblings = _keys_of(model, path[:-1])
        name, colon, rest = keys[-1].partition(":")
        if colon and name in siblings:  # YAML reads `{epochs:3}` as one key without a value
            return f"unknown key {key} (write a space after the colon: {shortened(f'{name}: {rest}')})"
        return f"unknown key {key} ({near(keys[-1], siblings) or 'accepted: ' + ', '.join(siblings)})"
    if kind == "union_tag_invalid":
        context = errors[0]["ctx"]
        choices = str(context["expected_tags"]).replace("'", "").split(", ")
        hint = near(str(context["tag"]), choices) or "accepted: " + ", ".join(choices)
        return f"{key}.{str(context['discriminator']).strip(chr(39))}: unknown {quoted(context['tag'])} ({hint})"
    if (
        kind == "value_error"
    ):  # one of our checks: its message begins with the key inside the group, or with the whole path
        message = shortened(str(errors[0]["msg"]).removeprefix("Value error, "), 500)
        begins_with_key = message.split(maxsplit=1)[0].partition(".")[0] in _keys_of(model, path)
        return ("" if not keys else f"{key}." if begins_with_key else f"{key}: ") + message
    if kind in {"model_type", "model_attributes_type"}:
        accepted = f"must be a group of keys ({', '.join(_keys_of(model, path))})"
    elif kind in _PAIR:
        accepted = f"must be two numbers, low and high ({_description(model, path)})"
    elif len(errors) > 1:
        accepted = f"accepted: {_description(model, path)}"
    else:
        accepted = _MEANING.get(kind) or str(errors[0]["msg"]).replace("Input should be", "must be")
    return f"{key}: {accepted}; got {quoted(value)}"


def _is_union_tag(part: str) -> bool:
    return part.startswith(("constrained-", "function-", "tuple[", "literal[")) or part in {"str", "int", "float"}


def _keys_of(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    group = _group(model, keys)
    return [field.alias or name for name, field in group.model_fields.items()] if group is not None else []


def _description(model: type[BaseModel], keys: Sequence[str]) -> str:
    group = _group(model, keys[:-1])
    field = group.model_fields.get(keys[-1]) if group is not None and keys else None
    return (field.description if field is not None else None) or "another value"


def _group(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """Return the model at a path; if a discriminator chooses one of several, the path names which."""
    group: Any = model
    for name in path:
        if isinstance(group, dict):
            group = group.get(name)
            continue
        field = group.model_fields.get(name)
        group = _choices(field) if field is not None and field.discriminator else field.annotation if field else None
        elements = get_args(group) if get_origin(group) in {tuple, list} else ()  # for a list, the element type
        group = elements[0] if elements else group
        if not (isinstance(group, dict) or (isinstance(group, type) and issubclass(group, BaseModel))):
            return None
    return next(iter(group.values())) if isinstance(group, dict) else group  # no tag yet: the first represents all


def _choices(field: Any) -> dict[str, type[BaseModel]]:
    """Return the members of a tagged union by their tags."""
    members = get_args(field.annotation)
    return {m.model_fields[field.discriminator].default: m for m in members}


def _without_tags(model: type[BaseModel], path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys as in the YAML, without the tags of tagged unions, which pydantic adds."""
    keys: list[str] = []
    for i, name in enumerate(path):
        before = _group(model, path[: i - 1]) if i else None
        field = before.model_fields.get(path[i - 1]) if before is not None and i else None
        if field is None or not field.discriminator:
            keys.append(name)
    return tuple(keys)
