"""Linear layers, products of two matrices, softmax, normalization and means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.elementwise import step
from edgekit.export.litert.graph import Sides
from edgekit.export.litert.layout import ONE, Order, ordered, plain, with_last
from edgekit.export.litert.lowering import Lower, Lowering, Node, Value


def linear(
    state: Lowering,
    value: Value,
    sides: Sides,
    axis: int,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
) -> Value:
    """Multiply what lies along one axis by a matrix.

    Args:
        state: what is built.
        value: what is multiplied.
        sides: of it, logical.
        axis: of it, logical.
        weights: (out, in).
        bias: (out,).
    """
    order = with_last(value.order, axis)
    tensor = state.moved(value, sides, order)
    output = tuple((len(weights),) * 2 if a == axis else side for a, side in enumerate(sides))
    added = None if bias is None else state.constant(bias.astype(np.float32))
    kernel = state.constant(weights.astype(np.float32))
    result = state.emit("FULLY_CONNECTED", [tensor, kernel, added], ordered(output, order), keepNumDims=len(sides) > 2)
    return Value(result, order)


def _gemm(state: Lowering, node: Node) -> None:
    if node.get("transA", 0):
        raise state.refuse("transA")
    weights = state.known(node.inputs[1], "weight").astype(np.float32) * float(node.get("alpha", 1.0))
    weights = weights if node.get("transB", 0) else weights.T
    bias = None
    if node.has(2):
        bias = state.known(node.inputs[2], "bias").astype(np.float32) * float(node.get("beta", 1.0))
        if bias.ndim == 2 and len(bias) > 1:
            raise state.refuse("its bias differs from image to image")
        bias = np.broadcast_to(bias.reshape(-1), (len(weights),))
    name = node.inputs[0]
    value = linear(state, state.value(name), state.sides(name), 1, weights, bias)
    state.result(value.tensor, value.order)


def _matmul(state: Lowering, node: Node) -> None:
    first, second = node.inputs
    one, other = state.array(first), state.array(second)
    if other is not None and other.ndim == 2 and len(state.sides(first)) >= 2:
        axis = len(state.sides(first)) - 1
        value = linear(state, state.value(first), state.sides(first), axis, other.T, None)
    elif one is not None and one.ndim == 2 and len(state.sides(second)) >= 2:
        axis = len(state.sides(second)) - 2
        value = linear(state, state.value(second), state.sides(second), axis, one, None)
    else:
        value = _batched(state, node)
    state.result(value.tensor, value.order)


def _batched(state: Lowering, node: Node) -> Value:
    """Of two values that are computed; the second may lie transposed."""
    first, second = node.inputs
    rank = len(state.sides(node.outputs[0]))
    if min(len(state.sides(first)), len(state.sides(second))) < 2:
        raise state.refuse("of a vector")
    tensors, turned = [], False
    for name in node.inputs:
        own = len(state.sides(name))
        order = plain(own)
        if name == second and state.array(name) is None and _lies_turned(state.value(name).order):
            order, turned = (*order[:-2], own - 1, own - 2), True
        tensor = state.physical(name, order)
        tensors.append(state.reshape(tensor, (*[ONE] * (rank - own), *tensor.sides)))
    result = state.emit("BATCH_MATMUL", tensors, state.sides(node.outputs[0]), adjX=False, adjY=turned)
    return Value(result, plain(rank))


def _lies_turned(order: Order) -> bool:
    """Whether the last two axes stand in the opposite order in memory."""
    rank = len(order)
    return order.index(rank - 1) < order.index(rank - 2)


def _softmax(state: Lowering, node: Node) -> None:
    name = node.inputs[0]
    axis = int(node.get("axis", -1)) % len(state.sides(name))
    order = with_last(state.value(name).order, axis)
    tensor = state.physical(name, order)
    result = state.emit("SOFTMAX", [tensor], tensor.sides, beta=1.0)
    if node.op == "LogSoftmax":
        result = state.emit("LOG", [result], tensor.sides)
    state.result(result, order)


def reduce(state: Lowering, kind: str, value: Value, axes: Sequence[int], *, keep: bool = True) -> Value:
    """A mean, sum or maximum over logical axes."""
    places = sorted(value.order.index(axis) for axis in axes)
    sides = value.tensor.sides
    where = state.constant(np.array(places, np.int32))
    output = tuple(ONE if i in places else side for i, side in enumerate(sides) if keep or i not in places)
    tensor = state.emit(kind, [value.tensor, where], output, keepDims=keep)
    if keep:
        return Value(tensor, value.order)
    left = sorted(axis for axis in value.order if axis not in axes)
    return Value(tensor, tuple(left.index(axis) for axis in value.order if axis not in axes))


def _axes(state: Lowering, node: Node) -> list[int]:
    rank = len(state.sides(node.inputs[0]))
    given = node.get("axes", None)
    if given is None and node.has(1):
        given = state.known(node.inputs[1], "axes").reshape(-1).tolist()
    return sorted({int(axis) % rank for axis in given}) if given else list(range(rank))


def _reduce(kind: str) -> Lower:
    def lower(state: Lowering, node: Node) -> None:
        axes, keep = _axes(state, node), bool(node.get("keepdims", 1))
        value = state.value(node.inputs[0])
        if 0 in axes:
            raise state.refuse("over the batch")
        if node.op == "ReduceL2":
            value = Value(state.emit("SQUARE", [value.tensor], value.tensor.sides), value.order)
        value = reduce(state, kind, value, axes, keep=keep)
        if node.op == "ReduceL2":
            value = Value(state.emit("SQRT", [value.tensor], value.tensor.sides), value.order)
        state.result(value.tensor, value.order)

    return lower


def normalized(state: Lowering, value: Value, axes: Sequence[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over logical axes (Ba et al. 2016, arXiv 1607.06450, equation 4)."""
    mean = reduce(state, "MEAN", value, axes)
    sides = value.tensor.sides
    centered = state.emit("SUB", [value.tensor, mean.tensor], sides)
    square = state.emit("SQUARE", [centered], sides)
    variance = reduce(state, "MEAN", Value(square, value.order), axes)
    inverse = state.emit("RSQRT", [step(state, "ADD", variance.tensor, epsilon)], variance.tensor.sides)
    return Value(state.emit("MUL", [centered, inverse], sides), value.order)


