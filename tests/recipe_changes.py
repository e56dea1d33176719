"""Recipes with a few values changed, for tests that train."""

from __future__ import annotations

import copy
from typing import Any


def changed(content: dict[str, Any], **changes: object) -> dict[str, Any]:
    """A copy of a recipe's content with values set by path: `changed(RECIPE, pretrain__epochs=3)`."""
    content = copy.deepcopy(content)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = content
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return content
