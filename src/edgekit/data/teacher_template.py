"""The part of the recipe that `edgekit init --teacher` writes: a pretrained encoder teaches its representation, without labels."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import EdgekitError, RecipeError
from edgekit.foreign import Unreadable, read_json
from edgekit.recipe import factory_of, library_of

_BLOCK = """\
pretrain:   # a pretrained encoder teaches its representation on all images, without labels
  method: distill
  teacher: {teacher}   # {teacher_why}
  objective: cosine   # or mse, seed, compress: what is learned of its features
  target: image   # image: it sees each image and its mirror image once, and its features are kept; view: every augmented view, slower
  projection: {{layers: 1}}   # to the width of the teacher's features; fine-tuning starts from the encoder before it
  encoder: {encoder}   # the network that learns: any network of torchvision or timm
  epochs: {epochs}   # longer is nearly always better; auto: depends on the number of images
  batch_size: {batch}   # at most the number of images
  optimizer: {{name: adamw, lr: 1.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup: 0.05}}
  augmentation: {augmentation}
"""


def with_teacher(text: str, teacher: str) -> str:
    """Return a recipe of `edgekit.data.template` whose pretraining is distillation from a teacher.

    Args:
        text: the recipe.
        teacher: timm:NAME, torchvision:NAME, module:factory, a file of weights, or the folder of a run.

    Raises:
        EdgekitError: there is no such teacher.
    """
    source, why = _source(teacher)
    begin, end = text.index("\npretrain:") + 1, text.index("\nfinetune:") + 1
    section = text[begin:end]

    def value(key: str, after: str = "") -> str:
        found = re.search(rf"^  {key}: (\{{.*?\}}|[^ #]+)", after or section, re.MULTILINE)
        assert found is not None, key
        return found[1]

    block = _BLOCK.format(
        teacher=source, teacher_why=why, encoder=value("encoder"), epochs=value("epochs"), batch=value("batch_size"),
        augmentation=value("augmentation", text[end:]),
    )  # fmt: skip
    return text[:begin] + block + "\n" + text[end:]


def _source(teacher: str) -> tuple[str, str]:
    """The recipe's `pretrain.teacher`, as YAML, and a comment."""
    if (library := library_of(teacher)) is not None:
        if find_spec("torch") is not None and find_spec(library[0]) is not None:
            from edgekit.models.pretrained import published

            known = published(*library, "--teacher")
            sized = f"it was trained on images of {known.image_size} px, and gets them enlarged or reduced to that"
            fixed = "; image_size with interpolate_positions: true changes it" if known.fixed_size else "; image_size changes it"
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
