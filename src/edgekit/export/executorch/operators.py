"""The operators of ONNX in torch: those that work number by number, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from edgekit.export.executorch import layers, moves
from edgekit.export.executorch.network import Compute, OnnxNetwork
from edgekit.export.litert.lowering import Node
from edgekit.export.litert.patterns import GELU


def _unary(function: Callable[[Tensor], Tensor]) -> Compute:
    return lambda net, node: function(net.value(node.inputs[0]))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Compute:
    """Two values; a constant gets as many axes as the other has, which XNNPACK needs to broadcast."""

    def compute(net: OnnxNetwork, node: Node) -> Tensor:
        rank = max(net.rank(name) for name in node.inputs)
        return function(*(net.ranked(name, rank) for name in node.inputs))

    return compute


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Compute:
    """Sum, Max, Min of ONNX: of any number of values."""

    def compute(net: OnnxNetwork, node: Node) -> Tensor:
        rank = max(net.rank(name) for name in node.inputs)
        found = net.ranked(node.inputs[0], rank)
        for name in node.inputs[1:]:
            found = function(found, net.ranked(name, rank))
        return found

    return compute


def _clip(net: OnnxNetwork, node: Node) -> Tensor:
    low, high = (float(net.numbers(i)[0]) if node.has(i) else bound for i, bound in ((1, -math.inf), (2, math.inf)))
    value, largest = net.value(node.inputs[0]), float(np.finfo(np.float32).max)
    if high >= largest:
        return functional.relu(value) if low == 0 else value if low <= -largest else value.clamp(min=low)
    return value.clamp(max=high) if low <= -largest else functional.hardtanh(value, low, high)


def _hard_sigmoid(net: OnnxNetwork, node: Node) -> Tensor:
    """max(0, min(1, alpha x + beta)) in operators that XNNPACK has."""
    value = net.value(node.inputs[0])
    return functional.hardtanh(value * float(node.get("alpha", 0.2)) + float(node.get("beta", 0.5)), 0.0, 1.0)


def _prelu(net: OnnxNetwork, node: Node) -> Tensor:
    value, slope = net.value(node.inputs[0]), net.ranked(node.inputs[1], net.rank(node.inputs[0]))
    return functional.relu(value) + slope * value.clamp(max=0.0)


def _softplus(net: OnnxNetwork, node: Node) -> Tensor:
    """log(1 + e^x) = max(0, x) + log(1 + e^-|x|), which does not overflow."""
    value = net.value(node.inputs[0])
    return functional.relu(value) + torch.log(torch.exp(-value.abs()) + 1.0)


def _pow(net: OnnxNetwork, node: Node) -> Tensor:
    exponents = net.array(node.inputs[1])
    value = net.value(node.inputs[0])
    if exponents.size != 1:
        raise net.refuse("its exponent is not one number")
    number = float(exponents.reshape(-1)[0])
    if number in {2.0, 3.0}:
        return value * value if number == 2.0 else value * value * value
    return value.sqrt() if number == 0.5 else value**number


_DTYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float32, TensorProto.FLOAT16: torch.float32,
    TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32, TensorProto.BOOL: torch.bool, TensorProto.UINT8: torch.uint8,
}  # fmt: skip


def _cast(net: OnnxNetwork, node: Node) -> Tensor:
    if node.get("to", 0) not in _DTYPES:
        raise net.refuse(f"to {helper.tensor_dtype_to_string(node.get('to', 0))}")
    return net.value(node.inputs[0]).to(_DTYPES[node.get("to", 0)])


def _where(net: OnnxNetwork, node: Node) -> Tensor:
    mask, one, other = (net.value(name) for name in node.inputs[:3])
    return torch.where(mask, one, other)


TABLE: dict[str, Compute] = {
    "Add": _binary(torch.add), "Sub": _binary(torch.sub), "Mul": _binary(torch.mul), "Div": _binary(torch.div),
    "Sum": _many(torch.add), "Max": _many(torch.maximum), "Min": _many(torch.minimum),
    "Relu": _unary(functional.relu), "Clip": _clip, "HardSigmoid": _hard_sigmoid, "HardSwish": _unary(functional.hardswish),
    "Sigmoid": _unary(torch.sigmoid), "Tanh": _unary(torch.tanh), GELU: _unary(functional.gelu),
    "Elu": lambda net, node: functional.elu(net.value(node.inputs[0]), float(node.get("alpha", 1.0))),
    "LeakyRelu": lambda net, node: functional.leaky_relu(net.value(node.inputs[0]), float(node.get("alpha", 0.01))),
    "PRelu": _prelu, "Softplus": _softplus, "Pow": _pow, "Cast": _cast, "Where": _where,
    "Sqrt": _unary(torch.sqrt), "Exp": _unary(torch.exp), "Log": _unary(torch.log), "Abs": _unary(torch.abs), "Erf": _unary(torch.erf),
    "Neg": _unary(torch.neg), "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos), "Reciprocal": _unary(torch.reciprocal),
    "Identity": _unary(lambda value: value), "Dropout": _unary(lambda value: value),
    **layers.TABLE, **moves.TABLE,
}  # fmt: skip
