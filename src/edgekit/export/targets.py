"""What an export can make: targets and their precisions, what each variant is made from, and who makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import BundleFile, Precision, Variant
from edgekit.errors import ExportError, near
from edgekit.export import openvino
from edgekit.export.calibration import Calibration
from edgekit.export.families import Served
from edgekit.export.ladder import climb
from edgekit.export.verify import Bounds, Reference, verify
from edgekit.export.ways import Workshop

# target -> the precisions that it has, and those that are made where none is asked for.
TARGETS: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "trt": ("fp32", "fp16", "int8"),
    "trt-rtx": ("fp32", "fp16", "int8"),
}
DEFAULTS: dict[str, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp16", "int8"),
    "trt": ("fp16", "int8"),
    "trt-rtx": ("fp16", "int8"),
}
# GPUs that TensorRT for RTX builds for by default, by compute capability: Ampere, Ada, Blackwell. Turing (7.5) must be asked for: with it
# among them nothing is computed in INT8, and FP32 matrix products are refused.
COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")


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


def split(id_: str) -> tuple[str, Precision]:
    """Target and precision of a variant's id: `trt-rtx-fp16` is fp16 for trt-rtx."""
    target, _, precision = id_.rpartition("-")
    return target, next(p for p in TARGETS[target] if p == precision)


def plan(targets: Iterable[str], precisions: Sequence[str] = ()) -> list[str]:
    """The ids of the variants that a user asks for, in a fixed order.

    Raises:
        ExportError: a target or precision is unknown, or a target has none of the precisions.
    """
    ids = []
    for target in dict.fromkeys(targets):
        if target not in TARGETS:
            raise ExportError(f"unknown target {target}", near(target, TARGETS) or f"accepted: {', '.join(TARGETS)}")
        chosen = [p for p in TARGETS[target] if p in precisions] if precisions else list(DEFAULTS[target])
        ids += [f"{target}-{precision}" for precision in chosen]
    had = {precision for target in targets for precision in TARGETS[target]}
    if lacking := [p for p in precisions if p not in had]:
        raise ExportError(
            f"no target asked for has the precision {', '.join(lacking)}",
            "; ".join(f"{target} has {', '.join(has)}" for target, has in TARGETS.items()),
        )
    return ids


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Variants as `TARGETS` lists them; ids that it does not know come last."""
    order = {f"{target}-{precision}": i for i, (target, precision) in enumerate(_every())}
    return sorted(variants, key=lambda v: (order.get(v.id, len(order)), v.id))


def _every() -> list[tuple[str, Precision]]:
    return [(target, precision) for target, has in TARGETS.items() for precision in has]


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
