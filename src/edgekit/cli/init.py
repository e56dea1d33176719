"""`edgekit init`: a commented recipe for a folder of images."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.terminal import echo, echo_file


@click.command(name="init")
@click.argument("folder")
@click.option("--name", help="Name of the run.  [default: the folder's]")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to this file, not to standard output."
)
@click.option("--unlabeled", is_flag=True, help="FOLDER's sub-folders are no classes: all images in it are one pile.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(folder: str, name: str | None, output: Path | None, unlabeled: bool, force: bool) -> None:
    """Write a commented recipe for the images in FOLDER, or for the embedded `digits`.

    FOLDER holds one sub-folder a class; or train/ with those, and beside it what there is of test/ (or val/) with the same
    classes and unlabelled/ with any images; or images alone, without labels. Paths in the recipe are relative to the current directory.

    \b
    For example:
      edgekit init photos/ > recipe.yaml
      edgekit init photos/ --name birds --output birds.yaml
      edgekit init camera/ --unlabeled > camera.yaml
      edgekit init digits > digits.yaml
    """
    from edgekit.data.layout import inspect_folder
    from edgekit.data.template import recipe_text
    from edgekit.errors import EdgekitError
    from edgekit.files import write_text

    if output is not None and output.exists() and not force:
        raise EdgekitError(f"{output}: exists already", "choose another --output, or overwrite it with --force")
    layout = inspect_folder(folder, unlabeled=unlabeled)
    text = recipe_text(layout, name, *([str(output)] if output is not None else []))
    for note in layout.notes:
        echo(f"note: {note}", err=True)
    if output is None:
        echo_file(text)
        return
    write_text(output, text)
    echo(f"wrote {output}; train it with `edgekit train {output}`", err=True)
