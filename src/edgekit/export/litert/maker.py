"""The maker of LiteRT's variants (see `targets.Target`)."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import ModelProto

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.export.inputs import Sources
from edgekit.export.litert.flatbuffer import schema, serialize
from edgekit.export.litert.graph import Graph
from edgekit.export.litert.half import halve
from edgekit.export.litert.lowering import lower
from edgekit.export.verify import verify
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import of_onnx
from edgekit.onnx_graph.simplify import fix_batch
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import open_session, why_not
from edgekit.targets import LITERT

METADATA = "edgekit"  # under which the file says what it is


def make(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for LiteRT.

    Raises:
        ExportError: the graph holds an operator that cannot be written, or LiteRT does not run what was.
        RuntimeMissing: LiteRT is not installed.
    """
    schema()  # before minutes are spent
    if precision == "int8":
        from edgekit.export.litert.int8 import LiteRtInt8

        family = LiteRtInt8(sources.workshop, sources.reference, sources.options.bounds, sources.batch)
        made = search_accuracy(family, sources.folder, recover=sources.options.recover, budget=sources.budget)
        return with_partitions(made, sources.folder)
    graph = lower(with_batch(read_onnx(sources.float_onnx), sources.batch))
    if precision == "fp16":
        halve(graph)
    name = f"model.{precision}.tflite"
    write(graph, sources.folder / name, sources.float_onnx, precision)
    variant = Variant(
        id=f"litert-{precision}",
        runtime=LITERT.name,
        precision=precision,
        files=[BundleFile.of(sources.folder, name)],
        executed=False,
        status="unexecuted",
    )
    verified = verify(variant, sources.folder, sources.reference, sources.options.bounds)
    return with_partitions(verified, sources.folder)


def float_model(source: Path, folder: Path) -> Path:
    """A float ONNX as a `.tflite` in FP32, to time INT8 against.

    Args:
        source: the ONNX.
        folder: to write into.
    """
    path = folder / "model.fp32.tflite"
    write(lower(read_onnx(source)), path, source, "fp32")
    return path


def with_partitions(variant: Variant, folder: Path) -> Variant:
    """A variant with a note where XNNPACK does not compute all of it in one part: each border costs time."""
    if why_not(LITERT.name) is not None:
        return variant
    session = open_session(LITERT.name, folder / variant.files[0].path, threads=1)
    parts, outside = session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]
    session.close()
    if parts == "1" and outside == "nothing":
        return variant
    said = f"XNNPACK computes it in {parts} parts, LiteRT's slower kernels {outside}"
    return variant.model_copy(update={"note": "; ".join(part for part in (variant.note, said) if part)})


def with_batch(model: ModelProto, batch: int | None) -> ModelProto:
    """A graph with the batch size that is wanted: None leaves it free.

    Raises:
        ExportError: the graph does not take it.
    """
    return model if batch is None else fix_batch(model, batch)


def write(graph: Graph, path: Path, source: Path, precision: Precision) -> None:
    """Write a graph with what the ONNX that it comes from says about itself."""
    facts = of_onnx(source) | {"precision": precision}
    graph.metadata[METADATA] = json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()
    path.write_bytes(serialize(graph))
