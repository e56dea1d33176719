"""Operators that work number by number, and activations made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.graph import RELU, RELU6, RELU_N1_TO_1, LiteTensor
from edgekit.export.litert.layout import ONE, Order, elements, ordered
from edgekit.export.litert.lowering import Lower, Lowering, Node, Value
from edgekit.export.litert.patterns import GELU


def binary(state: Lowering, kind: str, names: Sequence[str], output: str) -> Value:
    """Two values, one by one, with the broadcasting that both formats have."""
    sides = state.sides(output)
    order = common_order(state, names, len(sides))
    tensors = [operand(state, name, order) for name in names]
    return Value(state.emit(kind, tensors, ordered(sides, order)), order)


def common_order(state: Lowering, names: Sequence[str], rank: int) -> Order:
    """The order that moves the least: that of the largest value that is computed."""
    computed = [name for name in names if state.array(name) is None]
    largest = max(computed, key=lambda name: (len(state.sides(name)) == rank, elements(state.sides(name))))
    order, missing = state.value(largest).order, rank - len(state.sides(largest))
    return (*range(missing), *(axis + missing for axis in order))


def operand(state: Lowering, name: str, order: Order) -> LiteTensor:
    """A value in an order of as many axes or more, those that it lacks left out where they stand in front, else of one element."""
    missing = len(order) - len(state.sides(name))
    array = state.array(name)
    if array is not None:
        whole = array.reshape((1,) * missing + array.shape).transpose(order)
        return state.constant(squeezed(whole))
    own = tuple(axis - missing for axis in order if axis >= missing)
    tensor = state.physical(name, own)
    if all(axis >= missing for axis in order[missing:]):
        return tensor
    sides = state.sides(name)
    return state.reshape(tensor, tuple(ONE if axis < missing else sides[axis - missing] for axis in order))


def squeezed(array: NDArray[Any]) -> NDArray[Any]:
    """The smallest constant that broadcasts to the same: axes along which nothing changes have one element, none stand in front."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if array.shape[axis] > 1 and (array == first).all():
            array = first
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array.reshape(1) if array.ndim == 0 else array


def _binary(kind: str) -> Lower:
    def lower(state: Lowering, node: Node) -> None:
        if kind == "MUL" and _is_number(state, node.inputs[1], 1.0) and _same_shape(state, node):
            state.alias(node.outputs[0], state.value(node.inputs[0]))
            return
        value = binary(state, kind, node.inputs, node.outputs[0])
        state.result(value.tensor, value.order)

    return lower


def _is_number(state: Lowering, name: str, number: float) -> bool:
    array = state.array(name)
    return array is not None and bool((array == number).all())


def _same_shape(state: Lowering, node: Node) -> bool:
    return state.array(node.inputs[0]) is None and state.sides(node.inputs[0]) == state.sides(node.outputs[0])


def _unary(kind: str, **options: Any) -> Lower:
    def lower(state: Lowering, node: Node) -> None:
        value = state.value(node.inputs[0])
        state.result(state.emit(kind, [value.tensor], value.tensor.sides, **options), value.order)

    return lower


def step(state: Lowering, kind: str, tensor: LiteTensor, number: float | NDArray[np.float32]) -> LiteTensor:
    """A tensor and a constant that broadcasts to it."""
    other = state.constant(np.atleast_1d(np.asarray(number, np.float32)))
    return state.emit(kind, [tensor, other], tensor.sides)


def _relu(state: Lowering, node: Node) -> None:
    _bounded(state, node, 0.0, None)


def _clip(state: Lowering, node: Node) -> None:
    low, high = (float(state.known(node.inputs[i], "bound").reshape(-1)[0]) if node.has(i) else None for i in (1, 2))
    largest = float(np.finfo(np.float32).max)
    _bounded(
        state,
        node,
        None if low is not None and low <= -largest else low,
        None if high is not None and high >= largest else high,
    )


_ACTIVATIONS = {(0.0, None): RELU, (0.0, 6.0): RELU6, (-1.0, 1.0): RELU_N1_TO_1}
_KINDS = {RELU: "RELU", RELU6: "RELU6", RELU_N1_TO_1: "RELU_N1_TO_1"}


