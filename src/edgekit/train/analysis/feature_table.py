"""Write the results about embedded images as a Parquet table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from edgekit import __version__
from edgekit.files import atomic_write, write_text
from edgekit.train.analysis.embed import Embedding


def write_features(embedding: Embedding, path: Path) -> None:
    """Write all results as a Parquet table, one row per image, atomically.

    Columns: file, label, features (fixed-size list of float32), predicted and probability (classifiers only), anomaly, cluster,
    neighbors (files), similarities (cosines), x and y (null if the map does not show the image). The metadata of the
    schema holds JSON under `edgekit`: the model, its preprocessing and the definitions.

    Raises:
        EdgekitError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, width = embedding.features.shape
    files = [printable(name) for name in embedding.files]
    x, y = (np.full(count, np.nan, dtype=np.float32) for _ in range(2))
    x[embedding.drawn], y[embedding.drawn] = embedding.projection.positions.T
    columns = {
        "file": pa.array(files, pa.string()),
        "label": pa.array([None if name is None else printable(name) for name in embedding.labels], pa.string()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(embedding.features.reshape(-1)), width),
    }
    if embedding.predicted is not None:
        columns["predicted"] = pa.array(embedding.predicted, pa.string())
        columns["probability"] = pa.array(embedding.probability)
    columns |= {
        "anomaly": pa.array(embedding.anomaly),
        "cluster": pa.array(embedding.clusters.astype(np.int32)),
        "neighbors": pa.array([[files[j] for j in row] for row in embedding.neighbors], pa.list_(pa.string())),
        "similarities": pa.array(list(embedding.similarities), pa.list_(pa.float32())),
        "x": pa.array(x, from_pandas=True),
        "y": pa.array(y, from_pandas=True),
    }
    table = pa.table(columns).replace_schema_metadata({"edgekit": json.dumps(about(embedding))})
    with atomic_write(path) as stream:
        pq.write_table(table, stream)


def write_skipped(embedding: Embedding, path: Path) -> None:
    """Write the files that could not be read, and why, as CSV (file, reason), atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows((printable(s.path), s.reason) for s in embedding.skipped)
    write_text(path, text.getvalue())


class About(TypedDict):
    """The model and the definitions of an embedding: JSON, in the metadata of the table and in `embed --json`."""

    edgekit: str
    folder: str
    model: str
    architecture: dict[str, Any]
    weights_sha256: str
    classes: list[str]
    preprocessing: dict[str, Any]
    mean: float
    std: float
    anomaly: str
    map: str
    clusters: str
    label: str


def about(embedding: Embedding) -> About:
    """Return the model and the definitions of an embedding."""
    model = embedding.model
    return {
        "edgekit": __version__,
        "folder": embedding.source.where,
        "model": model.of,
        "architecture": model.architecture.model_dump(mode="json"),
        "weights_sha256": model.digest,
        "classes": model.classes,
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "mean": model.recipe.data.mean,
        "std": model.recipe.data.std,
        "anomaly": embedding.definition,
        "map": embedding.projection.method,
        "clusters": f"k-means of the l2-normalized features, {embedding.clusters.max() + 1} clusters, seed {model.recipe.seed}",
        "label": "first folder of the file's path",
    }


def printable(name: str) -> str:
    """Return a file name as valid Unicode: invalid bytes are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
