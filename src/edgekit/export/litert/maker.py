"""The maker of LiteRT's variants (see `targets.Target`)."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import Precision, Variant
from edgekit.export.inputs import Sources
from edgekit.export.litert.convert import lower
from edgekit.export.litert.half import halve
from edgekit.export.litert.normalization import by_rows
from edgekit.export.litert.output import with_batch, write
from edgekit.export.verify import unverified, verify
from edgekit.export.xnnpack import with_partitions
from edgekit.onnx_graph.files import read_onnx
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import why_not
from edgekit.targets import LITERT


def make(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for LiteRT.

    Raises:
        ExportError: the graph has an operator that LiteRT lacks, or LiteRT cannot run the file.
        RuntimeMissing: LiteRT is not installed.
    """
    if missing := why_not(LITERT.name):  # before minutes are spent
        raise missing
    if precision == "int8":
        from edgekit.export.litert.int8 import LiteRtInt8

        backend = LiteRtInt8(sources.quantizer, sources.reference, sources.options.bounds, sources.batch)
        made = search_accuracy(backend, sources.folder, recover=sources.options.recover, budget=sources.budget)
        return with_partitions(made, sources.folder, sources.reference.task, cast_outside=False, threads=1)
    graph = by_rows(lower(with_batch(read_onnx(sources.float_onnx), sources.batch)))
    if precision == "fp16":
        halve(graph)
    name = f"model.{precision}.tflite"
    write(graph, sources.folder / name, sources.float_onnx, precision)
    variant = unverified("litert", LITERT.name, precision, sources.folder, [name])
    verified = verify(variant, sources.folder, sources.reference, sources.options.bounds)
    return with_partitions(verified, sources.folder, sources.reference.task, cast_outside=False, threads=1)


def float_model(source: Path, folder: Path) -> Path:
    """Convert a float ONNX to a `.tflite` in FP32, the reference for the speed of INT8.

    Args:
        source: the ONNX file.
        folder: the output folder.
    """
    path = folder / "model.fp32.tflite"
    write(by_rows(lower(read_onnx(source))), path, source, "fp32")
    return path
