"""Recipes as YAML: reading with overrides, merging with the defaults, writing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edgekit.errors import RecipeError, shortened
from edgekit.foreign import Unreadable, read_text
from edgekit.recipe.methods import METHODS
from edgekit.recipe.parts import default_test
from edgekit.recipe.plain_yaml import MOST_BYTES, Dumper, read_yaml
from edgekit.recipe.whole import Recipe
from edgekit.spelling import todays_key, translated
from edgekit.validation import problems

Overrides = Sequence[str] | Mapping[str, Any]


def recipe_of(source: Recipe | Path | str | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """A recipe, whatever it is given as.

    Args:
        source: a recipe; the path of a YAML file; or its content as a dictionary, what it leaves out being the defaults.
        overrides: as `load` takes them.

    Raises:
        RecipeError: as `load`; or the source is none of these.
    """
    if isinstance(source, (str, Path)):
        return load(source, overrides)
    if isinstance(source, Recipe) and not overrides:
        return source
    if isinstance(source, Recipe):
        content = source.model_dump(mode="json", by_alias=True)
    elif isinstance(source, Mapping):
        content = deepcopy(dict(source))
    else:
        raise RecipeError(
            f"a recipe is a path, a dictionary or an edgekit.Recipe, not {type(source).__name__}",
            'for instance edgekit.Recipe.read("recipe.yaml")',
        )
    content = translated(content)
    _override(content, overrides)
    return parse(content)


def load(path: Path | str, overrides: Overrides = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a YAML file.
        overrides: `a.b=c` texts, whose values are read as YAML; or a dictionary `{"a.b": c}`.

    Raises:
        RecipeError: the file is missing, is not YAML, or says something impossible; the message lists each key's path, its
            value and what would be accepted.
    """
    path = Path(path)
    try:
        content = read_yaml(_text(path))
    except RecipeError as error:
        raise error.at(path) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, not {type(content).__name__}")
    content = translated(content)
    _override(content, overrides)
    return parse(content, where=str(path))


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except Unreadable as error:
        if error.missing:
            raise RecipeError("no such recipe", "write one with `edgekit init FOLDER > recipe.yaml`") from error
        if error.too_large:
            raise RecipeError(f"not a recipe: more than {MOST_BYTES:,} bytes", "give a file of YAML") from error
        raise RecipeError(f"cannot be read: {error.detail}", "a recipe is a text file in UTF-8") from error


def parse(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate a recipe that is already a dictionary (see `load`).

    What it leaves out is taken from the defaults of the stage that it stands in: `distill: {optimizer: {lr: 0.1}}` changes
    the learning rate of the distillation's optimizer and nothing else of it; `pretrain.method` chooses whose defaults those
    of the pretraining are.
    """
    content = translated(content)
    defaults = Recipe().model_dump(mode="json", by_alias=True)
    pretrain = content.get("pretrain")
    method = METHODS.get(str(pretrain.get("method", "simclr"))) if isinstance(pretrain, dict) else None
    if method is not None:
        defaults["pretrain"] = method().model_dump(mode="json")
    if isinstance(data := content.get("data"), dict) and data.get("labeled"):
        defaults["data"]["test"] = default_test(data["labeled"])
    merged = _merged(defaults, content)
    _whole_student(merged, content)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(problems(Recipe, error))) from error


def dump(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML."""
    content = recipe.model_dump(mode="json", by_alias=True)
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)


_DEEPEST_KEY = 16
_OF_ANY_WIDTH = re.compile(r"resnet\d+")  # `models.resnet.RESNETS`, which importing would load torch


def _merged(defaults: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **content}
    for key in defaults.keys() & content.keys():
        if isinstance(defaults[key], dict):
            if content[key] is None:  # a group whose keys are all commented out
                merged[key] = defaults[key]
            elif isinstance(content[key], dict):
                merged[key] = _merged(defaults[key], content[key])
    return merged


def _whole_student(merged: dict[str, Any], content: dict[str, Any]) -> None:
    """The default student is half as wide as its ResNet; a network that has no width multiplier is taken whole."""
    distill = content.get("distill")
    asked = distill.get("student") if isinstance(distill, dict) else None
    if not isinstance(asked, dict) or "width" in asked or not isinstance(asked.get("name"), str):
        return
    if not _OF_ANY_WIDTH.fullmatch(asked["name"]):
        merged["distill"] = {**merged["distill"], "student": {**merged["distill"]["student"], "width": 1.0}}


def _override(content: dict[str, Any], overrides: Overrides) -> None:
    """Set keys of a recipe that has today's names; a key may be given by an earlier one."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set(content, str(key), value, f"override {shortened(str(key))}")
        return
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, separator, text = override.partition("=")
        where = f"--set {shortened(override)}"
        if not separator or not key.strip():
            raise RecipeError(f"{where}: not of the form key.path=value", "for instance --set pretrain.epochs=20")
        try:
            value = read_yaml(text)
        except RecipeError as error:
            raise RecipeError(f"{where}: the value is {error.message}") from error
        _set(content, key, value, where)


def _set(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = todays_key(key.strip()).split(".")
    if len(parents) > _DEEPEST_KEY:
        raise RecipeError(f"{where}: no key of a recipe has so many parts", "for instance --set pretrain.epochs=20")
    node = content
    for i, name in enumerate(parents):
        child = node[name] = {} if node.get(name) is None else node[name]
        if not isinstance(child, dict):
            raise RecipeError(f"{where}: {'.'.join(parents[: i + 1])} is a value, not a group of keys")
        node = child
    node[last] = value
