"""What makers of `.tflite` files share: the batch size, and the file with its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import ModelProto

from edgekit.bundle import Precision
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import Graph
from edgekit.onnx_graph.metadata import of_onnx
from edgekit.onnx_graph.simplify import fix_batch

METADATA = "edgekit"  # key of the metadata in the file


def with_batch(model: ModelProto, batch: int | None) -> ModelProto:
    """Fix the batch size of a graph; None leaves it free.

    Raises:
        ExportError: the graph does not support this batch size.
    """
    return model if batch is None else fix_batch(model, batch)


def write(graph: Graph, path: Path, source: Path, precision: Precision) -> None:
    """Write a graph with the metadata of its source ONNX."""
    facts = of_onnx(source) | {"precision": precision}
    graph.metadata[METADATA] = json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()
    path.write_bytes(serialize(graph))
