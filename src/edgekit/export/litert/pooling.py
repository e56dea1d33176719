"""Pooling over height and width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.convolutions import pad, padding, window
from edgekit.export.litert.graph import RELU, RELU6, SAME, VALID, LiteTensor
from edgekit.export.litert.layout import NHWC, ordered
from edgekit.export.litert.lowering import Lower, Lowering, Node

_LOWEST = float(np.finfo(np.float32).min)


def _max_pool(state: Lowering, node: Node) -> None:
    if len([name for name in node.outputs if name]) > 1 or set(node.get("dilations", [1])) != {1}:
        raise state.refuse("its indices or its dilation")
    image, kernel = _image(state, node)
    output = ordered(state.sides(node.outputs[0]), NHWC)
    strides, _, pads = window(state, node, image.shape[1:3], kernel, [s[0] for s in output[1:3]])
    how = padding(image.shape[1:3], kernel, strides, pads)
    if how is None:
        # Behind a ReLU a border of zeros is never the largest alone, and PAD is quantized and delegated where PADV2 is not.
        fill = 0.0 if _at_least_zero(state, node.inputs[0]) else _LOWEST
        image, how = pad(state, image, pads, fill, source=node.inputs[0]), VALID
    state.result(_pooled(state, "MAX_POOL_2D", image, kernel, strides, how, node), NHWC)


def _average_pool(state: Lowering, node: Node) -> None:
    image, kernel = _image(state, node)
    output = ordered(state.sides(node.outputs[0]), NHWC)
    size, counts = image.shape[1:3], [s[0] for s in output[1:3]]
    strides, _, pads = window(state, node, size, kernel, counts)
    how = padding(size, kernel, strides, pads)
    given = tuple(node.get("pads", [0] * 4)) if node.text("auto_pad", "NOTSET") == "NOTSET" else pads
    include = bool(node.get("count_include_pad", 0))
    if how is not None and not (include and how == SAME):
        state.result(_pooled(state, "AVERAGE_POOL_2D", image, kernel, strides, how, node), NHWC)
        return
    summed = _pooled(state, "AVERAGE_POOL_2D", pad(state, image, pads), kernel, strides, VALID, node)
    rows, columns = (
        _counted(size[i], kernel[i], strides[i], counts[i], (given[i], given[i + 2]) if include else (0, 0), pads[i])
        for i in range(2)
    )
    factors = (kernel[0] * kernel[1] / (rows[:, None] * columns[None, :])).astype(np.float32)[None, :, :, None]
    if not np.all(factors == 1):
        factor = state.constant(factors)
        summed = state.emit("MUL", [summed, factor], summed.sides)
    state.result(summed, NHWC)


def _counted(
    size: int, kernel: int, stride: int, count: int, also: tuple[int, int], before: int
) -> NDArray[np.float64]:
    """How many pixels of each window count: those of the image and of the padding that does, but none beyond that."""
    starts = np.arange(count) * stride - before
    return (np.minimum(starts + kernel, size + also[1]) - np.maximum(starts, -also[0])).astype(np.float64)


def _image(state: Lowering, node: Node) -> tuple[LiteTensor, list[int]]:
    kernel = list(node.get("kernel_shape", []))
    if len(kernel) != 2:
        raise state.refuse(f"it pools over {len(kernel)} axes")
    return state.physical(node.inputs[0], NHWC), kernel


def _pooled(
    state: Lowering, kind: str, image: LiteTensor, kernel: list[int], strides: list[int], how: int, node: Node
) -> LiteTensor:
    return state.emit(
        kind, [image], ordered(state.sides(node.outputs[0]), NHWC), padding=how, filterHeight=kernel[0],
        filterWidth=kernel[1], strideH=strides[0], strideW=strides[1],
    )  # fmt: skip


def _at_least_zero(state: Lowering, name: str) -> bool:
    maker = state.graph.maker(state.value(name).tensor)
    if maker is None:
        return False
    return maker.kind in {"RELU", "RELU6", "LOGISTIC"} or maker.options.get("fusedActivationFunction") in {RELU, RELU6}


def _global(kind: str) -> Lower:
    def lower(state: Lowering, node: Node) -> None:
        image = state.physical(node.inputs[0], NHWC)
        if len(image.sides) != 4:
            raise state.refuse(f"over {len(image.sides) - 2} axes")
        axes = state.constant(np.array([1, 2], np.int32))
        output = ordered(state.sides(node.outputs[0]), NHWC)
        state.result(state.emit(kind, [image, axes], output, keepDims=True), NHWC)

    return lower


TABLE: dict[str, Lower] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global("MEAN"),
    "GlobalMaxPool": _global("REDUCE_MAX"),
}
