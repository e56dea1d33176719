"""Change values in the text of a recipe, so that its comments and its order stay."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from edgekit.errors import RecipeError
from edgekit.recipe import Recipe, dump, parse
from edgekit.recipe.plain_yaml import Dumper, read_yaml


def with_values(text: str, changes: Mapping[str, Any], wanted: Recipe) -> str:
    """Return the text of a recipe with some values changed.

    Args:
        text: of a recipe.
        changes: key path -> value, for instance `distill.student` -> {name: resnet10, width: 0.25}.
        wanted: what the new text must mean: where it does not, because of anchors or the like, the whole recipe is written anew, without the
            comments.
    """
    changed = text
    try:
        for path, value in changes.items():
            changed = _with_value(changed, path.split("."), _flow(value))
        if parse(read_yaml(changed) or {}) == wanted:
            return changed
    except (RecipeError, yaml.YAMLError, _Unfit):
        pass
    return dump(wanted)


class _Unfit(Exception):
    """The text has a form that is not changed in place."""


def _flow(value: Any) -> str:
    """Write a value as YAML in one line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    written: str = yaml.dump(
        value, Dumper=Dumper, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
    )
    return written.removesuffix("\n").removesuffix("\n...")


def _with_value(text: str, path: Sequence[str], value: str) -> str:
    node = yaml.compose(text, yaml.SafeLoader)
    if node is None:
        return _appended(text, path, value)
    if not isinstance(node, MappingNode):
        raise _Unfit
    for depth, name in enumerate(path):
        found = next(((key, child) for key, child in node.value if key.value == name), None)
        if found is None:
            return _inserted(text, node, path[depth:], value, outermost=depth == 0)
        key, child = found
        if child.start_mark.index < key.end_mark.index:
            raise _Unfit  # an alias: its value is written elsewhere
        if depth == len(path) - 1:
            return f"{text[: key.end_mark.index]}: {value}{text[_end(child, key) :]}"
        if isinstance(child, ScalarNode) and child.value == "":  # a group whose keys are all commented out
            return _below(text, key, path[depth + 1 :], value)
        if not isinstance(child, MappingNode):
            raise _Unfit
        node = child
    raise _Unfit


def _end(node: Node, key: Node) -> int:
    """Return where a value ends: a block's end mark is that of the next key, behind the comments between."""
    if isinstance(node, ScalarNode):
        if node.style in {"|", ">"}:
            raise _Unfit
        return max(node.end_mark.index, key.end_mark.index + 1)
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1], last[0]) if isinstance(last, tuple) else _end(last, key)


def _inserted(text: str, node: MappingNode, path: Sequence[str], value: str, *, outermost: bool) -> str:
    """Add a key to a mapping: before its first key."""
    if not node.value:
        raise _Unfit
    if outermost:
        return _appended(text, path, value)
    first = node.value[0][0]
    if node.flow_style:
        return f"{text[: first.start_mark.index]}{_nested(path, value)}, {text[first.start_mark.index :]}"
    line = first.start_mark.index - first.start_mark.column
    indent = " " * first.start_mark.column
    return f"{text[:line]}{indent}{_nested(path, value)}\n{text[line:]}"


def _below(text: str, key: Node, path: Sequence[str], value: str) -> str:
    """Add a key to an empty group, in a line after the group's name."""
    end = text.find("\n", key.end_mark.index)
    head, rest = (text, "") if end < 0 else (text[:end], text[end + 1 :])
    return f"{head}\n{' ' * (key.start_mark.column + 2)}{_nested(path, value)}\n{rest}"


def _appended(text: str, path: Sequence[str], value: str) -> str:
    head = text if not text or text.endswith("\n") else f"{text}\n"
    name, *rest = path
    return f"{head}{name}: {value}\n" if not rest else f"{head}{name}:\n  {_nested(rest, value)}\n"


def _nested(path: Sequence[str], value: str) -> str:
    """Write the rest of a key's path with its value in one line."""
    *outer, last = path
    text = f"{last}: {value}"
    for name in reversed(outer):
        text = f"{name}: {{{text}}}"
    return text
