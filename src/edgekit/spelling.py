"""Names that files of earlier versions spell otherwise.

Recipes, stage records and bundles written before American spelling hold `labelled`, `grey` and the like. They stay readable: each reader
translates what it reads with this table. What is written today has the new names only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Keys of recipes, stage records, checkpoints and bundles.
KEYS = {
    "labelled": "labeled",  # codespell:ignore
    "labelled_weight": "labeled_weight",  # codespell:ignore
    "unlabelled": "unlabeled",  # codespell:ignore
    "grey": "gray",
    "colour": "color",  # codespell:ignore
    "normalise_output": "normalize_output",
    "log_normaliser": "log_normalizer",
    "quantised": "quantized",
    "equalised": "equalized",
    "neighbours": "neighbors",
    "rung": "strategy",
    "way": "configuration",
}
# Values of keys whose values are names of this project, not the user's.
VALUES = {
    "images": {"labelled": "labeled", "unlabelled": "unlabeled"},  # codespell:ignore
    "one_branch": {"colour": "color", "grey": "gray"},  # codespell:ignore
    "strategy": {"equalisation": "equalization"},
}


def translated(content: Any) -> Any:
    """JSON-like content with today's names, at every depth; what is not a dictionary or a list stays as it is."""
    if isinstance(content, dict):
        return {key: translated(value) for key, value in translated_keys(content).items()}
    return [translated(value) for value in content] if isinstance(content, list) else content


def translated_keys(content: dict[str, Any], only: Iterable[str] | None = None) -> dict[str, Any]:
    """One dictionary with today's names of its keys, in the same order, and of the values of `VALUES`.

    Args:
        content: its values are not looked into.
        only: today's names to translate to; None: all. A key whose new name is there as well stays, so that whoever reads it complains.
    """
    wanted = set(KEYS.values() if only is None else only)
    done: dict[str, Any] = {}
    for key, value in content.items():
        new = KEYS.get(key, key) if isinstance(key, str) else key
        name = key if new not in wanted or (new != key and new in content) else new
        names = VALUES.get(name, {}) if isinstance(name, str) else {}
        done[name] = [_named(v, names) for v in value] if names and isinstance(value, list) else _named(value, names)
    return done


def _named(value: Any, names: dict[str, str]) -> Any:
    return names.get(value, value) if isinstance(value, str) else value
