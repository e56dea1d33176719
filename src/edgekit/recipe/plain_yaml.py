"""Read the YAML of recipes: mappings, lists, text, numbers, true, false and null, within bounds; everything else is refused.

PyYAML's own constructors raise many kinds of errors for invalid text, expand aliases without a bound (442 bytes become 2.8 GB) and
recurse as deep as the text nests. So only its parser is used here, through `read_yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edgekit.errors import RecipeError, quoted

# Far above what a recipe needs: one with every key written out has about 7 kB, 250 values, and is 6 levels deep.
MOST_BYTES = 1 << 19
_MOST_EVENTS = 30_000
_MOST_VALUES = 20_000  # an alias counts as often as it is used
_DEEPEST = 32
_LARGEST = 2**63

_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Refused(Exception):
    """Valid YAML that is not allowed in a recipe, with its position."""

    def __init__(self, problem: str, node: Node | yaml.Event | None = None) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, node.start_mark if node is not None else None


def read_yaml(text: str) -> Any:
    """Parse a text of YAML into plain values: dict, list, str, int, float, bool, None.

    As in YAML 1.2, `1e-3` is a number; a date is text.

    Raises:
        RecipeError: it is not YAML, a key is given twice, a value has a tag of another type, or the text is larger, deeper or
            holds more values than a recipe may.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(f"not a recipe: more than {MOST_BYTES:,} characters")
    try:
        for count, _ in enumerate(_bounded(text)):
            if count > _MOST_EVENTS:
                raise _Refused(f"more than {_MOST_VALUES:,} values")
        node = yaml.compose(text, _Loader)
        if node is None:
            return None
        _count(node)
        return _YamlValues().of(node)
    except Exception as error:  # the library may raise anything for invalid text
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise RecipeError(f"not valid YAML{where}: {quoted(str(problem), 120)[1:-1]}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, with numbers as YAML 1.2 writes them."""


class Dumper(yaml.SafeDumper):
    """Write what `read_yaml` reads."""


for _yaml in (_Loader, Dumper):
    _yaml.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))


def _bounded(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a text; refuse one that nests too deep, because composing would recurse."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _Refused(f"nested deeper than {_DEEPEST} levels", event)
        yield event


def _count(root: Node) -> None:
    """Refuse more values than a recipe may have, counted through aliases, and aliases inside themselves."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Node) -> int:
        if isinstance(node, ScalarNode):
            return 1
        if id(node) in open_:
            raise _Refused("an alias refers to a value that contains it", node)
        if id(node) not in sizes:
            open_.add(id(node))
            parts = node.value if isinstance(node, SequenceNode) else [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
            open_.discard(id(node))
        if sizes[id(node)] > _MOST_VALUES:
            raise _Refused(f"more than {_MOST_VALUES:,} values", node)
        return sizes[id(node)]

    size(root)


class _YamlValues:
    """Plain values of nodes."""

    def __init__(self) -> None:
        self._scalars = yaml.constructor.SafeConstructor()

    def of(self, node: Node, depth: int = 1) -> Any:
        """The value of a node."""
        if depth > _DEEPEST:  # aliases nest, too
            raise _Refused(f"nested deeper than {_DEEPEST} levels", node)
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.of(element, depth + 1) for element in node.value]
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        raise _Refused(f"the tag {node.tag.removeprefix(_TAG)} is not allowed in a recipe", node)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _Refused("a key must be text, not a list or mapping", key)
            if key.tag == f"{_TAG}merge":
                parts = value.value if isinstance(value, SequenceNode) else [value]
                for part in reversed(parts):  # the first wins
                    if not isinstance(part, MappingNode):
                        raise _Refused("<< must be a mapping, or a list of mappings", part)
                    merged |= self.of(part, depth + 1)
                continue
            if key.value in own:
                raise _Refused(f"the key {key.value} is given twice", key)
            own[key.value] = self.of(value, depth + 1)
        return {**merged, **own}

    def _scalar(self, node: ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in {"str", "timestamp", "value"}:  # what looks like a date, or is `=`, is text
            if node.tag != f"{_TAG}str" and node.style is None and not _is_implicit(node):
                raise _Refused(f"the tag {kind} is not allowed in a recipe", node)
            return node.value
        if kind == "null":
            return None
        if kind not in {"int", "float", "bool"}:
            raise _Refused(f"the tag {kind} is not allowed in a recipe", node)
        try:
            value = getattr(self._scalars, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise _Refused(f"not a value of the type {kind}: {node.value[:40]}", node) from None
        if kind == "int" and abs(value) >= _LARGEST:
            raise _Refused("an integer of more than 64 bits", node)
        return value


def _is_implicit(node: ScalarNode) -> bool:
    """Return whether the tag of a scalar follows from its text, and is not written before it."""
    resolver: Any = _Loader("")
    return bool(resolver.resolve(ScalarNode, node.value, (True, False)) == node.tag)
