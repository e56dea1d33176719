"""`edgekit embed`: the features of a folder's images from one of a run's models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import completers
from edgekit.terminal import echo, echo_json, new_console
from edgekit.text import counted

if TYPE_CHECKING:
    from edgekit.train.analysis.embed import Embedding

_OF = ("encoder", "teacher", "student", "supervised")


@click.command(name="embed")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", shell_complete=completers.files)
@click.option(
    "--of", type=click.Choice(_OF), default="encoder", show_default=True, help="The model whose features are written."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for the files.  [default: RUN/embed/FOLDER-MODEL]"
)
@click.option(
    "--against",
    type=click.Choice(("folder", "pool")),
    default="folder",
    show_default=True,
    help="Images that the anomaly score compares with: FOLDER's other images, or the run's training images.",
)
@click.option(
    "--k",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of neighbors; the k-th gives the anomaly score.",
)
@click.option(
    "--clusters", type=click.IntRange(1), help="Number of clusters.  [default: the run's number of classes, at most 10]"
)
@click.option(
    "--points",
    type=click.IntRange(2, 20_000),
    default=2000,
    show_default=True,
    help="Maximum number of images on the map.",
)
@click.option("--outliers", type=click.IntRange(0), default=10, show_default=True, help="Number of outliers to print.")
@click.option(
    "--neighbors",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Also print the images of FOLDER that are nearest to this image; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    run: Path,
    folder: str,
    of: Any,
    output: Path | None,
    against: Any,
    k: int,
    clusters: int | None,
    points: int,
    outliers: int,
    images: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write the features of FOLDER's images (features.parquet) and a map of them (map.html), and print the outliers.

    FOLDER may be flat or nested and needs no labels. Files that cannot be read are listed in skipped.csv.

    \b
    For example:
      edgekit embed runs/photos new-photos/
      edgekit embed runs/photos new-photos/ --of student --against pool --outliers 30
      edgekit embed runs/photos new-photos/ --neighbors scratch.jpg
    """
    from edgekit.api.embedding import embedding_files, measure, write
    from edgekit.files import check_writable_folder
    from edgekit.run import Run

    opened = Run.open(run)
    files = embedding_files(opened, folder, of, output)
    check_writable_folder(files["map"].parent)
    embedding = measure(
        opened,
        folder,
        neighbors=images,
        of=of,
        against=against,
        k=k,
        clusters=clusters,
        points=points,
        outliers=outliers,
    )
    write(embedding, files)
    for note in embedding.notes:
        echo(f"note: {note}", err=True)
    for skipped in embedding.skipped[:5]:
        echo(f"skipped {skipped.path}: {skipped.reason}", err=True)
    if len(embedding.skipped) > 5:
        echo(f"skipped {len(embedding.skipped) - 5} more, see {files['skipped']}", err=True)
    if as_json:
        echo_json(json.dumps(_json(embedding, files, outliers), ensure_ascii=False))
    else:
        _print(embedding, files, outliers)


def _json(embedding: Embedding, files: dict[str, Path], outliers: int) -> dict[str, Any]:
    from edgekit.train.analysis.feature_table import about, printable

    return {
        **about(embedding),
        "images": len(embedding.files),
        "features": embedding.features.shape[1],
        "skipped": [{"file": printable(s.path), "reason": s.reason} for s in embedding.skipped],
        "outliers": [
            {"file": printable(embedding.files[i]), "anomaly": round(float(embedding.anomaly[i]), 6)}
            for i in embedding.outliers(outliers)
        ],
        "neighbors": {
            printable(image): [{"file": printable(embedding.files[i]), "cosine": round(c, 6)} for i, c in rows]
            for image, rows in embedding.nearest.items()
        },
        "files": {name: os.fspath(path) for name, path in files.items()},
    }


def _print(embedding: Embedding, files: dict[str, Path], outliers: int) -> None:
    from rich.table import Table

    from edgekit.train.analysis.feature_table import printable

    console = new_console(highlight=False)

    def name(i: int) -> str:
        return printable(embedding.files[i])

    width = embedding.features.shape[1]
    unreadable = f"; {len(embedding.skipped)} could not be read" if embedding.skipped else ""
    console.print(
        f"{counted(len(embedding.files), 'image')} of {embedding.source.where}, {width} features each of the {embedding.model.of}{unreadable}"
    )
    if outliers:
        table = Table("image", "anomaly", "nearest", title="Outliers", title_justify="left")
        for i in embedding.outliers(outliers):
            table.add_row(name(i), f"{embedding.anomaly[i]:.3f}", name(embedding.neighbors[i, 0]))
        console.print(table)
        console.print(f"anomaly: {embedding.definition}")
    for image, rows in embedding.nearest.items():
        table = Table("image", "cosine", title=f"Nearest to {printable(image)}", title_justify="left")
        for i, cosine in rows:
            table.add_row(name(i), f"{cosine:.3f}")
        console.print(table)
    console.print(f"written to {os.fspath(files['features'])} and {os.fspath(files['map'])}")
