"""Height and width rearranged: padding, resizing, pixels to channels and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.convolutions import pad
from edgekit.export.litert.graph import LiteTensor
from edgekit.export.litert.layout import NHWC, ordered
from edgekit.export.litert.lowering import Lower, Lowering, Node, Value
from edgekit.export.litert.matrices import linear
from edgekit.export.litert.shapes import joined, picked, sliced
from edgekit.onnx_graph.resizing import resize_matrix


def _pad(state: Lowering, node: Node) -> None:
    """By constants, or by what stands at the border; less than none is a slice."""
    name, mode = node.inputs[0], node.text("mode", "constant")
    sides = state.sides(name)
    rank = len(sides)
    amounts = state.known(node.inputs[1], "amounts").reshape(-1).tolist()
    axes = [int(a) % rank for a in state.known(node.inputs[3], "axes")] if node.has(3) else list(range(rank))
    count = len(axes)
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[count + i]
    value = state.value(name)
    cuts = {
        a: (max(0, -before[a]), sides[a][0] - max(0, -after[a]), 1) for a in range(rank) if min(before[a], after[a]) < 0
    }
    value = sliced(state, value, sides, cuts)
    inner = tuple(value.tensor.sides[value.order.index(a)] for a in range(rank))
    grown = [(max(0, before[a]), max(0, after[a])) for a in range(rank)]
    if mode == "constant":
        fill = float(state.known(node.inputs[2], "fill").reshape(-1)[0]) if node.has(2) else 0.0
        value = _filled(state, value, grown, fill, name)
    else:
        for axis in range(rank):
            if any(grown[axis]):
                value = picked(state, value, axis, _mirrored(state, inner[axis][0], grown[axis], mode))
    state.result(value.tensor, value.order)


def _filled(state: Lowering, value: Value, grown: list[tuple[int, int]], fill: float, name: str) -> Value:
    if not any(map(any, grown)):
        return value
    if value.order == NHWC and not any(grown[0]) and not any(grown[1]):
        pads = (grown[2][0], grown[3][0], grown[2][1], grown[3][1])
        return Value(pad(state, value.tensor, pads, fill, source=name if fill == 0 else ""), NHWC)
    amounts = state.constant(np.array([grown[axis] for axis in value.order], np.int32))
    sides = tuple(
        (s[0] + sum(grown[a]), s[1] + sum(grown[a])) for a, s in zip(value.order, value.tensor.sides, strict=True)
    )
    if fill == 0.0:
        return Value(state.emit("PAD", [value.tensor, amounts], sides, source=name), value.order)
    number = state.constant(np.array([fill], np.float32))
    return Value(state.emit("PADV2", [value.tensor, amounts, number], sides), value.order)


def _mirrored(state: Lowering, size: int, grown: tuple[int, int], mode: str) -> NDArray[np.int64]:
    """The index of every pixel of a padded axis in the axis before."""
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise state.refuse(f"mode {mode}")
    return np.pad(np.arange(size), grown, mode=modes[mode])  # type: ignore[call-overload]


def _resize(state: Lowering, node: Node) -> None:
    """By LiteRT's own operators where they compute the same, else by an index or a matrix for each axis."""
    name, output = node.inputs[0], node.outputs[0]
    sides, target = state.sides(name), state.sides(output)
    changed = [axis for axis in range(len(sides)) if sides[axis] != target[axis]]
    mode = node.text("mode", "nearest")
    how = node.text("coordinate_transformation_mode", "half_pixel")
    value = state.value(name)
    if set(changed) - {2, 3} or len(sides) != 4:
        raise state.refuse("of other axes than height and width")
    if mode == "linear" and how in {"half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"} and changed:
        one_pixel = how == "pytorch_half_pixel" and any(target[a][0] == 1 for a in changed)
        if not one_pixel and not node.get("antialias", 0) and all(sides[a][0] > 1 for a in changed):
            image = state.physical(name, NHWC)
            size = state.constant(np.array([target[2][0], target[3][0]], np.int32))
            resized = state.emit(
                "RESIZE_BILINEAR", [image, size], ordered(target, NHWC), alignCorners=how == "align_corners",
                halfPixelCenters="half_pixel" in how,
            )  # fmt: skip
            state.result(resized, NHWC)
            return
    scales = state.array(node.inputs[2]) if node.has(2) else None
    matrices = {
        axis: resize_matrix(
            node.attributes,
            sides[axis][0],
            target[axis][0],
            float(scales[axis]) if scales is not None and scales.size else None,
        )
        for axis in changed
    }
    if mode == "nearest" and _nearest_is_plain(matrices):
        image = state.physical(name, NHWC)
        if (factor := _doubled(image.shape[1:3], [target[2][0], target[3][0]])) is not None:
            state.result(_repeated(state, image, factor), NHWC)
            return
        size = state.constant(np.array([target[2][0], target[3][0]], np.int32))
        result = state.emit("RESIZE_NEAREST_NEIGHBOR", [image, size], ordered(target, NHWC), source=name)
        state.result(result, NHWC)
        return
    for axis, matrix in matrices.items():
        if mode == "nearest":
            value = picked(state, value, axis, matrix.argmax(1))
        else:
            value = linear(state, value, sides, axis, matrix, None)
        sides = tuple(target[a] if a == axis else side for a, side in enumerate(sides))
    state.result(value.tensor, value.order)


def _doubled(size: Sequence[int], target: Sequence[int]) -> int | None:
    """How often both sides are doubled; None where they grow otherwise."""
    times = {t / s for s, t in zip(size, target, strict=True)}
    factor = times.pop()
    return int(np.log2(factor)) if not times and factor in {2.0, 4.0, 8.0} else None


def _repeated(state: Lowering, image: LiteTensor, doublings: int) -> LiteTensor:
    """Each pixel as a square of 2 x 2, by DEPTH_TO_SPACE of four copies: XNNPACK has that, and RESIZE_NEAREST_NEIGHBOR not."""
    for _ in range(doublings):
        n, h, w, c = image.sides
        copies = joined(state, [image] * 4, 3)
        copies.source = image.source
        sides = (n, (2 * h[0], 2 * h[1]), (2 * w[0], 2 * w[1]), c)
        image = state.emit("DEPTH_TO_SPACE", [copies], sides, source=image.source, blockSize=2)
    return image


def _nearest_is_plain(matrices: dict[int, NDArray[np.float32]]) -> bool:
    """Whether every output pixel is floor(i * size / target), as LiteRT takes it."""
    return all(
        np.array_equal(matrix.argmax(1), (np.arange(len(matrix)) * matrix.shape[1]) // len(matrix))
        for matrix in matrices.values()
    )


def _depth_to_space(state: Lowering, node: Node) -> None:
    if node.text("mode", "DCR") != "DCR":
        raise state.refuse("mode CRD")
    image = state.physical(node.inputs[0], NHWC)
    size = int(node.get("blocksize", 1))
    sides = ordered(state.sides(node.outputs[0]), NHWC)
    state.result(state.emit("DEPTH_TO_SPACE", [image], sides, source=node.inputs[0], blockSize=size), NHWC)


def _space_to_depth(state: Lowering, node: Node) -> None:
    image = state.physical(node.inputs[0], NHWC)
    size = int(node.get("blocksize", 1))
    sides = ordered(state.sides(node.outputs[0]), NHWC)
    state.result(state.emit("SPACE_TO_DEPTH", [image], sides, source=node.inputs[0], blockSize=size), NHWC)


TABLE: dict[str, Lower] = {
    "Pad": _pad, "Resize": _resize, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
