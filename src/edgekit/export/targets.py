"""Who makes which variant of an export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.export import openvino, tensorrt
from edgekit.export.catalogue import split
from edgekit.export.inputs import Sources
from edgekit.export.int8.ladder import climb
from edgekit.export.served import Served
from edgekit.export.verify import verify

Maker = Callable[[Precision, Sources], Variant]


def make(id_: str, sources: Sources) -> Variant:
    """Make a variant in `sources.folder`, verified.

    Raises:
        ExportError: it cannot be made.
        RuntimeMissing: its target's converter is not installed.
    """
    target, precision = split(id_)
    return MAKERS[target](precision, sources)


def _onnx(precision: Precision, sources: Sources) -> Variant:
    if precision == "int8":
        return _int8("onnx", sources)
    (sources.folder / "model.onnx").write_bytes(sources.float_onnx.read_bytes())
    variant = Variant(
        id=f"onnx-{precision}",
        runtime="onnxruntime",
        precision=precision,
        files=[BundleFile.of(sources.folder, "model.onnx")],
        executed=False,
        status="unexecuted",
    )
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)


def _openvino(precision: Precision, sources: Sources) -> Variant:
    if precision == "int8":
        return _int8("openvino", sources)
    names = [f"model.{precision}.xml", f"model.{precision}.bin"]
    openvino.write_ir(sources.float_onnx, sources.folder / names[0], half=precision == "fp16")
    variant = Variant(
        id=f"openvino-{precision}",
        runtime="openvino",
        precision=precision,
        files=[BundleFile.of(sources.folder, name) for name in names],
        settings=openvino.SETTINGS,
        executed=False,
        status="unexecuted",
    )
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)


def _int8(target: Literal["onnx", "openvino"], sources: Sources) -> Variant:
    family = Served(target, sources.workshop, sources.reference, sources.options.bounds)
    return climb(family, sources.folder, recover=sources.options.recover, budget=sources.budget)


MAKERS: dict[str, Maker] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "trt": partial(tensorrt.make, "trt"),
    "trt-rtx": partial(tensorrt.make, "trt-rtx"),
}
