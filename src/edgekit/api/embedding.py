"""Embed a folder of images with a model of a run, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from edgekit import run as runs
from edgekit.api.extras import require
from edgekit.api.runs import opened
from edgekit.arguments import Count, CountOrZero, Within, checked
from edgekit.processors import configure_openmp

if TYPE_CHECKING:
    from edgekit.report.image_map import ImageMap
    from edgekit.train.analysis.embed import Embedding, Of

_ON_PAGE = 6  # neighbors shown per image


@checked()
def embed(
    run: runs.Run | Path | str,
    folder: Path | str,
    *,
    of: Of = "encoder",
    output: Path | str | None = None,
    against: Literal["folder", "pool"] = "folder",
    k: Count = 10,
    clusters: Count | None = None,
    points: Annotated[int, Within(2, 20_000)] = 2000,
    outliers: CountOrZero = 10,
    neighbors: Path | str | Sequence[Path | str] = (),
) -> Embedding:
    """Write the features of the images in a folder, a map of them, and a list of unreadable files, like `edgekit embed`.

    The files are features.parquet, map.html and skipped.csv in `output`.

    Args:
        run: the run or its folder.
        folder: images, flat or nested; they need no labels.
        of: the model: encoder, teacher, student or supervised.
        output: the folder for the files; None: RUN/embed/FOLDER-MODEL.
        against: reference of the anomaly score: the other images of the folder, or the pool that the run was trained on.
        k: number of neighbors; the k-th defines the anomaly score.
        clusters: number of clusters; None: the number of classes of the run, at most 10.
        points: largest number of images on the map.
        outliers: number of outliers that are always on the map.
        neighbors: images, in the folder or not, whose `k` nearest images of the folder are looked up, too.

    Returns:
        The results: `files`, `features` float32 (n, d), `neighbors`, `anomaly`, `clusters` and more, one row per image;
        and `nearest`, by the name of each image of the argument `neighbors`: its nearest images, as positions in `files` with their cosines.

    Raises:
        RunError: there is no such run, or the model's stage is not complete.
        DataError: the folder is missing, empty, or has fewer than two images that can be read; one of `neighbors` cannot be read.
        RuntimeMissing: an extra is not installed: [train] for the features, [report] for the map.
    """
    target = opened(run)
    embedding = measure(
        target, folder, neighbors=[neighbors] if isinstance(neighbors, (str, Path)) else neighbors, of=of, against=against, k=k,
        clusters=clusters, points=points, outliers=outliers,
    )  # fmt: skip
    write(embedding, embedding_files(target, folder, of, output))
    return embedding


def measure(
    run: runs.Run, folder: Path | str, *, neighbors: Sequence[Path | str] = (), k: int = 10, **options: Any
) -> Embedding:
    """Compute the results of `embed` without writing files.

    Args:
        run: an existing run.
        folder, neighbors, k: as in `embed`.
        options: the other options of `edgekit.train.analysis.embed.embed`.

    Raises:
        RunError, DataError, RuntimeMissing: as `embed`.
    """
    configure_openmp()
    require("torch", "sklearn", "pyarrow")
    from edgekit.report.page import require_jinja2

    require_jinja2()
    from edgekit.train.analysis.embed import embed as embed_images

    found = embed_images(run, str(folder), k=k, **options)
    return replace(found, nearest={os.fspath(image): found.nearest_to(image, k) for image in neighbors})


def write(embedding: Embedding, files: dict[str, Path]) -> None:
    """Write the files of `embedding_files`."""
    from edgekit.report.image_map import write_map
    from edgekit.train.analysis.feature_table import write_features, write_skipped

    write_features(embedding, files["features"])
    write_skipped(embedding, files["skipped"])
    write_map(_image_map(embedding), files["map"])


def embedding_files(
    run: runs.Run | Path | str, folder: Path | str, of: str, output: Path | str | None = None
) -> dict[str, Path]:
    """Return the paths of the files of `embed`: features, map and skipped."""
    base = run.path if isinstance(run, runs.Run) else Path(run)
    target = Path(output) if output is not None else base / "embed" / f"{Path(folder).resolve().name}-{of}"
    return {"features": target / "features.parquet", "map": target / "map.html", "skipped": target / "skipped.csv"}


def _image_map(embedding: Embedding) -> ImageMap:
    """Return the content of the page: the images on the map, with all results."""
    from edgekit.report.image_map import Coloring, ImageMap
    from edgekit.train.analysis.feature_table import about, printable
    from edgekit.train.analysis.thumbnails import thumbnails

    drawn = embedding.drawn.tolist()
    where = {image: i for i, image in enumerate(drawn)}
    colorings = []
    if any(embedding.labels):
        colorings.append(Coloring("label", "folder", [embedding.labels[i] for i in drawn]))
    if embedding.predicted is not None:
        colorings.append(Coloring("predicted", "predicted class", [embedding.predicted[i] for i in drawn]))
    colorings.append(Coloring("cluster", "cluster", [str(embedding.clusters[i] + 1) for i in drawn]))
    facts = about(embedding)
    count, shown = len(embedding.files), len(drawn)
    which = (
        f"All {count:,} images"
        if shown == count
        else f"{shown:,} of {count:,} images (the outliers, and a seeded sample)"
    )
    architecture = embedding.model.architecture
    pictures = thumbnails(embedding)
    return ImageMap(
        title=f"Map of {printable(embedding.source.where)}",
        lead=f"{which}, laid out by the features of the run's {embedding.model.of}: images with similar features are close together.",
        files=[printable(embedding.files[i]) for i in drawn],
        positions=embedding.projection.positions,
        anomaly=embedding.anomaly[embedding.drawn],
        definition=embedding.definition,
        neighbors=[
            [
                (where.get(j, printable(embedding.files[j])), float(c))
                for j, c in zip(embedding.neighbors[i, :_ON_PAGE].tolist(), embedding.similarities[i], strict=False)
            ]
            for i in drawn
        ],
        colorings=colorings,
        probability=embedding.probability[embedding.drawn] if embedding.probability is not None else None,
        thumbnails=pictures,
        facts=[
            (
                "images",
                f"{count:,}, of which {shown:,} are on this page with a thumbnail; {len(embedding.skipped):,} could not be read",
            ),
            (
                "features",
                f"{embedding.features.shape[1]} numbers of the {embedding.model.of}: {architecture.name}, width {architecture.width:g}",
            ),
            ("weights, SHA-256", embedding.model.digest),
            ("positions", facts["map"]),
            ("anomaly score", facts["anomaly"]),
            ("nearest neighbors", "among all images of the folder, by cosine"),
            ("clusters", facts["clusters"]),
            *([("folder", facts["label"])] if any(embedding.labels) else []),
        ],
    )
