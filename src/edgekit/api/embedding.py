"""A folder of images as one of a run's models sees it, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import run as runs
from edgekit.api.extras import require
from edgekit.api.runs import opened
from edgekit.processors import configure_openmp

if TYPE_CHECKING:
    from edgekit.report.image_map import ImageMap
    from edgekit.train.analysis.embed import Embedding, Of

_ON_PAGE = 6  # neighbors shown of an image


def embed(
    run: runs.Run | Path | str,
    folder: Path | str,
    *,
    of: Of = "encoder",
    output: Path | str | None = None,
    against: Literal["folder", "pool"] = "folder",
    k: int = 10,
    clusters: int | None = None,
    points: int = 2000,
    outliers: int = 10,
) -> Embedding:
    """Write the features of a folder's images, a map of them, and the files that could not be read, as `edgekit embed` does.

    The files are features.parquet, map.html and skipped.csv in `output`.

    Args:
        run: the run or its folder.
        folder: images, flat or nested; nothing in it needs a label.
        of: whose features: encoder, teacher, student or supervised.
        output: the folder for the files; None: RUN/embed/FOLDER-MODEL.
        against: what the anomaly score compares with: the folder's other images, or the pool that the run was trained on.
        k: neighbors; the k-th gives the anomaly score.
        clusters: None: as many as the run has classes, at most 10.
        points: images on the map, at most.
        outliers: that are always on the map.

    Returns:
        What was found: `files`, `features` float32 (n, d), `neighbors`, `anomaly`, `clusters` and more, a row for each image.

    Raises:
        RunError: there is no such run, or the model's stage is not complete.
        DataError: the folder is missing, empty, or has fewer than two images that can be read.
        RuntimeMissing: an extra is not installed: [train] for the features, [report] for the map.
    """
    target = opened(run)
    found = measure(target, folder, of=of, against=against, k=k, clusters=clusters, points=points, outliers=outliers)
    write(found, embedding_files(target, folder, of, output))
    return found


def measure(run: runs.Run, folder: Path | str, **options: Any) -> Embedding:
    """What `embed` finds, before anything is written: the command asks it for the neighbors of other images first.

    Args:
        run: opened.
        folder: as of `embed`.
        options: those of `edgekit.train.analysis.embed.embed`.

    Raises:
        RunError, DataError, RuntimeMissing: as `embed`.
    """
    configure_openmp()
    require("torch", "sklearn", "pyarrow")
    from edgekit.report.page import require_jinja2

    require_jinja2()
    from edgekit.train.analysis.embed import embed as embed_images

    return embed_images(run, str(folder), **options)


def write(found: Embedding, files: dict[str, Path]) -> None:
    """Write the files of `embedding_files`."""
    from edgekit.report.image_map import write_map
    from edgekit.train.analysis.feature_table import write_features, write_skipped

    write_features(found, files["features"])
    write_skipped(found, files["skipped"])
    write_map(_image_map(found), files["map"])


def embedding_files(
    run: runs.Run | Path | str, folder: Path | str, of: str, output: Path | str | None = None
) -> dict[str, Path]:
    """Where `embed` writes: features, map and skipped."""
    base = run.path if isinstance(run, runs.Run) else Path(run)
    target = Path(output) if output is not None else base / "embed" / f"{Path(folder).resolve().name}-{of}"
    return {"features": target / "features.parquet", "map": target / "map.html", "skipped": target / "skipped.csv"}


def _image_map(found: Embedding) -> ImageMap:
    """What the page shows: the images on the map, with everything about each."""
    from edgekit.report.image_map import Coloring, ImageMap
    from edgekit.train.analysis.feature_table import about, printable
    from edgekit.train.analysis.thumbnails import thumbnails

    drawn = found.drawn.tolist()
    where = {image: i for i, image in enumerate(drawn)}
    colorings = []
    if any(found.labels):
        colorings.append(Coloring("label", "folder", [found.labels[i] for i in drawn]))
    if found.predicted is not None:
        colorings.append(Coloring("predicted", "predicted class", [found.predicted[i] for i in drawn]))
    colorings.append(Coloring("cluster", "cluster", [str(found.clusters[i] + 1) for i in drawn]))
    facts = about(found)
    count, shown = len(found.files), len(drawn)
    which = (
        f"All {count:,} images"
        if shown == count
        else f"{shown:,} of {count:,} images (the outliers, and a seeded sample)"
    )
    architecture = found.model.architecture
    pictures = thumbnails(found)
    return ImageMap(
        title=f"Map of {printable(found.source.where)}",
        lead=f"{which}, laid out by the features of the run's {found.model.of}: what lies together looks alike to it.",
        files=[printable(found.files[i]) for i in drawn],
        positions=found.projection.positions,
        anomaly=found.anomaly[found.drawn],
        definition=found.definition,
        neighbors=[
            [
                (where.get(j, printable(found.files[j])), float(c))
                for j, c in zip(found.neighbors[i, :_ON_PAGE].tolist(), found.similarities[i], strict=False)
            ]
            for i in drawn
        ],
        colorings=colorings,
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
            ("nearest neighbors", "among all images of the folder, by cosine"),
            ("clusters", facts["clusters"]),
            *([("folder", facts["label"])] if any(found.labels) else []),
        ],
    )