def _bounded(state: Lowering, node: Node, low: float | None, high: float | None) -> None:
    activation = _ACTIVATIONS.get((low, high)) if low is not None else None
    if activation is not None and state.fuse(node.inputs[0], activation):
        return
    value = state.value(node.inputs[0])
    tensor = value.tensor
    if activation is not None:
        tensor = state.emit(_KINDS[activation], [tensor], tensor.sides)
    elif (low, high) == (0.0, 1.0):
        tensor = state.emit("RELU_0_TO_1", [tensor], tensor.sides)
    else:
        tensor = tensor if low is None else step(state, "MAXIMUM", tensor, low)
        tensor = tensor if high is None else step(state, "MINIMUM", tensor, high)
    if tensor is value.tensor:
        state.alias(node.outputs[0], value)
        return
    state.result(tensor, value.order)


def _hard_sigmoid(state: Lowering, node: Node) -> None:
    """max(0, min(1, alpha x + beta)) = relu6(6 alpha x + 6 beta) / 6, which LiteRT has kernels for, in INT8 too."""
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    value = state.value(node.inputs[0])
    tensor = value.tensor if abs(alpha - 1 / 6) < 1e-6 else step(state, "MUL", value.tensor, 6 * alpha)
    tensor = step(state, "ADD", tensor, 6 * beta)
    state.graph.operators[-1].options["fusedActivationFunction"] = RELU6
    state.result(step(state, "MUL", tensor, 1 / 6), value.order)


def _elu(state: Lowering, node: Node) -> None:
    if node.get("alpha", 1.0) != 1.0:
        raise state.refuse("its alpha is not 1")
    _unary("ELU")(state, node)


def _leaky_relu(state: Lowering, node: Node) -> None:
    _unary("LEAKY_RELU", alpha=float(node.get("alpha", 0.01)))(state, node)


def _prelu(state: Lowering, node: Node) -> None:
    """max(0, x) + slope min(0, x); the slope has one number a channel, or one."""
    slope = state.known(node.inputs[1], "slope").astype(np.float32)
    if slope.size == 1:
        _unary("LEAKY_RELU", alpha=float(slope.reshape(-1)[0]))(state, node)
        return
    value = state.value(node.inputs[0])
    factors = squeezed(slope.reshape((1,) * (len(value.order) - slope.ndim) + slope.shape).transpose(value.order))
    positive = state.emit("RELU", [value.tensor], value.tensor.sides)
    negative = step(state, "MUL", step(state, "MINIMUM", value.tensor, 0.0), factors)
    state.result(state.emit("ADD", [positive, negative], value.tensor.sides), value.order)


def _softplus(state: Lowering, node: Node) -> None:
    """log(1 + e^x) = max(0, x) + log(1 + e^-|x|), which does not overflow."""
    value = state.value(node.inputs[0])
    tensor, sides = value.tensor, value.tensor.sides
    small = state.emit("EXP", [state.emit("NEG", [state.emit("ABS", [tensor], sides)], sides)], sides)
    rest = state.emit("LOG", [step(state, "ADD", small, 1.0)], sides)
    state.result(state.emit("ADD", [state.emit("RELU", [tensor], sides), rest], sides), value.order)


def _pow(state: Lowering, node: Node) -> None:
    exponent = state.array(node.inputs[1])
    value = state.value(node.inputs[0])
    if exponent is None or exponent.size != 1:
        raise state.refuse("its exponent is not one number")
    number, tensor = float(exponent.reshape(-1)[0]), value.tensor
    kinds = {2.0: "SQUARE", 0.5: "SQRT", -0.5: "RSQRT"}
    if number in kinds:
        state.result(state.emit(kinds[number], [tensor], tensor.sides), value.order)
    elif number in {3.0, 4.0}:
        square = state.emit("SQUARE", [tensor], tensor.sides)
        other = square if number == 4.0 else tensor
        state.result(state.emit("MUL", [square, other], tensor.sides), value.order)
    else:
        state.result(step(state, "POW", tensor, number), value.order)


def _reciprocal(state: Lowering, node: Node) -> None:
    value = state.value(node.inputs[0])
    one = state.constant(np.ones(1, np.float32))
    state.result(state.emit("DIV", [one, value.tensor], value.tensor.sides), value.order)


