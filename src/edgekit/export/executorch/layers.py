"""Layers, with weights or without, in the form that XNNPACK's partitioner recognizes: convolutions, products, Q/DQ, pooling, means, norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgekit.export.executorch.network import LOWEST, Compute, Integers, OnnxNetwork
from edgekit.export.litert.lowering import Node

Pads = list[int]  # begins, then ends


def _conv(net: OnnxNetwork, node: Node) -> Tensor:
    value, weight = net.value(node.inputs[0]), net.value(node.inputs[1])
    kernel = list(weight.shape[2:])
    strides, dilations = list(node.get("strides", [1] * len(kernel))), list(node.get("dilations", [1] * len(kernel)))
    if len(kernel) > 2:
        raise net.refuse(f"it convolves over {len(kernel)} axes")
    pads = _pads(node, list(value.shape[2:]), kernel, strides, dilations)
    value, both = _padded(net, node.inputs[0], pads, 0.0)
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


def _padded(net: OnnxNetwork, name: str, pads: Pads, fill: float) -> tuple[Tensor, list[int]]:
    """A value, and the padding that the operator adds on both sides; where the sides differ it is added here."""
    value, axes = net.value(name), len(pads) // 2
    begins, ends = pads[:axes], pads[axes:]
    if begins == ends:
        return value, begins
    both = [number for pair in reversed(list(zip(begins, ends, strict=True))) for number in pair]
    return _as_before(net, name, functional.pad(value, both, value=fill)), [0] * axes


def _as_before(net: OnnxNetwork, name: str, changed: Tensor) -> Tensor:
    """A value after a change, in the integers that it had before: XNNPACK's layers in INT8 read nothing else."""
    held = None if name in net.known else net.values[name]
    return held.dequantized(held.quantized(changed)) if isinstance(held, Integers) else changed


def _conv_transpose(net: OnnxNetwork, node: Node) -> Tensor:
    value, weight = net.value(node.inputs[0]), net.value(node.inputs[1])
    axes = weight.ndim - 2
    pads = list(node.get("pads", [0] * (2 * axes)))
    if node.text("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", None) or axes != 2:
        raise net.refuse("auto_pad, output_shape or other axes than height and width")
    begins, extra = pads[:axes], node.get("output_padding", [0] * axes)
    strides, dilations = list(node.get("strides", [1] * axes)), list(node.get("dilations", [1] * axes))
    ends = [o + b - e for o, b, e in zip(extra, begins, pads[axes:], strict=True)]  # by which torch's output is longer
    bias, groups = _bias(net, node), int(node.get("group", 1))
    if all(0 <= end < max(s, d) for end, s, d in zip(ends, strides, dilations, strict=True)):
        return functional.conv_transpose2d(value, weight, bias, strides, begins, ends, groups, dilations)
    # What is padded is cut off afterwards. XNNPACK's integers need the quantization right behind the layer, so this one is in float.
    weight = net.extra("weight", lambda: net.dequantized(node.inputs[1]))
    found = functional.conv_transpose2d(value, weight, bias, strides, 0, extra, groups, dilations)
    height, width = (side - e for side, e in zip(found.shape[2:], pads[axes:], strict=True))
    return found[:, :, begins[0] : height, begins[1] : width]


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
    one, other = net.value(first), net.value(second)
    if one.ndim != other.ndim or one.ndim <= 2 or one.shape[:-2] != other.shape[:-2]:
        return one @ other
    # XNNPACK has the product of two stacks of matrices; torch's own rule would put an operator before it that XNNPACK has not.
    stacks = [value.reshape([-1, *value.shape[-2:]]) for value in (one, other)]
    return torch.bmm(*stacks).reshape([*one.shape[:-1], other.shape[-1]])


def _quantize(net: OnnxNetwork, node: Node) -> Tensor:
    value = net.value(node.inputs[0])
    return Integers(value, *_affine(net, node)).quantized(value)


def _dequantize(net: OnnxNetwork, node: Node) -> Integers:
    return Integers(net.value(node.inputs[0]), *_affine(net, node))


def _affine(net: OnnxNetwork, node: Node) -> tuple[float, int]:
    """Scale and zero point of an activation, which is int8 in XNNPACK."""
    scale, zero = net.array(node.inputs[1]), net.array(node.inputs[2])
    if scale.size != 1:
        raise net.refuse("an activation with more than one scale")
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]) + (LOWEST if zero.dtype == np.uint8 else 0)


def _max_pool(net: OnnxNetwork, node: Node) -> Tensor:
    value, kernel = net.value(node.inputs[0]), list(node.get("kernel_shape", []))
    if len([name for name in node.outputs if name]) > 1 or len(kernel) != 2:
        raise net.refuse("its indices, or another number of axes than two")
    strides, dilations = list(node.get("strides", [1, 1])), list(node.get("dilations", [1, 1]))
    pads = _pads(node, list(value.shape[2:]), kernel, strides, dilations)
    if pads[:2] == pads[2:] and all(2 * p <= k for p, k in zip(pads[:2], kernel, strict=True)):
        return functional.max_pool2d(value, kernel, strides, pads[:2], dilations, bool(node.get("ceil_mode", 0)))
    both = [pads[1], pads[3], pads[0], pads[2]]
    padded = _as_before(net, node.inputs[0], functional.pad(value, both, value=float(np.finfo(np.float32).min)))
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


def _mean(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    """XNNPACK's mean keeps its axes."""
    found = value.mean(axes, keepdim=True)
    return found if keep else found.reshape([side for i, side in enumerate(value.shape) if i not in axes])


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


def _batch_norm(net: OnnxNetwork, node: Node) -> Tensor:
    """What no convolution took up: a factor and a summand per channel."""
    scale, shift, mean, variance = (net.array(name).astype(np.float64) for name in node.inputs[1:5])
    gain = scale / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
    value = net.value(node.inputs[0])
    shape = [1, -1, *[1] * (value.ndim - 2)]
    factor = net.constant(node.inputs[1], "gain", lambda _: gain.reshape(shape))
    return value * factor + net.constant(node.inputs[2], "shift", lambda _: (shift - mean * gain).reshape(shape))


def _lp_normalization(net: OnnxNetwork, node: Node) -> Tensor:
    if node.get("p", 2) != 2:
        raise net.refuse("of another norm than 2")
    value = net.value(node.inputs[0])
    return value / _length(value, [int(node.get("axis", -1))], True)


TABLE: dict[str, Compute] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul,
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": lambda net, node: net.value(node.inputs[0]).amax((2, 3), keepdim=True),
    "ReduceMean": _reduce(_mean),
    "ReduceSum": _reduce(lambda value, axes, keep: value.sum(axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda value, axes, keep: value.amax(axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda value, axes, keep: value.amin(axes, keepdim=keep)),
    "ReduceL2": _reduce(_length), "LpNormalization": _lp_normalization, "BatchNormalization": _batch_norm,
    "Softmax": _softmax, "LogSoftmax": _softmax, "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm,
}  # fmt: skip
