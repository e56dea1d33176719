"""`edgekit augment`: look at a recipe's augmentation before training."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekit.cli.choices import override_option
from edgekit.processors import configure_openmp
from edgekit.terminal import echo, echo_json


@click.group(name="augment")
def command() -> None:
    """Look at a recipe's augmentation before training.

    \b
    For example:
      edgekit augment preview recipe.yaml
    """


@command.command(name="preview")
@click.argument("recipe", type=click.Path(path_type=Path))
@override_option
@click.option(
    "--stage",
    type=click.Choice(["pretrain", "finetune", "distill", "supervised"]),
    default="pretrain",
    show_default=True,
    help="The stage whose augmentation is shown.",
)
@click.option("--output", type=click.Path(path_type=Path), help="The picture (PNG).  [default: NAME-STAGE-views.png]")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON with the path of the picture.")
def preview(recipe: Path, overrides: tuple[str, ...], stage: str, output: Path | None, as_json: bool) -> None:
    """Write a picture of images of the RECIPE, the first of each row, and random views of them.

    A class that you cannot recognize in the views is one that the model cannot learn from them. The images are decoded into the cache,
    where `edgekit train` finds them.

    \b
    For example:
      edgekit augment preview recipe.yaml
      edgekit augment preview recipe.yaml --set pretrain.augmentation.crop_scale=[0.5,1.0]
      edgekit augment preview recipe.yaml --stage finetune --output views.png
    """
    configure_openmp()
    from edgekit.recipe import load

    loaded = load(recipe, list(overrides))

    from edgekit.data.splits import load_splits
    from edgekit.files import check_writable_file
    from edgekit.train.stages.views import augmentation_of, draw_views

    target = output or Path(f"{loaded.name}-{stage}-views.png")
    check_writable_file(target)
    splits = load_splits(loaded.data)
    images = splits.pool if stage in {"pretrain", "distill"} or not len(splits.labeled) else splits.labeled
    draw_views(images, augmentation_of(loaded, stage), loaded.seed, target)
    if as_json:
        echo_json(json.dumps({"stage": stage, "picture": str(target)}))
        return
    echo(f"wrote {target}: each row shows an image, then random views of it")
