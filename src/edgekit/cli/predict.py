"""`edgekit predict`: class and probability of images, with a bundle."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.runtimes.predictor import Prediction


@click.command(name="predict")
@click.argument("bundle")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE…")
@click.option(
    "--variant", metavar="ID", help="Which variant; by default the verified one nearest to the trained model."
)
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to print.")
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads inside an operator; 0 leaves it to the runtime."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each image.")
def command(bundle: str, images: tuple[Path, ...], variant: str | None, top: int, threads: int, as_json: bool) -> None:
    """Classify images with a BUNDLE (a folder or a .zip). Each IMAGE is a file, or a folder that is searched for images.

    An image that cannot be read is named on standard error, the others go on, and the exit code is 2.

    \b
    For example:
      edgekit predict runs/photos/export photo.jpg
      edgekit predict bundle.zip photos/ --variant onnx-int8 --top 1
      edgekit predict bundle.zip photos/ --json > classes.jsonl
    """
    from edgekit.bundle import Bundle
    from edgekit.errors import DataError
    from edgekit.runtimes.predictor import Predictor, image_files

    warnings.filterwarnings("ignore", module="PIL")  # about metadata that is of no use here, such as damaged EXIF
    opened = Bundle.open(bundle)
    predictor = Predictor(opened, variant, threads=threads)
    if predictor.variant.status != "verified":
        click.echo(f"warning: {predictor.variant.id} is {predictor.variant.status}, not verified", err=True)
    failed = 0
    for path in image_files(list(images)):
        try:
            prediction = predictor.predict(path, top)
        except DataError as error:
            failed += 1
            click.echo(f"error: {error}", err=True)
        else:
            click.echo(_line(path, prediction, predictor.variant.id, as_json))
    if failed:
        click.get_current_context().exit(2)


def _line(path: Path, prediction: Prediction, variant: str, as_json: bool) -> str:
    if as_json:
        import json

        classes = [{"class": name, "probability": round(p, 6)} for name, p in prediction.classes]
        return json.dumps({"file": os.fspath(path), "classes": classes, "variant": variant})
    listed = "  ".join(f"{name} {p:.1%}" for name, p in prediction.classes)
    return f"{click.format_filename(path)}  {listed}"