def _layer_norm(state: Lowering, node: Node) -> None:
    value, rank = state.value(node.inputs[0]), len(state.sides(node.inputs[0]))
    first = int(node.get("axis", -1)) % rank
    found = normalized(state, value, range(first, rank), float(node.get("epsilon", 1e-5)))
    tensor = found.tensor
    for i, kind in ((1, "MUL"), (2, "ADD")):
        if node.has(i):
            array = state.known(node.inputs[i], "weight").astype(np.float32)
            tensor = step(state, kind, tensor, _along(array, value.order))
    state.result(tensor, value.order)


def _instance_norm(state: Lowering, node: Node) -> None:
    """Over all axes behind the channels; GroupNorm comes as one, between two reshapes."""
    value, rank = state.value(node.inputs[0]), len(state.sides(node.inputs[0]))
    found = normalized(state, value, range(2, rank), float(node.get("epsilon", 1e-5)))
    tensor = found.tensor
    for i, kind, idle in ((1, "MUL", 1.0), (2, "ADD", 0.0)):
        array = state.known(node.inputs[i], "weight").astype(np.float32)
        if not (array == idle).all():
            tensor = step(state, kind, tensor, _along(array.reshape(-1, *[1] * (rank - 2)), value.order))
    state.result(tensor, value.order)


def _along(array: NDArray[np.float32], order: Order) -> NDArray[np.float32]:
    """A constant that stands for the last logical axes, in a physical order."""
    whole = array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order)
    while whole.ndim > 1 and whole.shape[0] == 1:
        whole = whole[0]
    return whole


def _lp_normalization(state: Lowering, node: Node) -> None:
    if node.get("p", 2) != 2:
        raise state.refuse("of another norm than 2")
    value, rank = state.value(node.inputs[0]), len(state.sides(node.inputs[0]))
    square = Value(state.emit("SQUARE", [value.tensor], value.tensor.sides), value.order)
    total = reduce(state, "SUM", square, [int(node.get("axis", -1)) % rank])
    length = state.emit("SQRT", [total.tensor], total.tensor.sides)
    state.result(state.emit("DIV", [value.tensor, length], value.tensor.sides), value.order)


TABLE: dict[str, Lower] = {
    "Gemm": _gemm, "MatMul": _matmul, "Softmax": _softmax, "LogSoftmax": _softmax,
    "ReduceMean": _reduce("MEAN"), "ReduceSum": _reduce("SUM"), "ReduceMax": _reduce("REDUCE_MAX"),
    "ReduceMin": _reduce("REDUCE_MIN"), "ReduceL2": _reduce("SUM"), "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm, "LpNormalization": _lp_normalization,
}  # fmt: skip
