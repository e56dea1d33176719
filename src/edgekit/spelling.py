"""The names that earlier versions wrote in another spelling, and today's names for them.

Recipes, stage records and bundles written before American spelling hold `labelled`, `grey` and the like. They stay readable: each reader
translates them with this table. edgekit writes today's names only.
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
_EARLIER_KEYS = {today: earlier for earlier, today in KEYS.items()}
# Values of keys whose values are names of this project, not the user's.
VALUES = {
    "images": {"labelled": "labeled", "unlabelled": "unlabeled"},  # codespell:ignore
    "one_branch": {"grey": "gray", "colour": "color"},  # codespell:ignore
    "strategy": {"equalisation": "equalization"},
}


def translated(content: Any) -> Any:
    """Return JSON-like content with today's names, at every depth."""
    if isinstance(content, dict):
        return {key: translated(value) for key, value in translated_keys(content).items()}
    return [translated(value) for value in content] if isinstance(content, list) else content


def translated_keys(content: dict[str, Any], only: Iterable[str] | None = None) -> dict[str, Any]:
    """Return one dictionary with today's names of its keys, in the same order, and of the values of `VALUES`.

    Args:
        content: dictionaries and lists of dictionaries in it stay as they are.
        only: today's names to translate to; None: all. A key whose new name is there as well stays, so that whoever reads it complains.
    """
    wanted = set(KEYS.values() if only is None else only)
    done: dict[str, Any] = {}
    for key, value in content.items():
        new = KEYS.get(key, key) if isinstance(key, str) else key
        name = key if new not in wanted or (new != key and new in content) else new
        done[name] = translated_value(name, value)
    return done


def translated_value(key: Any, value: Any) -> Any:
    """Return a key's value with today's names where it is one of `VALUES`, or a list of them; else the value as it is."""
    names = VALUES.get(key, {}) if isinstance(key, str) else {}
    if isinstance(value, list):
        return [names.get(one, one) if isinstance(one, str) else one for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def earlier_key(path: str) -> str:
    """Return a dotted path of keys as earlier versions spelled it: `distill.labeled_weight` under its earlier name."""
    return ".".join(_EARLIER_KEYS.get(part, part) for part in path.split("."))


def earlier_value(key: str, value: str) -> str:
    """Return a key's value as earlier versions spelled it."""
    return next((earlier for earlier, today in VALUES.get(key, {}).items() if today == value), value)


def todays_key(path: str) -> str:
    """Return a dotted path of keys with today's names."""
    return ".".join(KEYS.get(part, part) for part in path.split("."))
