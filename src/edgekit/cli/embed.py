"""`edgekit embed`: a folder of images as one of a run's models sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.processors import tell_openmp
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from PIL import Image

    from edgekit.report.image_map import ImageMap
    from edgekit.train.embed import Embedding

_OF = ("encoder", "teacher", "student", "supervised")
_ON_PAGE = 6  # neighbours shown of an image


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
    "--k", type=click.IntRange(1), default=10, show_default=True, help="Neighbours; the k-th gives the anomaly score."
)
@click.option(
    "--clusters", type=click.IntRange(1), help="Clusters.  [default: the run's number of classes, at most 10]"
)
@click.option(
    "--points", type=click.IntRange(2, 20_000), default=2000, show_default=True, help="Images on the map, at most."
)
@click.option("--outliers", type=click.IntRange(0), default=10, show_default=True, help="Outliers to print.")
@click.option(
    "--neighbours",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Also print FOLDER's nearest neighbours of any image; may be given often.",
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
      edgekit embed runs/photos new-photos/ --neighbours scratch.jpg
    """
    tell_openmp()
    from edgekit.run import Run

    opened = Run.open(run)

    from edgekit.train.embed import embed
    from edgekit.train.feature_table import require_pyarrow, write_features, write_skipped

    require_pyarrow()
    found = embed(opened, folder, of=of, against=against, k=k, clusters=clusters, points=points, outliers=outliers)
    near = {os.fspath(image): found.nearest_to(image, k) for image in images}
    target = output or opened.path / "embed" / f"{Path(folder).resolve().name}-{of}"
    files = {"features": target / "features.parquet", "map": target / "map.html", "skipped": target / "skipped.csv"}
    write_features(found, files["features"])
    write_skipped(found, files["skipped"])

    from edgekit.report.image_map import write_map

    write_map(_map(found), files["map"])
    for note in found.notes:
        echo(f"note: {note}", err=True)
    for skipped in found.skipped[:5]:
        echo(f"skipped {skipped.path}: {skipped.reason}", err=True)
    if len(found.skipped) > 5:
        echo(f"skipped {len(found.skipped) - 5} more, see {files['skipped']}", err=True)
    if as_json:
        echo_json(json.dumps(_json(found, files, outliers, near), ensure_ascii=False))
    else:
        _print(found, files, outliers, near)


def _json(
    found: Embedding, files: dict[str, Path], outliers: int, near: dict[str, list[tuple[int, float]]]
) -> dict[str, Any]:
    from edgekit.train.feature_table import about, printable

    return {
        **about(found),
        "images": len(found.files),
        "features": found.features.shape[1],
        "skipped": [{"file": printable(s.path), "reason": s.reason} for s in found.skipped],
        "outliers": [
            {"file": printable(found.files[i]), "anomaly": round(float(found.anomaly[i]), 6)}
            for i in found.outliers(outliers)
        ],
        "neighbours": {
            printable(image): [{"file": printable(found.files[i]), "cosine": round(c, 6)} for i, c in rows]
            for image, rows in near.items()
        },
        "files": {name: os.fspath(path) for name, path in files.items()},
    }


def _print(found: Embedding, files: dict[str, Path], outliers: int, near: dict[str, list[tuple[int, float]]]) -> None:
    from rich.table import Table

    from edgekit.train.feature_table import printable

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
            table.add_row(name(i), f"{found.anomaly[i]:.3f}", name(found.neighbours[i, 0]))
        console.print(table)
        console.print(f"anomaly: {found.definition}")
    for image, rows in near.items():
        table = Table("image", "cosine", title=f"Nearest to {printable(image)}", title_justify="left")
        for i, cosine in rows:
            table.add_row(name(i), f"{cosine:.3f}")
        console.print(table)
    console.print(f"written to {os.fspath(files['features'])} and {os.fspath(files['map'])}")


def _map(found: Embedding) -> ImageMap:
    """What the page shows: the images on the map, with everything about each."""
    from edgekit.report.image_map import Colouring, ImageMap
    from edgekit.train.feature_table import about, printable
    from edgekit.train.thumbnails import thumbnails

    drawn = found.drawn.tolist()
    where = {image: i for i, image in enumerate(drawn)}
    colourings = []
    if any(found.labels):
        colourings.append(Colouring("label", "folder", [found.labels[i] for i in drawn]))
    if found.predicted is not None:
        colourings.append(Colouring("predicted", "predicted class", [found.predicted[i] for i in drawn]))
    colourings.append(Colouring("cluster", "cluster", [str(found.clusters[i] + 1) for i in drawn]))
    facts = about(found)
    count, shown = len(found.files), len(drawn)
    which = (
        f"All {count:,} images"
        if shown == count
        else f"{shown:,} of {count:,} images (the outliers, and a seeded sample)"
    )
    architecture = found.model.architecture
    pictures: list[Image.Image] = thumbnails(found)
    return ImageMap(
        title=f"Map of {printable(found.source.where)}",
        lead=f"{which}, laid out by the features of the run's {found.model.of}: what lies together looks alike to it.",
        files=[printable(found.files[i]) for i in drawn],
        positions=found.projection.positions,
        anomaly=found.anomaly[found.drawn],
        definition=found.definition,
        neighbours=[
            [
                (where.get(j, printable(found.files[j])), float(c))
                for j, c in zip(found.neighbours[i, :_ON_PAGE].tolist(), found.similarities[i], strict=False)
            ]
            for i in drawn
        ],
        colourings=colourings,
        probability=found.probability[found.drawn] if found.probability is not None else None,
        thumbnails=pictures,
        facts=[
            (
                "images",
                f"{count:,}, of which {shown:,} are on this page with a thumbnail; {len(found.skipped):,} could not be read",
            ),
            (
                "features",
                f"{found.features.shape[1]} numbers of the {found.model.of}: {architecture.name}, width {architecture.width:g}",
            ),
            ("weights, SHA-256", found.model.digest),
            ("positions", facts["map"]),
            ("anomaly score", facts["anomaly"]),
            ("nearest neighbours", "among all images of the folder, by cosine"),
            ("clusters", facts["clusters"]),
            *([("folder", facts["label"])] if any(found.labels) else []),
        ],
    )
