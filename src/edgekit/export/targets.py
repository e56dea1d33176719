"""What each variant of an export is made from, and who makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.export import openvino
from edgekit.export.calibration import Calibration
from edgekit.export.catalogue import COMPUTE_CAPABILITIES, split
from edgekit.export.families import Served
from edgekit.export.ladder import climb
from edgekit.export.verify import Bounds, Reference, verify
from edgekit.export.ways import Workshop


@dataclass(frozen=True)
class Options:
    """What a user may choose about how variants are made. All of it is part of what a variant is known by.

    Attributes:
        max_drop: the largest loss of accuracy that passes, in percentage points.
        min_agreement: the smallest share of the evaluation set on which a variant must decide as the trained model does.
        recover: whether INT8 that loses too much is distilled (see `recover`).
        compute_capabilities: of the GPUs that trt-rtx builds for.
    """

    max_drop: float = 1.0
    min_agreement: float = 0.0
    recover: bool = False
    compute_capabilities: tuple[str, ...] = COMPUTE_CAPABILITIES

    @property
    def bounds(self) -> Bounds:
        """What passes."""
        return Bounds(self.max_drop, self.min_agreement)

    def of(self, target: str, precision: Precision) -> dict[str, Any]:
        """Those that a variant depends on, for its digest."""
        chosen = asdict(self)
        if precision != "int8":
            del chosen["recover"]
        if target != "trt-rtx":
            del chosen["compute_capabilities"]
        return chosen


@dataclass
class Sources:
    """What a variant is made from and held against.

    Attributes:
        float_onnx: the float graph, its batch axis free, weights inside.
        calibration: images without labels, and the ranges that they give the activations.
        reference: what the trained model says.
        options: the user's.
        folder: where the variant's files go; empty, the variant's alone.
        scratch: for what is made on the way; of this process alone.
        model: the trained network, from pixels to logits, as torch; None where the model came as ONNX.
        batch: the batch size that the bundle's graphs are to have; None leaves it free. Whoever makes ONNX or OpenVINO files
            makes them with a free batch axis all the same: `finish` fixes it, and writes the metadata, in whatever was made.
        unlabelled: more images without labels than the calibration's, uint8 (n, s, s, 3), to compare and to distil on; None: those.
        shared: of this process alone: what is made once and used by several variants.

    Nothing here may measure time: other variants may be being made beside this one.
    """

    float_onnx: Path
    calibration: Calibration
    reference: Reference
    options: Options
    folder: Path
    scratch: Path
    model: nn.Module | None = None
    batch: int | None = None
    unlabelled: NDArray[np.uint8] | None = None
    shared: dict[str, Any] = field(default_factory=dict)


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
    family = Served(target, Workshop.of(sources), sources.options.bounds)
    return climb(family, sources.folder, recover=sources.options.recover)[0]


def _trt(precision: Precision, sources: Sources) -> Variant:
    from edgekit.export import tensorrt

    return tensorrt.make("trt", precision, sources)


def _trt_rtx(precision: Precision, sources: Sources) -> Variant:
    from edgekit.export import tensorrt

    return tensorrt.make("trt-rtx", precision, sources)


MAKERS: dict[str, Maker] = {"onnx": _onnx, "openvino": _openvino, "trt": _trt, "trt-rtx": _trt_rtx}
