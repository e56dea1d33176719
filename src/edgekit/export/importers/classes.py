"""The names of the classes: from a file, from the folders of labeled images, or generated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data.source import numbered_apart
from edgekit.errors import DataError, ExportError
from edgekit.foreign import Unreadable, parse_json, read_text
from edgekit.text import counted

# Keys for the names in a JSON file with other content: configurations of Hugging Face and timm, training scripts.
_KEYS = ("id2label", "label2id", "class_to_idx", "idx_to_class", "label_names", "class_names", "classes", "names", "labels")  # fmt: skip
_NUMBERED_LINE = re.compile(r"\s*(\d+)\s*[,;\t:]\s*(.+)")  # `17,cat`
_SYNSET_LINE = re.compile(r"(n\d{8})[\s,]+(.+)")  # ImageNet's `n02124075 Egyptian cat`
_LAYOUTS = 'give one name per line, or JSON: ["cat", "dog"] or {"0": "cat", "1": "dog"}'


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's classes.

    Attributes:
        names: in the order of the logits, each once.
        source: where they come from, for messages.
        notes: notes for the user, one sentence each.
        synsets: WordNet synsets of the same classes (`n02124075`), which folders may have as names.
    """

    names: list[str]
    source: str = ""
    notes: list[str] = field(default_factory=list)
    synsets: list[str] = field(default_factory=list)

    def places(self, folders: list[str]) -> tuple[list[int], list[str]] | None:
        """The logit index of each folder's class, by name or, if all folders are numbers, by number; and notes. None if neither fits."""
        for known in (self.names, self.synsets):
            if set(folders) <= set(known):
                return [known.index(name) for name in folders], []
        numbers = [int(name) for name in folders if _is_index(name) and str(int(name)) == name]
        if len(numbers) == len(folders) and max(numbers) < len(self.names):
            return numbers, [
                "the folders of --evaluate are numbers: they are taken as the indices of the classes, from 0"
            ]
        return None


def read_classes(path: str) -> ClassNames:
    """Read the names in a file: one per line, or JSON.

    Lines may be numbered (`17,cat`) or begin with ImageNet's synset (`n02124075 Egyptian cat`). JSON is a list, a mapping from index
    to name or from name to index, or has one of these under a key such as `id2label`; a name may be a pair as in Keras'
    `imagenet_class_index.json`: `["n02124075", "Egyptian_cat"]`. Repeated names are numbered.

    Raises:
        DataError: the file cannot be read, names fewer than two classes, or leaves out an index.
    """
    context = f"--classes: {path}"
    try:
        text = read_text(Path(path).expanduser())
    except Unreadable as error:
        raise DataError(f"{context}: cannot be read: {error.detail}", _LAYOUTS) from error
    found = _from_json(text, context) if text.lstrip().startswith(("[", "{")) else _from_lines(text, context)
    matches = [_SYNSET_LINE.fullmatch(name) for name, _ in found]
    found = [(m[2], m[1]) for m in matches if m] if all(matches) else found
    names, synsets = [name for name, _ in found], [synset for _, synset in found]
    if len(names) < 2:
        raise DataError(
            f"{context}: names {counted(len(names), 'class', 'classes')}",
            "a classifier needs at least two, one name per line",
        )
    unique, notes = _unique(names, context)
    return ClassNames(unique, f"--classes {path}", notes, synsets if all(synsets) else [])


def listed_classes(names: Sequence[str]) -> ClassNames:
    """Check names given from Python, in the order of the logits; repeated names are numbered.

    Raises:
        DataError: `names` is not a list of at least two names.
    """
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names) or len(names) < 2:
        raise DataError("classes: not a list of at least two names", "give one name per logit, in their order")
    unique, notes = _unique([name.strip() for name in names], "classes")
    return ClassNames(unique, "classes", notes)


def model_classes(names: list[str]) -> ClassNames:
    """The names in a model's own description."""
    unique, notes = _unique(names, "its description")
    return ClassNames(unique, "its description", notes)


def _unique(names: list[str], context: str) -> tuple[list[str], list[str]]:
    unique, repeated = numbered_apart(names)
    listed = ", ".join(repeated[:3])
    return unique, [
        f"{context}: names {listed} more than once; the second is renamed {repeated[0]} (2)"
    ] if repeated else []


def check_count(count: int, model: str, named: list[str] | None, source: str) -> None:
    """Check that there is one name for each of the model's classes.

    Raises:
        ExportError: the numbers differ.
    """
    if named is not None and len(named) != count:
        raise ExportError(
            f"{model}: has {counted(count, 'class', 'classes')}, but {source} names {len(named)} "
            f"({', '.join(named[:3])}{', …' if len(named) > 3 else ''})",
            "the names must be the model's own, in the order of its logits (--classes FILE)",
        )


def numbered(count: int) -> list[str]:
    """Generated names: class_0, class_1, …"""
    return [f"class_{i}" for i in range(count)]


def _from_lines(text: str, context: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if empty := [i for i, line in enumerate(lines) if not line]:
        raise DataError(
            f"{context}: line {empty[0] + 1} is empty", "line i names the i-th logit, so no line may be empty"
        )
    counted = [match for line in lines if (match := _NUMBERED_LINE.fullmatch(line))]
    first = lines[0] if lines else ""  # may be the header `index,name`
    header = len(counted) == len(lines) - 1 > 0 and not first[0].isdigit() and bool(re.search("[,;\t]", first))
    if counted and (len(counted) == len(lines) or header):
        indexed = [(int(match[1]), match[2].strip().strip('"')) for match in counted]
        return [_name(name, context) for name in _in_order(indexed, context)]
    return [_name(line, context) for line in lines]


def _from_json(text: str, context: str) -> list[tuple[str, str]]:
    try:
        content = parse_json(text, context, None)
    except Unreadable as error:
        raise DataError(f"{context}: is {error.reason}", _LAYOUTS) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping | list)), content)
    if isinstance(content, Mapping):
        if all(_is_index(key) for key in content):
            content = _in_order([(int(key), name) for key, name in content.items()], context)
        elif all(_is_index(value) for value in content.values()):
            content = _in_order([(int(index), name) for name, index in content.items()], context)
    if not isinstance(content, list):
        raise DataError(f"{context}: is JSON, but not a list of names or names by index", _LAYOUTS)
    return [_name(name, context) for name in content]


def _is_index(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) < 10 and value.isascii() and value.isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def _in_order(indexed: list[tuple[int, Any]], context: str) -> list[Any]:
    """Sort names by index; every index from 0 on must occur once."""
    by_index = dict(indexed)
    left_out = next((i for i in range(len(indexed)) if i not in by_index), None)
    if left_out is not None:
        repeated = len(by_index) < len(indexed)
        raise DataError(
            f"{context}: names {counted(len(indexed), 'class', 'classes')}, but none has the index {left_out}"
            + (" and two have the same index" if repeated else ""),
            "number them from 0, in the order of the logits, without gaps",
        )
    return [by_index[i] for i in range(len(indexed))]


def _name(value: Any, context: str) -> tuple[str, str]:
    """A class's name and its synset, if it has one."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        synset, name = value
        return name.strip(), synset.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{context}: {json.dumps(value)[:40]} is not the name of a class", _LAYOUTS)
    return value.strip(), ""
