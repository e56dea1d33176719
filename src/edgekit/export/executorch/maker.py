"""The maker of ExecuTorch's variants (see `targets.Target`)."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle import Precision, Variant
from edgekit.export.executorch.int8 import ExecuTorchInt8
from edgekit.export.executorch.program import float_program
from edgekit.export.inputs import Sources
from edgekit.export.verify import unverified, verify
from edgekit.export.xnnpack import with_partitions
from edgekit.quantize.search import search_accuracy
from edgekit.runtimes import why_not
from edgekit.targets import EXECUTORCH


def make(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for ExecuTorch, of batch 1.

    Raises:
        ExportError: the graph has an operator that cannot be written, or ExecuTorch cannot lower or run it.
        RuntimeMissing: ExecuTorch is not installed.
    """
    if missing := why_not(EXECUTORCH.name):  # before minutes are spent
        raise missing
    if precision == "int8":
        backend = ExecuTorchInt8(sources.quantizer, sources.reference, sources.options.bounds)
        made = search_accuracy(backend, sources.folder, recover=sources.options.recover, budget=sources.budget)
        return with_partitions(made, sources.folder, sources.reference.task, cast_outside=True)
    name = f"model.{precision}.pte"
    float_program(sources.float_onnx, sources.folder / name)
    variant = unverified("executorch", EXECUTORCH.name, precision, sources.folder, [name])
    verified = verify(variant, sources.folder, sources.reference, sources.options.bounds)
    return with_partitions(verified, sources.folder, sources.reference.task, cast_outside=True)


def float_model(source: Path, folder: Path) -> Path:
    """Convert a float ONNX to a `.pte` in FP32, the reference for the speed of INT8.

    Args:
        source: the ONNX file.
        folder: the output folder.
    """
    path = folder / "model.fp32.pte"
    float_program(source, path)
    return path
