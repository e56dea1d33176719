"""The operators of ONNX in torch, in the form that ExecuTorch's XNNPACK partitioner recognizes where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from edgekit.export.executorch.network import HIGHEST, LOWEST, OPERATORS, Compute, OnnxNetwork
from edgekit.export.litert.lowering import Node
from edgekit.export.litert.patterns import GELU

Pads = list[int]  # begins, then ends


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


def _batch_norm(net: OnnxNetwork, node: Node) -> Tensor:
    """What no convolution took up: a factor and a summand per channel."""
    scale, shift, mean, variance = (net.array(name).astype(np.float64) for name in node.inputs[1:5])
    gain = scale / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
    value = net.value(node.inputs[0])
    shape = [1, -1, *[1] * (value.ndim - 2)]
    factor = net.constant(node.inputs[1], "gain", lambda _: gain.reshape(shape))
    return value * factor + net.constant(node.inputs[2], "shift", lambda _: (shift - mean * gain).reshape(shape))


def _where(net: OnnxNetwork, node: Node) -> Tensor:
    mask, one, other = (net.value(name) for name in node.inputs[:3])
    return torch.where(mask, one, other)


# Layers


def _conv(net: OnnxNetwork, node: Node) -> Tensor:
    value, weight = net.value(node.inputs[0]), net.value(node.inputs[1])
    kernel = list(weight.shape[2:])
    strides, dilations = list(node.get("strides", [1] * len(kernel))), list(node.get("dilations", [1] * len(kernel)))
    if len(kernel) > 2:
        raise net.refuse(f"it convolves over {len(kernel)} axes")
    pads = _pads(node, list(value.shape[2:]), kernel, strides, dilations)
    value, both = _padded(value, pads, 0.0)
    convolve = functional.conv2d if len(kernel) == 2 else functional.conv1d
    return convolve(value, weight, _bias(net, node), strides, both, dilations, int(node.get("group", 1)))


def _bias(net: OnnxNetwork, node: Node) -> Tensor | None:
    return net.value(node.inputs[2]) if node.has(2) else None


def _pads(node: Node, size: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> Pads:
    auto = node.text("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.get("pads", [0] * (2 * len(kernel))))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    total = [
        max(0, (-(-i // s) - 1) * s + (k - 1) * d + 1 - i)
        for i, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small = [t // 2 for t in total]
    large = [t - t // 2 for t in total]
    return [*small, *large] if auto == "SAME_UPPER" else [*large, *small]


def _padded(value: Tensor, pads: Pads, fill: float) -> tuple[Tensor, list[int]]:
    """A value, and the padding that the operator adds on both sides; where the sides differ it is added here."""
    axes = len(pads) // 2
    begins, ends = pads[:axes], pads[axes:]
    if begins == ends:
        return value, begins
    both = [number for pair in reversed(list(zip(begins, ends, strict=True))) for number in pair]
    return functional.pad(value, both, value=fill), [0] * axes


def _conv_transpose(net: OnnxNetwork, node: Node) -> Tensor:
    value, weight = net.value(node.inputs[0]), net.value(node.inputs[1])
    axes = weight.ndim - 2
    pads = list(node.get("pads", [0] * (2 * axes)))
    if node.text("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", None) or axes != 2:
        raise net.refuse("auto_pad, output_shape or other axes than height and width")
    # Padding at the end cuts the output, as does less of torch's output padding.
    ends = [o + b - e for o, b, e in zip(node.get("output_padding", [0] * axes), pads[:axes], pads[axes:], strict=True)]
    strides = list(node.get("strides", [1] * axes))
    return functional.conv_transpose2d(
        value,
        weight,
        _bias(net, node),
        strides,
        pads[:axes],
        ends,
        int(node.get("group", 1)),
        node.get("dilations", [1] * axes),
    )


def _gemm(net: OnnxNetwork, node: Node) -> Tensor:
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    if node.get("transA", 0) or alpha != 1.0 or (beta != 1.0 and node.has(2)):
        raise net.refuse("transA, alpha or beta")
    bias = None
    if node.has(2):
        bias = net.constant(
            node.inputs[2], "vector", lambda array: np.broadcast_to(array.reshape(-1), net.columns(node))
        )
    return functional.linear(
        net.value(node.inputs[0]), net.matrix(node.inputs[1], turned=not node.get("transB", 0)), bias
    )


def _matmul(net: OnnxNetwork, node: Node) -> Tensor:
    first, second = node.inputs
    if second in net.known and net.known[second].ndim == 2:
        return functional.linear(net.value(first), net.matrix(second, turned=True), None)
    return net.value(first) @ net.value(second)


def _quantize(net: OnnxNetwork, node: Node) -> Tensor:
    scale, zero = _affine(net, node)
    return OPERATORS.quantize_per_tensor(  # type: ignore[no-any-return]
        net.value(node.inputs[0]), scale, zero, LOWEST, HIGHEST, torch.int8
    )


def _dequantize(net: OnnxNetwork, node: Node) -> Callable[[], Tensor]:
    """The function that makes a value float: each of its readers calls it."""
    integers, (scale, zero) = net.value(node.inputs[0]), _affine(net, node)
    return lambda: OPERATORS.dequantize_per_tensor(integers, scale, zero, LOWEST, HIGHEST, torch.int8)


def _affine(net: OnnxNetwork, node: Node) -> tuple[float, int]:
    """Scale and zero point of an activation, which is int8 in XNNPACK."""
    scale, zero = net.array(node.inputs[1]), net.array(node.inputs[2])
    if scale.size != 1:
        raise net.refuse("an activation with more than one scale")
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]) + (LOWEST if zero.dtype == np.uint8 else 0)


# Pooling and reduction


def _max_pool(net: OnnxNetwork, node: Node) -> Tensor:
    value, kernel = net.value(node.inputs[0]), list(node.get("kernel_shape", []))
    if len([name for name in node.outputs if name]) > 1 or len(kernel) != 2:
        raise net.refuse("its indices, or another number of axes than two")
    strides, dilations = list(node.get("strides", [1, 1])), list(node.get("dilations", [1, 1]))
    pads = _pads(node, list(value.shape[2:]), kernel, strides, dilations)
    if pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads[:2], kernel, strict=True)):
        return functional.max_pool2d(value, kernel, strides, pads[:2], dilations, bool(node.get("ceil_mode", 0)))
    both = [pads[1], pads[3], pads[0], pads[2]]
    padded = functional.pad(value, both, value=float(np.finfo(np.float32).min))
    return functional.max_pool2d(padded, kernel, strides, 0, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(net: OnnxNetwork, node: Node) -> Tensor:
    value, kernel = net.value(node.inputs[0]), list(node.get("kernel_shape", []))
    if len(kernel) != 2:
        raise net.refuse(f"it pools over {len(kernel)} axes")
    strides, include = list(node.get("strides", [1, 1])), bool(node.get("count_include_pad", 0))
    pads, ceil = _pads(node, list(value.shape[2:]), kernel, strides, [1, 1]), bool(node.get("ceil_mode", 0))
    if pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads[:2], kernel, strict=True)):
        return functional.avg_pool2d(value, kernel, strides, pads[:2], ceil, include)
    if ceil:
        raise net.refuse("uneven padding with ceil_mode")
    both = [pads[1], pads[3], pads[0], pads[2]]
    mean = functional.avg_pool2d(functional.pad(value, both), kernel, strides)
    if include:
        return mean
    sides = list(value.shape[2:])

    def factors() -> NDArray[np.float32]:  # of a window, one over the share that lies in the image
        shares = functional.avg_pool2d(functional.pad(torch.ones(1, 1, *sides), both), kernel, strides)
        return (1 / shares).numpy()

    return mean * net.extra("factors", factors)


def _axes(net: OnnxNetwork, node: Node) -> list[int]:
    rank = net.rank(node.inputs[0])
    given = node.get("axes", None)
    if given is None and node.has(1):
        given = net.numbers(1)
    return sorted({int(axis) % rank for axis in given}) if given else list(range(rank))


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Compute:
    return lambda net, node: function(net.value(node.inputs[0]), _axes(net, node), bool(node.get("keepdims", 1)))


def _global_mean(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    return value.mean(list(range(2, value.ndim)), keepdim=True)


def _length(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (value * value).sum(axes, keepdim=keep).sqrt()


def _softmax(net: OnnxNetwork, node: Node) -> Tensor:
    value, axis = net.value(node.inputs[0]), int(node.get("axis", -1))
    return functional.log_softmax(value, axis) if node.op == "LogSoftmax" else functional.softmax(value, axis)


def _layer_norm(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    first = int(node.get("axis", -1)) % value.ndim
    weight, bias = (net.value(node.inputs[i]) if node.has(i) else None for i in (1, 2))
    return functional.layer_norm(value, list(value.shape[first:]), weight, bias, float(node.get("epsilon", 1e-5)))


def _instance_norm(net: OnnxNetwork, node: Node) -> Tensor:
    """Over all axes behind the channels: GroupNorm comes as one, between two reshapes."""
    value = net.value(node.inputs[0])
    normal = functional.layer_norm(value, list(value.shape[2:]), None, None, float(node.get("epsilon", 1e-5)))
    shape = [-1, *[1] * (value.ndim - 2)]
    for name, change in ((node.inputs[1], torch.mul), (node.inputs[2], torch.add)):
        normal = change(normal, net.constant(name, "channels", lambda array: array.reshape(1, *shape)))
    return normal


def _lp_normalization(net: OnnxNetwork, node: Node) -> Tensor:
    if node.get("p", 2) != 2:
        raise net.refuse("of another norm than 2")
    value = net.value(node.inputs[0])
    return value / _length(value, [int(node.get("axis", -1))], True)


# What moves numbers


def _reshape(net: OnnxNetwork, node: Node) -> Tensor:
    value, sides = net.value(node.inputs[0]), net.numbers(1)
    if not node.get("allowzero", 0):
        sides = [int(value.shape[i]) if side == 0 else side for i, side in enumerate(sides)]
    return value.reshape(sides)


def _flatten(net: OnnxNetwork, node: Node) -> Tensor:
    value, axis = net.value(node.inputs[0]), int(node.get("axis", 1))
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape([math.prod(value.shape[:axis]), math.prod(value.shape[axis:])])


def _squeeze(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    gone = {a % value.ndim for a in net.numbers(1)} if node.has(1) else {i for i, s in enumerate(value.shape) if s == 1}
    return value.reshape([side for i, side in enumerate(value.shape) if i not in gone])


def _unsqueeze(net: OnnxNetwork, node: Node) -> Tensor:
    value, axes = net.value(node.inputs[0]), net.numbers(1)
    rank = value.ndim + len(axes)
    new, sides = {axis % rank for axis in axes}, iter(value.shape)
    return value.reshape([1 if i in new else next(sides) for i in range(rank)])


def _transpose(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    return value.permute(list(node.get("perm", range(value.ndim - 1, -1, -1))))


def _slice(net: OnnxNetwork, node: Node) -> Tensor:
    value, starts, ends = net.value(node.inputs[0]), net.numbers(1), net.numbers(2)
    axes = net.numbers(3) if node.has(3) else range(len(starts))
    steps = net.numbers(4) if node.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = int(value.shape[axis])
        if step > 0:
            first, last, _ = slice(start, end, step).indices(size)
            index = [slice(None)] * value.ndim
            index[axis] = slice(first, max(first, last), step)
            value = value[tuple(index)]
        elif len(range(*slice(start, None if end < -size else end, step).indices(size))) == size:
            value = value.flip(axis)
        else:
            raise net.refuse("a part of an axis backwards")
    return value


def _split(net: OnnxNetwork, node: Node) -> tuple[Tensor, ...]:
    value, axis = net.value(node.inputs[0]), int(node.get("axis", 0))
    sizes = net.numbers(1) if node.has(1) else [int(value.shape[axis]) // len(node.outputs)] * len(node.outputs)
    return tuple(value.split(sizes, axis))


def _gather(net: OnnxNetwork, node: Node) -> Tensor:
    """Of indices that are known; a single one takes its axis away."""
    value, axis = net.value(node.inputs[0]), int(node.get("axis", 0))
    indices = net.array(node.inputs[1]) % max(1, int(value.shape[axis]))
    if indices.ndim == 0:
        return value.select(axis, int(indices))
    if indices.ndim > 1:
        raise net.refuse("by a matrix of indices")
    return value.index_select(axis, net.constant(node.inputs[1], f"of {value.shape[axis]}", lambda _: indices))


def _concat(net: OnnxNetwork, node: Node) -> Tensor:
    return torch.cat([net.value(name) for name in node.inputs], int(node.get("axis", 0)))


def _expand(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    return value.expand(list(torch.broadcast_shapes(value.shape, tuple(net.numbers(1)))))


def _shape(net: OnnxNetwork, node: Node) -> Tensor:
    sides = list(net.value(node.inputs[0]).shape)
    return torch.tensor(sides[slice(node.get("start", 0), node.get("end", None))], dtype=torch.int64)


def _pad(net: OnnxNetwork, node: Node) -> Tensor:
    value, amounts = net.value(node.inputs[0]), net.numbers(1)
    axes = [a % value.ndim for a in net.numbers(3)] if node.has(3) else list(range(value.ndim))
    before, after = dict(zip(axes, amounts, strict=False)), dict(zip(axes, amounts[len(axes) :], strict=True))
    sides = [number for axis in reversed(range(value.ndim)) for number in (before.get(axis, 0), after.get(axis, 0))]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        node.text("mode", "constant")
    ]
    if mode == "constant":
        return functional.pad(value, sides, value=float(net.numbers(2)[0]) if node.has(2) else 0.0)
    if any(sides[4:]):
        raise net.refuse("of other axes than height and width")
    return functional.pad(value, sides[:4], mode=mode)


def _resize(net: OnnxNetwork, node: Node) -> Tensor:
    """By torch's own bilinear operator where it computes the same, else by an index or a matrix for each axis."""
    value, sizes = net.value(node.inputs[0]), _resized(net, node)
    mode, how = node.text("mode", "nearest"), node.text("coordinate_transformation_mode", "half_pixel")
    changed = [axis for axis in range(value.ndim) if sizes[axis] != value.shape[axis]]
    if set(changed) - {2, 3} or value.ndim != 4:
        raise net.refuse("of other axes than height and width")
    exact = [value.shape[axis] * scale == sizes[axis] for axis, scale in _scales(net, node).items()]
    aligned = how == "align_corners"
    if (
        mode == "linear"
        and (aligned or how == "half_pixel")
        and not node.get("antialias", 0)
        and all(exact)
        and changed
    ):
        return functional.interpolate(value, tuple(sizes[2:]), mode="bilinear", align_corners=aligned)
    for axis in changed:
        matrix = partial(resizing, net, node, axis, int(value.shape[axis]), sizes[axis])
        if mode == "nearest":
            value = value.index_select(axis, net.extra(f"indices {axis}", lambda matrix=matrix: matrix().argmax(1)))
        elif axis == 3:
            value = value @ net.extra("columns", lambda matrix=matrix: np.ascontiguousarray(matrix().T))
        else:
            value = net.extra("rows", matrix) @ value
    return value


