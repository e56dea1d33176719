"""What an export can make: targets and their precisions. Imports no converter, so that the command line can ask it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.bundle import Precision, RuntimeName, Variant
from edgekit.errors import ExportError, near

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
# target -> what runs its files.
RUNTIMES: dict[str, RuntimeName] = {
    "onnx": "onnxruntime", "openvino": "openvino", "trt": "tensorrt", "trt-rtx": "tensorrt-rtx",
}  # fmt: skip
# GPUs that TensorRT for RTX builds for by default, by compute capability: Ampere, Ada, Blackwell. Turing (7.5) must be asked for: with it
# among them nothing is computed in INT8, and FP32 matrix products are refused.
COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")


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
