"""The names of the classes: from a file, from the folders of labeled images, or made up."""

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

# Where a JSON file keeps the names beside other things: Hugging Face's config, timm's, training scripts' own.
_KEYS = ("id2label", "label2id", "class_to_idx", "idx_to_class", "label_names", "class_names", "classes", "names", "labels")  # fmt: skip
_NUMBERED_LINE = re.compile(r"\s*(\d+)\s*[,;\t:]\s*(.+)")  # `17,cat`
_SYNSET_LINE = re.compile(r"(n\d{8})[\s,]+(.+)")  # ImageNet's `n02124075 Egyptian cat`
_LAYOUTS = 'give one name a line, or JSON: ["cat", "dog"] or {"0": "cat", "1": "dog"}'


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's classes.

    Attributes:
        names: in the order of the logits, each once.
        said_by: who gave them, for messages.
        notes: what a user should know, one sentence each.
        synsets: other names of the same classes, which folders may have: WordNet's `n02124075`.
    """

    names: list[str]
    source: str = ""
    notes: list[str] = field(default_factory=list)
    synsets: list[str] = field(default_factory=list)

    def places(self, folders: list[str]) -> tuple[list[int], list[str]] | None:
        """The logit of each folder's class, by its name or, where all folders are numbers, by its number; and notes. None: neither."""
        for known in (self.names, self.synsets):
            if set(folders) <= set(known):
                return [known.index(name) for name in folders], []
        numbers = [int(name) for name in folders if _is_index(name) and str(int(name)) == name]
        if len(numbers) == len(folders) and max(numbers) < len(self.names):
            return numbers, ["the folders of --evaluate are numbers and are taken for the classes' places, from 0 on"]
        return None


def read_classes(path: str) -> ClassNames:
    """The names in a file: one a line, or JSON.

    Lines may be numbered (`17,cat`) or begin with ImageNet's synset (`n02124075 Egyptian cat`). JSON is a list, a mapping from index
    to name or from name to index, or has one of these under `id2label` and the like; a name may be a pair as in Keras'
    `imagenet_class_index.json`: `["n02124075", "Egyptian_cat"]`. Names that come twice are numbered.

    Raises:
        DataError: it cannot be read, names fewer than two classes, or leaves one out.
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
        raise DataError(f"{context}: names {len(names)} classes", "a classifier needs at least two, one name a line")
    unique, notes = _unique(names, context)
    return ClassNames(unique, f"--classes {path}", notes, synsets if all(synsets) else [])


def listed_classes(names: Sequence[str]) -> ClassNames:
    """Names that a program gives, in the order of the logits; those that come twice are numbered.

    Raises:
        DataError: it is not a list of at least two names.
    """
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names) or len(names) < 2:
        raise DataError("classes: not a list of at least two names", "give the name of each logit, in their order")
    unique, notes = _unique([name.strip() for name in names], "classes")
    return ClassNames(unique, "classes", notes)


def model_classes(names: list[str]) -> ClassNames:
    """The names that a model brings along."""
    unique, notes = _unique(names, "its description")
    return ClassNames(unique, "its description", notes)


def _unique(names: list[str], context: str) -> tuple[list[str], list[str]]:
    unique, repeated = numbered_apart(names)
    listed = ", ".join(repeated[:3])
    return unique, [f"{context}: names {listed} more than once; the second is called {repeated[0]} (2)"] if repeated else []


def check_count(count: int, model: str, named: list[str] | None, source: str) -> None:
    """Refuse names that are not as many as the model's classes.

    Raises:
        ExportError: they differ.
    """
    if named is not None and len(named) != count:
        raise ExportError(
            f"{model}: has {count} classes, {source} {len(named)} ({', '.join(named[:3])}{', …' if len(named) > 3 else ''})",
            "the names must be the model's own, in the order of its logits (--classes FILE)",
        )


def numbered(count: int) -> list[str]:
    """Names for classes that nobody named."""
    return [f"class_{i}" for i in range(count)]


def _from_lines(text: str, context: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if empty := [i for i, line in enumerate(lines) if not line]:
        raise DataError(f"{context}: line {empty[0] + 1} is empty", "line i names the i-th logit, so none may be left out")
    counted = [match for line in lines if (match := _NUMBERED_LINE.fullmatch(line))]
    first = lines[0] if lines else ""  # `index,name`, perhaps
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
        raise DataError(f"{context}: is JSON, but neither a list of names nor names by index", _LAYOUTS)
    return [_name(name, context) for name in content]


def _is_index(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) < 10 and value.isascii() and value.isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def _in_order(indexed: list[tuple[int, Any]], context: str) -> list[Any]:
    """Names by index as a list; every index from 0 on must be there, once."""
    by_index = dict(indexed)
    left_out = next((i for i in range(len(indexed)) if i not in by_index), None)
    if left_out is not None:
        repeated = len(by_index) < len(indexed)
        raise DataError(
            f"{context}: names {len(indexed)} classes and none has the index {left_out}"
            + (", two have the same" if repeated else ""),
            "number them from 0 on, in the order of the logits, and leave none out",
        )
    return [by_index[i] for i in range(len(indexed))]


def _name(value: Any, context: str) -> tuple[str, str]:
    """A class's name and its synset, where it has one."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        synset, name = value
        return name.strip(), synset.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{context}: {json.dumps(value)[:40]} is no name of a class", _LAYOUTS)
    return value.strip(), ""