def _scales(net: OnnxNetwork, node: Node) -> dict[int, float]:
    scales = net.numbers(2) if node.has(2) else []
    return dict(enumerate(scales))


def _resized(net: OnnxNetwork, node: Node) -> list[int]:
    value, scales = net.value(node.inputs[0]), _scales(net, node)
    if scales:
        return [math.floor(side * scales[axis]) for axis, side in enumerate(value.shape)]
    return [int(side) for side in net.numbers(3)]


def resizing(net: OnnxNetwork, node: Node, axis: int, size: int, target: int) -> NDArray[np.float32]:
    """The matrix (target, size) that resizes one axis, read off ONNX's own Resize of unit vectors."""
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    shape = helper.make_tensor("sizes", TensorProto.INT64, [4], [size, 1, target, 1])
    operands = ["x", "", "", "sizes"]
    if scales := _scales(net, node):  # what is computed depends on the scales, which the sizes only round
        shape = helper.make_tensor("sizes", TensorProto.FLOAT, [4], [1.0, 1.0, scales[axis], 1.0])
        operands = ["x", "", "sizes"]
    resize = helper.make_node("Resize", operands, ["y"], **{k: v for k, v in node.attributes.items() if k != "axes"})
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size, 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([resize], "resize", inputs, outputs, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quiet = session_options()
    quiet.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    units = np.eye(size, dtype=np.float32).reshape(size, 1, size, 1)
    return np.ascontiguousarray(session.run(["y"], {"x": units})[0].reshape(size, target).T)


def _depth_to_space(net: OnnxNetwork, node: Node) -> Tensor:
    value, size = net.value(node.inputs[0]), int(node.get("blocksize", 1))
    n, c, h, w = value.shape
    if node.text("mode", "DCR") == "DCR":
        moved = value.reshape([n, size, size, c // size**2, h, w]).permute([0, 3, 4, 1, 5, 2])
    else:
        moved = value.reshape([n, c // size**2, size, size, h, w]).permute([0, 1, 4, 2, 5, 3])
    return moved.reshape([n, c // size**2, h * size, w * size])


def _space_to_depth(net: OnnxNetwork, node: Node) -> Tensor:
    value, size = net.value(node.inputs[0]), int(node.get("blocksize", 1))
    n, c, h, w = value.shape
    moved = value.reshape([n, c, h // size, size, w // size, size]).permute([0, 3, 5, 1, 2, 4])
    return moved.reshape([n, c * size**2, h // size, w // size])


TABLE: dict[str, Compute] = {
    "Add": _binary(torch.add), "Sub": _binary(torch.sub), "Mul": _binary(torch.mul), "Div": _binary(torch.div),
    "Sum": _many(torch.add), "Max": _many(torch.maximum), "Min": _many(torch.minimum),
    "Relu": _unary(functional.relu), "Clip": _clip, "HardSigmoid": _hard_sigmoid, "HardSwish": _unary(functional.hardswish),
    "Sigmoid": _unary(torch.sigmoid), "Tanh": _unary(torch.tanh), GELU: _unary(functional.gelu),
    "Elu": lambda net, node: functional.elu(net.value(node.inputs[0]), float(node.get("alpha", 1.0))),
    "LeakyRelu": lambda net, node: functional.leaky_relu(net.value(node.inputs[0]), float(node.get("alpha", 0.01))),
    "PRelu": _prelu, "Softplus": _softplus, "Pow": _pow, "Cast": _cast, "BatchNormalization": _batch_norm, "Where": _where,
    "Sqrt": _unary(torch.sqrt), "Exp": _unary(torch.exp), "Log": _unary(torch.log), "Abs": _unary(torch.abs), "Erf": _unary(torch.erf),
    "Neg": _unary(torch.neg), "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos), "Reciprocal": _unary(torch.reciprocal),
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul,
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": lambda net, node: net.value(node.inputs[0]).amax((2, 3), keepdim=True),
    "ReduceMean": _reduce(lambda value, axes, keep: value.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda value, axes, keep: value.sum(axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda value, axes, keep: value.amax(axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda value, axes, keep: value.amin(axes, keepdim=keep)),
    "ReduceL2": _reduce(_length), "LpNormalization": _lp_normalization,
    "Softmax": _softmax, "LogSoftmax": _softmax, "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm,
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Identity": _unary(lambda value: value), "Dropout": _unary(lambda value: value), "Concat": _concat, "Slice": _slice,
    "Split": _split, "Gather": _gather, "Expand": _expand, "Shape": _shape, "Pad": _pad, "Resize": _resize,
    "Tile": lambda net, node: net.value(node.inputs[0]).repeat(net.numbers(1)),
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
