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
from edgekit.recipe.data import default_test
from edgekit.recipe.method_table import METHODS
from edgekit.recipe.plain_yaml import MOST_BYTES, Dumper, read_yaml
from edgekit.recipe.whole import Recipe
from edgekit.spelling import todays_key, translated
from edgekit.stages import STAGES
from edgekit.validation import problems

Overrides = str | Sequence[str] | Mapping[str, Any]


def recipe_of(source: Recipe | Path | str | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """Return a recipe, given as a recipe, a path or a dictionary.

    Args:
        source: a recipe; the path of a YAML file; or its content as a dictionary; missing keys get their defaults.
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
            f"a recipe must be a path, a dictionary or an edgekit.Recipe, not {type(source).__name__}",
            'read one with edgekit.Recipe.read("recipe.yaml")',
        )
    return _completed(content, overrides, "recipe")


def load(path: Path | str, overrides: Overrides = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a YAML file.
        overrides: `a.b=c` texts, whose values are read as YAML; or a dictionary `{"a.b": c}`.

    Raises:
        RecipeError: the file is missing or empty, is not YAML, names no images, or holds something invalid; the message lists the path
            of each key, its value and what would be accepted.
    """
    path = Path(path)
    try:
        content = read_yaml(_text(path))
    except RecipeError as error:
        raise error.at(path) from error
    if content is None:  # what a failed `edgekit init FOLDER > recipe.yaml` leaves
        raise RecipeError(f"{path}: the recipe is empty", "write one with `edgekit init FOLDER > recipe.yaml`")
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of keys, not {type(content).__name__}")
    return _completed(content, overrides, str(path))


def _completed(content: dict[str, Any], overrides: Overrides, where: str) -> Recipe:
    """Return the recipe of a file's or a dictionary's content, with today's names and the overrides; `where` it is, for messages."""
    content = translated(content)
    _override(content, overrides)
    recipe = parse(content, where)
    _refuse_no_images(content, where)
    return recipe


def _refuse_no_images(content: Mapping[str, Any], where: str) -> None:
    """Refuse a recipe that leaves it to the defaults which images it is about: the user's are elsewhere.

    Raises:
        RecipeError: it names no images, or only a pool, which the default labeled images are not a part of.
    """
    data = content.get("data") or {}
    if "labeled" in data or data.get("normal") is not None:
        return
    if data.get("pool") is not None:
        raise RecipeError(
            f"{where}: data.pool is {data['pool']}, but data.labeled is missing",
            "name the labeled images, or write labeled: null if the pool holds all images",
        )
    raise RecipeError(
        f"{where}: data names no images",
        "write data: {labeled: FOLDER}, or labeled: digits for scikit-learn's; `edgekit init FOLDER > recipe.yaml` writes a whole recipe",
    )


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except Unreadable as error:
        if error.missing:
            raise RecipeError("no such recipe", "write one with `edgekit init FOLDER > recipe.yaml`") from error
        if error.too_large:
            raise RecipeError(f"not a recipe: more than {MOST_BYTES:,} bytes", "give a YAML file") from error
        if path.is_dir():
            raise _folder_error(path) from error
        raise RecipeError(f"cannot be read: {error.detail}", "give a text file in UTF-8") from error


def _folder_error(path: Path) -> RecipeError:
    """Return the error about a folder in place of a recipe: a run, another folder with a recipe in it, or images."""
    inside = path / "recipe.yaml"
    if not inside.is_file():
        return RecipeError("a folder, not a recipe", f"write a recipe for it with `edgekit init {path} > recipe.yaml`")
    is_run = any((path / stage / "stage.json").is_file() for stage in STAGES)
    what = "a run, not a recipe" if is_run else "a folder, not a recipe"
    return RecipeError(what, f"give the recipe in it, for example `edgekit train {inside}`")


def parse(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate a recipe that is already a dictionary (see `load`).

    Missing keys get the defaults of their stage: `distill: {optimizer: {lr: 0.1}}` changes the learning rate of the distillation,
    and the rest of its optimizer keeps the defaults. The defaults of `pretrain` are those of `pretrain.method`.
    """
    content = translated(content)
    defaults = Recipe().model_dump(mode="json", by_alias=True)
    pretrain = content.get("pretrain")
    method = METHODS.get(str(pretrain.get("method", "simclr"))) if isinstance(pretrain, dict) else None
    if method is not None:
        defaults["pretrain"] = method().model_dump(mode="json")
    if isinstance(data := content.get("data"), dict) and data.get("labeled"):
        defaults["data"]["test"] = default_test(data["labeled"])
    elif isinstance(data, dict) and data.get("normal"):
        defaults["data"]["labeled"] = None
    merged = _merged(defaults, content)
    if isinstance(merged["data"], dict):
        merged["data"] = {**merged["data"], "classes_per_image": "any" if merged["task"] == "multilabel" else "one"}
    _set_full_width(merged, content)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(problems(Recipe, error))) from error


def dump(recipe: Recipe) -> str:
    """Return the whole recipe, defaults included, as YAML."""
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


def _set_full_width(merged: dict[str, Any], content: dict[str, Any]) -> None:
    """Set the student's width to 1 for a network without a width multiplier; the default student is a ResNet of half the width."""
    distill = content.get("distill")
    student = distill.get("student") if isinstance(distill, dict) else None
    if not isinstance(student, dict) or "width" in student or not isinstance(student.get("name"), str):
        return
    if not _OF_ANY_WIDTH.fullmatch(student["name"]):
        merged["distill"] = {**merged["distill"], "student": {**merged["distill"]["student"], "width": 1.0}}


def _override(content: dict[str, Any], overrides: Overrides) -> None:
    """Set keys of a recipe that has today's names; the overrides may use earlier names."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set(content, str(key), value, f"override {shortened(str(key))}")
        return
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, separator, text = override.partition("=")
        where = f"--set {shortened(override)}"
        if not separator or not key.strip():
            raise RecipeError(f"{where}: not of the form key.path=value", "write it like --set pretrain.epochs=20")
        try:
            value = read_yaml(text)
        except RecipeError as error:
            raise RecipeError(f"{where}: the value is {error.message}") from error
        _set(content, key, value, where)


def _set(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = todays_key(key.strip()).split(".")
    if len(parents) > _DEEPEST_KEY:
        raise RecipeError(f"{where}: the key has too many parts", "write it like --set pretrain.epochs=20")
    node = content
    for i, name in enumerate(parents):
        child = node[name] = {} if node.get(name) is None else node[name]
        if not isinstance(child, dict):
            raise RecipeError(
                f"{where}: {'.'.join(parents[: i + 1])} is a value, not a group of keys",
                "set either the value or keys of a group",
            )
        node = child
    node[last] = value
