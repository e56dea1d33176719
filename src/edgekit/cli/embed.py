"""`edgekit embed`: a folder of images as one of a run's models sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.train.analysis.embed import Embedding

_OF = ("encoder", "teacher", "student", "supervised")


@click.command(name="embed")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder")
@click.option("--of", type=click.Choice(_OF), default="encoder", show_default=True, help="Whose features.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for the files.  [default: RUN/embed/FOLDER-MODEL]"
)
@click.option(
    "--against",
    type=click.Choice(("folder", "pool")),
    default="folder",
    show_default=True,
    help="What the anomaly score compares with: FOLDER's other images, or the images that the run was trained on.",
)
@click.option(
    "--k", type=click.IntRange(1), default=10, show_default=True, help="Neighbors; the k-th gives the anomaly score."
)
@click.option(
    "--clusters", type=click.IntRange(1), help="Clusters.  [default: the run's number of classes, at most 10]"
)
@click.option(
    "--points", type=click.IntRange(2, 20_000), default=2000, show_default=True, help="Images on the map, at most."
)
@click.option("--outliers", type=click.IntRange(0), default=10, show_default=True, help="Outliers to print.")
@click.option(
    "--neighbors",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Also print FOLDER's nearest neighbors of any image; may be given often.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
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
    """Write the features of FOLDER's images (features.parquet) and a map of them as a page (map.html); print the outliers.

    FOLDER is flat or nested; nothing in it needs a label. Files that cannot be read are listed in skipped.csv.

    \b
    For example:
      edgekit embed runs/photos new-photos/
      edgekit embed runs/photos new-photos/ --of student --against pool --outliers 30
      edgekit embed runs/photos new-photos/ --neighbors scratch.jpg
    """
    from edgekit.api.embedding import embedding_files, measure, write
    from edgekit.run import Run

    opened = Run.open(run)
    found = measure(
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
    files = embedding_files(opened, folder, of, output)
    write(found, files)
    for note in found.notes:
        echo(f"note: {note}", err=True)
    for skipped in found.skipped[:5]:
        echo(f"skipped {skipped.path}: {skipped.reason}", err=True)
    if len(found.skipped) > 5:
        echo(f"skipped {len(found.skipped) - 5} more, see {files['skipped']}", err=True)
    if as_json:
        echo_json(json.dumps(_json(found, files, outliers), ensure_ascii=False))
    else:
        _print(found, files, outliers)


def _json(found: Embedding, files: dict[str, Path], outliers: int) -> dict[str, Any]:
    from edgekit.train.analysis.feature_table import about, printable

    return {
        **about(found),
        "images": len(found.files),
        "features": found.features.shape[1],
        "skipped": [{"file": printable(s.path), "reason": s.reason} for s in found.skipped],
        "outliers": [
            {"file": printable(found.files[i]), "anomaly": round(float(found.anomaly[i]), 6)}
            for i in found.outliers(outliers)
        ],
        "neighbors": {
            printable(image): [{"file": printable(found.files[i]), "cosine": round(c, 6)} for i, c in rows]
            for image, rows in found.nearest.items()
        },
        "files": {name: os.fspath(path) for name, path in files.items()},
    }


def _print(found: Embedding, files: dict[str, Path], outliers: int) -> None:
    from rich.table import Table

    from edgekit.train.analysis.feature_table import printable

    console = new_console(highlight=False)

    def name(i: int) -> str:
        return printable(found.files[i])

    width = found.features.shape[1]
    lost = f"; {len(found.skipped)} could not be read" if found.skipped else ""
    console.print(
        f"{len(found.files)} images of {found.source.where}, {width} features each of the {found.model.of}{lost}"
    )
    if outliers:
        table = Table("image", "anomaly", "nearest", title="Outliers", title_justify="left")
        for i in found.outliers(outliers):
            table.add_row(name(i), f"{found.anomaly[i]:.3f}", name(found.neighbors[i, 0]))
        console.print(table)
        console.print(f"anomaly: {found.definition}")
    for image, rows in found.nearest.items():
        table = Table("image", "cosine", title=f"Nearest to {printable(image)}", title_justify="left")
        for i, cosine in rows:
            table.add_row(name(i), f"{cosine:.3f}")
        console.print(table)
    console.print(f"written to {os.fspath(files['features'])} and {os.fspath(files['map'])}")
