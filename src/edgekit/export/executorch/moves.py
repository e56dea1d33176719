"""Operators that move numbers without computing: shapes, slices, padding, resizing."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgekit.export.executorch.network import Compute, OnnxNetwork
from edgekit.export.litert.lowering import Node
from edgekit.onnx_graph.resizing import resize_matrix


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
    ends = np.cumsum(sizes).tolist()  # in slices, which XNNPACK has
    return tuple(value.narrow(axis, end - size, size) for size, end in zip(sizes, ends, strict=True))


def _gather(net: OnnxNetwork, node: Node) -> Tensor:
    """Of indices that are known; a single one takes its axis away."""
    value = net.value(node.inputs[0])
    axis = int(node.get("axis", 0)) % value.ndim
    sides = list(value.shape)
    indices = net.array(node.inputs[1]) % max(1, int(sides[axis]))
    if indices.ndim == 0:
        return value.narrow(axis, int(indices), 1).reshape([*sides[:axis], *sides[axis + 1 :]])
    picked = value.index_select(axis, net.extra("indices", lambda: indices.reshape(-1)))
    return picked.reshape([*sides[:axis], *indices.shape, *sides[axis + 1 :]]) if indices.ndim > 1 else picked


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
        size, target = int(value.shape[axis]), sizes[axis]
        if mode == "nearest":
            value = value.index_select(
                axis, net.extra(f"indices {axis}", partial(_nearest, net, node, axis, size, target))
            )
        elif axis == 3:
            value = value @ net.extra("columns", partial(_turned, net, node, axis, size, target))
        else:
            value = net.extra("rows", partial(_weights, net, node, axis, size, target)) @ value
    return value


def _nearest(net: OnnxNetwork, node: Node, axis: int, size: int, target: int) -> NDArray[Any]:
    """The index that every output takes."""
    return _weights(net, node, axis, size, target).argmax(1)


def _turned(net: OnnxNetwork, node: Node, axis: int, size: int, target: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(_weights(net, node, axis, size, target).T)


def _scales(net: OnnxNetwork, node: Node) -> dict[int, float]:
    scales = net.numbers(2) if node.has(2) else []
    return dict(enumerate(scales))


def _resized(net: OnnxNetwork, node: Node) -> list[int]:
    value, scales = net.value(node.inputs[0]), _scales(net, node)
    if scales:
        return [math.floor(side * scales[axis]) for axis, side in enumerate(value.shape)]
    return [int(side) for side in net.numbers(3)]


def _weights(net: OnnxNetwork, node: Node, axis: int, size: int, target: int) -> NDArray[np.float32]:
    return resize_matrix(node.attributes, size, target, _scales(net, node).get(axis))


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
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Concat": _concat, "Slice": _slice, "Split": _split, "Gather": _gather, "Expand": _expand, "Shape": _shape, "Pad": _pad,
    "Tile": lambda net, node: net.value(node.inputs[0]).repeat(net.numbers(1)),
    "Resize": _resize, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
