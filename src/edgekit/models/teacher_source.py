"""The teacher that `edgekit init --teacher` names. Without PyTorch, the names of networks are not checked."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import EdgekitError, RecipeError
from edgekit.foreign import Unreadable, read_json
from edgekit.recipe import factory_of, library_of


def teacher_source(teacher: str) -> tuple[str, str]:
    """Return the recipe's `pretrain.teacher`, as YAML, and a comment on it.

    Args:
        teacher: timm:NAME, torchvision:NAME, module:factory, a file of weights, or the folder of a run.

    Raises:
        EdgekitError: there is no such teacher.
    """
    if (library := library_of(teacher)) is not None:
        if find_spec("torch") is not None and find_spec(library[0]) is not None:
            from edgekit.models.pretrained import published

            known = published(*library, "--teacher")
            sized = f"it was trained on images of {known.image_size} px, and gets them enlarged or reduced to that"
            fixed = (
                "; image_size with interpolate_positions: true changes it"
                if known.fixed_size
                else "; image_size changes it"
            )
            return f"{{model: {json.dumps(teacher)}}}", sized + fixed
        return f"{{model: {json.dumps(teacher)}}}", "its weights are fetched when the training begins"
    path = Path(teacher).expanduser()
    if path.is_file():
        return f"{{model: {json.dumps(_network_of(path))}, weights: {json.dumps(teacher)}}}", "the file of its weights"
    if (path / "recipe.yaml").is_file() or (path / "model.json").is_file():
        return f"{{model: {json.dumps(teacher)}}}", "the encoder of this run"
    if factory_of(teacher) is not None:
        return f"{{model: {json.dumps(teacher)}}}", "add mean, std and image_size if they are not those of data"
    raise EdgekitError(
        f"--teacher {teacher}: no such file or run",
        "give timm:NAME, torchvision:NAME, module:factory, a file of weights, or the folder of a run",
    )


def _network_of(path: Path) -> str:
    """The network of a file of weights, from the config.json beside it (as in the folders of timm's hub).

    Raises:
        RecipeError: nothing says which network it is of.
    """
    try:
        name = read_json(path.with_name("config.json")).get("architecture")
    except Unreadable:
        name = None
    if not isinstance(name, str) or not name:
        raise RecipeError(
            f"--teacher {path}: nothing says which network these weights are of: no config.json with `architecture` lies beside them",
            f"give --teacher timm:NAME, and add to pretrain.teacher of the recipe: weights: {path}",
        )
    return f"timm:{name}"
