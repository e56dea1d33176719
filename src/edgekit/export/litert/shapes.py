"""Operators that move numbers without changing them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.elementwise import common_order
from edgekit.export.litert.graph import LiteTensor, Sides
from edgekit.export.litert.layout import ONE, ordered, transposed
from edgekit.export.litert.lowering import Lower, Lowering, Node, Value

_AT_A_TIME = 5  # tensors that XNNPACK concatenates


def _reshape(state: Lowering, node: Node) -> None:
    value = state.as_shape(node.inputs[0], state.sides(node.outputs[0]))
    state.result(value.tensor, value.order)


def _transpose(state: Lowering, node: Node) -> None:
    value = state.value(node.inputs[0])
    permutation = node.get("perm", list(reversed(range(len(value.order)))))
    state.result(value.tensor, transposed(value.order, permutation))


def _same(state: Lowering, node: Node) -> None:
    value = state.value(node.inputs[0])
    state.result(value.tensor, value.order)


def _concat(state: Lowering, node: Node) -> None:
    output = node.outputs[0]
    sides = state.sides(output)
    order = common_order(state, [n for n in node.inputs if state.array(n) is None], len(sides))
    axis = order.index(int(node.get("axis", 0)) % len(sides))
    names = [name for name in node.inputs if 0 not in [side[0] for side in state.sides(name)]]
    tensors = [state.physical(name, order) for name in names]
    state.result(joined(state, tensors, axis), order)


def joined(state: Lowering, tensors: list[LiteTensor], axis: int) -> LiteTensor:
    """Tensors side by side along a physical axis, in steps of as many as XNNPACK takes at a time."""
    while len(tensors) > 1:
        groups = [tensors[i : i + _AT_A_TIME] for i in range(0, len(tensors), _AT_A_TIME)]
        tensors = [_joined(state, group, axis) if len(group) > 1 else group[0] for group in groups]
    return tensors[0]


def _joined(state: Lowering, tensors: list[LiteTensor], axis: int) -> LiteTensor:
    total = tuple(sum(side) for side in zip(*(tensor.sides[axis] for tensor in tensors), strict=True))
    sides = tuple((total[0], total[1]) if i == axis else side for i, side in enumerate(tensors[0].sides))
    return state.emit("CONCATENATION", tensors, sides, axis=axis)


def sliced(state: Lowering, value: Value, sides: Sides, cuts: dict[int, tuple[int, int, int]]) -> Value:
    """A part of a value.

    Args:
        state: what is built.
        value: the whole.
        sides: of the whole, logical.
        cuts: by logical axis: the first index, the one behind the last, and the step, all counted from the front, the step positive.
    """
    begin, end, steps, whole = [], [], [], 0
    output = []
    for i, axis in enumerate(value.order):
        first, last, step = cuts.get(axis, (0, 0, 1))
        if axis not in cuts:
            whole |= 1 << i
            output.append(sides[axis])
        else:
            count = max(0, -(-(last - first) // step))
            output.append((count, count))
        begin.append(first)
        end.append(last)
        steps.append(step)
    if not cuts or tuple(output) == value.tensor.sides:
        return value
    numbers = [state.constant(np.array(v, np.int32)) for v in (begin, end, steps)]
    source = value.tensor.source
    tensor = state.emit(
        "STRIDED_SLICE", [value.tensor, *numbers], tuple(output), source=source, beginMask=whole, endMask=whole
    )
    return Value(tensor, value.order)


def _slice(state: Lowering, node: Node) -> None:
    name = node.inputs[0]
    sides = state.sides(name)
    starts, ends = (state.known(node.inputs[i], "bounds").tolist() for i in (1, 2))
    axes = state.known(node.inputs[3], "axes").tolist() if node.has(3) else list(range(len(starts)))
    steps = state.known(node.inputs[4], "steps").tolist() if node.has(4) else [1] * len(starts)
    cuts: dict[int, tuple[int, int, int]] = {}
    backwards: list[int] = []
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = given % len(sides)
        if sides[axis][0] != sides[axis][1]:
            if sides[axis] == state.sides(node.outputs[0])[axis] and step == 1:
                continue
            raise state.refuse("it cuts the batch")
        size = sides[axis][0]
        if step < 0:
            if step != -1 or len(range(*slice(start, None if end < -size else end, step).indices(size))) != size:
                raise state.refuse("a part of an axis backwards")
            backwards.append(axis)
            continue
        first, last, _ = slice(start, end, step).indices(size)
        if (first, last, step) != (0, size, 1):
            cuts[axis] = first, last, step
    value = sliced(state, state.value(name), sides, cuts)
    for axis in backwards:
        count = value.tensor.shape[value.order.index(axis)]
        value = picked(state, value, axis, np.arange(count)[::-1])
    state.result(value.tensor, value.order)


def _split(state: Lowering, node: Node) -> None:
    name = node.inputs[0]
    sides, value = state.sides(name), state.value(name)
    axis = int(node.get("axis", 0)) % len(sides)
    if sides[axis][0] != sides[axis][1]:
        raise state.refuse("it cuts the batch")
    first = 0
    for output in node.outputs:
        count = state.sides(output)[axis][0]
        part = sliced(state, value, sides, {axis: (first, first + count, 1)})
        state.set(output, part.tensor, part.order)
        first += count


def _gather(state: Lowering, node: Node) -> None:
    """Of indices that are known; one index takes its axis away."""
    name = node.inputs[0]
    sides, value = state.sides(name), state.value(name)
    axis = int(node.get("axis", 0)) % len(sides)
    indices = state.known(node.inputs[1], "indices")
    if indices.ndim > 1 or sides[axis][0] != sides[axis][1]:
        raise state.refuse("by a matrix of indices, or along the batch")
    indices = indices % sides[axis][0]
    if indices.ndim == 0:
        first = int(indices)
        part = sliced(state, value, sides, {axis: (first, first + 1, 1)})
        kept = tuple(a for a in part.order if a != axis)
        tensor = state.reshape(
            part.tensor, tuple(s for a, s in zip(part.order, part.tensor.sides, strict=True) if a != axis)
        )
        state.result(tensor, tuple(a - (a > axis) for a in kept))
        return
    part = picked(state, value, axis, indices)
    state.result(part.tensor, part.order)


def picked(state: Lowering, value: Value, axis: int, indices: NDArray[np.integer[Any]]) -> Value:
    """What stands at some indices of a logical axis."""
    place = value.order.index(axis)
    numbers = np.asarray(indices, np.int32)
    sides = tuple((len(numbers),) * 2 if i == place else side for i, side in enumerate(value.tensor.sides))
    inputs: list[LiteTensor | None] = [value.tensor, state.constant(numbers)]
    return Value(state.emit("GATHER", inputs, sides, source=value.tensor.source, axis=place, batchDims=0), value.order)


def _expand(state: Lowering, node: Node) -> None:
    """Repeated along axes of one element: added to zeros, which every runtime broadcasts."""
    name, output = node.inputs[0], node.outputs[0]
    sides = state.sides(output)
    missing = len(sides) - len(state.sides(name))
    value = state.as_shape(name, (*[ONE] * missing, *state.sides(name)))
    before = tuple(sides[a] if s != ONE else ONE for a, s in zip(value.order, value.tensor.sides, strict=True))
    if value.tensor.sides == ordered(sides, value.order):
        state.result(value.tensor, value.order)
        return
    after = ordered(sides, value.order)
    grown = [1 if a == b else b[0] for a, b in zip(before, after, strict=True)]
    if any(a != b and b[0] != b[1] for a, b in zip(before, after, strict=True)):
        raise state.refuse("it repeats along the batch")
    zeros = state.constant(np.zeros(grown, np.float32))
    result = state.emit("ADD", [value.tensor, zeros], after)
    state.result(result, value.order)


def _tile(state: Lowering, node: Node) -> None:
    value = state.value(node.inputs[0])
    repeats = state.known(node.inputs[1], "repeats")
    numbers = state.constant(repeats[list(value.order)].astype(np.int32))
    sides = ordered(state.sides(node.outputs[0]), value.order)
    state.result(state.emit("TILE", [value.tensor, numbers], sides, source=value.tensor.source), value.order)


TABLE: dict[str, Lower] = {
    "Reshape": _reshape, "Flatten": _reshape, "Squeeze": _reshape, "Unsqueeze": _reshape, "Transpose": _transpose,
    "Identity": _same, "Dropout": _same, "Concat": _concat, "Slice": _slice, "Split": _split, "Gather": _gather,
    "Expand": _expand, "Tile": _tile,
}  # fmt: skip
