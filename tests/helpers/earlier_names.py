"""What versions before American spelling wrote: today's content, with the names of its keys and values translated back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.files import digest_of
from edgekit.spelling import KEYS, VALUES

_KEYS = {new: old for old, new in KEYS.items()}
_VALUES = {key: {new: old for old, new in names.items()} for key, names in VALUES.items()}


def with_earlier_names(content: Any) -> Any:
    """Return JSON-like content with the earlier names, at every depth."""
    if isinstance(content, list):
        return [with_earlier_names(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {_KEYS.get(key, key): with_earlier_names(_value(key, value)) for key, value in content.items()}


def _value(key: str, value: Any) -> Any:
    names = _VALUES.get(key, {})
    if isinstance(value, list):
        return [names.get(one, one) if isinstance(one, str) else one for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def write_earlier_record(path: Path) -> bool:
    """Rewrite a stage's `stage.json` or `started.json` as an earlier version wrote it; return whether that changed its inputs."""
    content = json.loads(path.read_text())
    inputs = with_earlier_names(content["inputs"])
    earlier = {**with_earlier_names(content), "inputs": inputs, "digest": digest_of(inputs)}
    path.write_text(json.dumps(earlier))
    return bool(inputs != content["inputs"])
