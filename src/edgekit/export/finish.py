"""The last touch on a variant: the one batch size that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from edgekit.bundle import BundleFile, Variant
from edgekit.errors import ExportError
from edgekit.export.graph.files import read_onnx
from edgekit.export.graph.simplify import fix_batch
from edgekit.export.inputs import Sources
from edgekit.export.openvino import fix_ir_batch
from edgekit.export.verify import verify


def finish(variant: Variant, sources: Sources) -> Variant:
    """Give a variant's files their batch size, and verify them again as they are then; nothing where it stays free.

    TensorRT's variants are left alone: a batch size is part of an engine's profile.

    Args:
        variant: with a free batch axis, its files in `sources.folder`.
        sources: what it was made from.

    Raises:
        ExportError: the graph does not take that batch.
    """
    if sources.batch is None or variant.runtime not in {"onnxruntime", "openvino"}:
        return variant
    path = sources.folder / variant.files[0].path
    if variant.runtime == "onnxruntime":
        _fix_onnx(path, sources.batch)
    else:
        fix_ir_batch(path, sources.batch)
    variant = variant.model_copy(update={"files": [BundleFile.of(sources.folder, file.path) for file in variant.files]})
    if variant.status == "rejected":
        return variant
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)


def _fix_onnx(path: Path, batch: int) -> None:
    fixed = fix_batch(read_onnx(path), batch)
    try:
        onnx.checker.check_model(fixed, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"--batch {batch}: the network does not take that batch size: {reason}") from error
    temporary = path.with_name(f"{path.name}.tmp")  # `path` may share its content with another variant's file
    onnx.save(fixed, temporary)
    os.replace(temporary, path)