def _cast(state: Lowering, node: Node) -> None:
    """Pixels become numbers by DEQUANTIZE with scale 1: CAST is not in XNNPACK, nor in TFLite Micro for uint8."""
    value = state.value(node.inputs[0])
    before, after = state.facts.dtypes[node.inputs[0]], state.facts.dtypes[node.outputs[0]]
    if after != np.float32:
        raise state.refuse(f"from {before} to {after}")
    if before == np.float32:
        state.alias(node.outputs[0], value)
    elif value.tensor.scale is not None:
        state.result(state.emit("DEQUANTIZE", [value.tensor], value.tensor.sides), value.order)
    else:
        raise state.refuse(f"from {before} to {after}")


def _batch_norm(state: Lowering, node: Node) -> None:
    """What no convolution took up: a factor and a summand a channel."""
    value = state.value(node.inputs[0])
    scale, shift, mean, variance = (state.known(name, "statistics").astype(np.float64) for name in node.inputs[1:5])
    gain = scale / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
    shape = [1, -1, *[1] * (len(value.order) - 2)]
    factor, summand = (
        squeezed(array.astype(np.float32).reshape(shape).transpose(value.order))
        for array in (gain, shift - mean * gain)
    )
    state.result(step(state, "ADD", step(state, "MUL", value.tensor, factor), summand), value.order)


def _where(state: Lowering, node: Node) -> None:
    """With a mask that is known: a factor and a summand, where what it puts in is finite."""
    mask = state.known(node.inputs[0], "condition")
    taken, other = (state.array(name) for name in node.inputs[1:3])
    if (taken is None) == (other is None):
        raise state.refuse("both sides of it are computed")
    number = other if taken is None else taken
    keep = (mask if taken is None else ~mask).astype(np.float32)
    source = node.inputs[1] if taken is None else node.inputs[2]
    if number is None or not np.isfinite(number).all():
        raise state.refuse("it puts in what is not finite")
    value, rank = state.value(source), len(state.sides(node.outputs[0]))
    if state.sides(source) != state.sides(node.outputs[0]):
        raise state.refuse("it repeats what it chooses from")
    factor, summand = (
        squeezed(array.reshape((1,) * (rank - array.ndim) + array.shape).transpose(value.order))
        for array in (keep, ((1 - keep) * number).astype(np.float32))
    )
    state.result(step(state, "ADD", step(state, "MUL", value.tensor, factor), summand), value.order)


def _many(kind: str) -> Lower:
    """Sum, Max, Min of ONNX: of any number of values."""

    def lower(state: Lowering, node: Node) -> None:
        output = node.outputs[0]
        if len(node.inputs) == 1:
            state.alias(output, state.value(node.inputs[0]))
            return
        if len(node.inputs) > 2 and any(state.sides(name) != state.sides(output) for name in node.inputs):
            raise state.refuse("several values of different shapes")
        value = binary(state, kind, node.inputs[:2], output)
        for name in node.inputs[2:]:
            other = state.physical(name, value.order)
            value = Value(state.emit(kind, [value.tensor, other], value.tensor.sides), value.order)
        state.result(value.tensor, value.order)

    return lower


TABLE: dict[str, Lower] = {
    "Add": _binary("ADD"), "Sub": _binary("SUB"), "Mul": _binary("MUL"), "Div": _binary("DIV"),
    "Sum": _many("ADD"), "Max": _many("MAXIMUM"), "Min": _many("MINIMUM"),
    "Relu": _relu, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "HardSwish": _unary("HARD_SWISH"),
    "Sigmoid": _unary("LOGISTIC"), "Tanh": _unary("TANH"), GELU: _unary("GELU", approximate=False),
    "Elu": _elu, "LeakyRelu": _leaky_relu, "PRelu": _prelu, "Softplus": _softplus,
    "Sqrt": _unary("SQRT"), "Exp": _unary("EXP"), "Log": _unary("LOG"), "Abs": _unary("ABS"), "Neg": _unary("NEG"),
    "Floor": _unary("FLOOR"), "Ceil": _unary("CEIL"), "Sin": _unary("SIN"), "Cos": _unary("COS"),
    "Pow": _pow, "Reciprocal": _reciprocal, "Cast": _cast, "BatchNormalization": _batch_norm, "Where": _where,
}  # fmt: skip
