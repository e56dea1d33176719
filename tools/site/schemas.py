"""Pages of the file formats: the JSON schemas that `edgekit schema` prints, as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from edgekit.bundle import Manifest
from edgekit.recipe import Recipe
from edgekit.result import Result

Schema = dict[str, Any]
_FORMATS: dict[str, tuple[type[BaseModel], str, str]] = {
    "recipe": (Recipe, "Recipe", "What to train: a YAML file. Every key has a default, so that a recipe can have ten lines."),
    "bundle": (Manifest, "Bundle", "`bundle.json`, the manifest of what `edgekit export` writes. [The bundle](../bundle.md) explains it."),
    "result": (Result, "Result", "One measurement, with its raw samples. [Bench](../bench.md) explains how it is made."),
}  # fmt: skip


def pages() -> dict[str, str]:
    """Return the Markdown of every format's page by its path below `docs/`."""
    found = {}
    for name, (model, title, text) in _FORMATS.items():
        schema = model.model_json_schema(by_alias=True)
        lines = [
            f"# {title}",
            "",
            text,
            "",
            f"`edgekit schema {name}` prints the same as a JSON schema, for editors and programs.",
            "",
        ]
        lines += _object(f"The {name}", schema, dict(schema.get("$defs", {})))
        for key, part in sorted(schema.get("$defs", {}).items()):
            if "properties" in part:
                lines += _object(key, part, schema["$defs"])
        found[f"reference/{name}.md"] = "\n".join(lines)
    return found


def _object(title: str, schema: Schema, parts: dict[str, Schema]) -> Iterator[str]:
    yield f"## {title} {{: #{anchor(title)} }}"
    yield ""
    if description := schema.get("description"):
        yield from (_cell(description.split("\n\n")[0]), "")
    required = set(schema.get("required", ()))
    yield "| key | meaning | type | default |"
    yield "|---|---|---|---|"
    for key, value in schema.get("properties", {}).items():
        default = "**required**" if key in required else _default(value)
        yield f"| `{key}` | {_cell(value.get('description', ''))} | {_type(value, parts)} | {default} |"
    yield ""


def anchor(title: str) -> str:
    """Return the heading's anchor, the same for a title and for a name in `$defs`."""
    return title.lower().replace(" ", "-")


def _type(value: Schema, parts: dict[str, Schema]) -> str:
    """Return what a value may be, in words."""
    if ref := value.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[{name}](#{anchor(name)})" if "properties" in parts[name] else _type(parts[name], parts)
    for key, word in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
        if key in value:
            return word.join(dict.fromkeys(_type(one, parts) for one in value[key]))
    if choices := value.get("enum", [value["const"]] if "const" in value else None):
        return ", ".join(f"`{one}`" for one in choices)
    kind = value.get("type", "any")
    inner = value.get({"array": "items", "object": "additionalProperties"}.get(kind, ""))
    if kind == "array":
        inner = inner or (value.get("prefixItems") or [None])[0]
    if kind in {"array", "object"}:
        word = "list" if kind == "array" else "map"
        return (
            f"{word} {'of' if kind == 'array' else 'to'} {_type(inner, parts)}"
            if isinstance(inner, dict) and inner
            else word
        )
    return _WORDS.get(kind, kind) + _bounds(value)


_WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}


def _bounds(value: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": "\\>", "maximum": "≤", "exclusiveMaximum": "\\<"}
    bounds = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return f" ({', '.join(bounds)})" if bounds else ""


def _default(value: Schema) -> str:
    if "default" not in value:
        return ""
    text = json.dumps(value["default"], ensure_ascii=False)
    return f"`{text.replace('|', chr(92) + '|')}`" if len(text) <= 60 else "see its parts"


def _cell(text: str) -> str:
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;").replace("*", "\\*") for i, p in enumerate(parts))
