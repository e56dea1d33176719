"""Convolutions, and the padding that LiteRT has: SAME, VALID, or a PAD of its own before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.graph import SAME, VALID, LiteTensor, Sides, fixed
from edgekit.export.litert.layout import NHWC, NWC, ONE, ordered
from edgekit.export.litert.lowering import Lower, Lowering, Node

Pads = tuple[int, int, int, int]  # top, left, bottom, right


def window(
    state: Lowering, node: Node, size: Sequence[int], kernel: Sequence[int], output: Sequence[int]
) -> tuple[list[int], list[int], Pads]:
    """Strides, dilations and padding of a node whose windows slide over height and width.

    Args:
        state, node: what is lowered.
        size: height and width of its input.
        kernel: height and width of a window.
        output: height and width of its output: padding that no window reaches is left out.
    """
    strides, dilations = list(node.get("strides", [1, 1])), list(node.get("dilations", [1, 1]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    total = [max(0, (o - 1) * s + r - i) for o, s, r, i in zip(output, strides, reach, size, strict=True)]
    auto = node.text("auto_pad", "NOTSET")
    if auto == "NOTSET":
        before = list(node.get("pads", [0] * 4))[:2]
    elif auto == "VALID":
        before = [0, 0]
    else:
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    after = [
        max(0, (o - 1) * s + r - i - b) for o, s, r, i, b in zip(output, strides, reach, size, before, strict=True)
    ]
    return strides, dilations, (before[0], before[1], after[0], after[1])


def padding(size: Sequence[int], reach: Sequence[int], strides: Sequence[int], pads: Pads) -> int | None:
    """SAME or VALID, where one of them pads exactly so; else None.

    Args:
        size: height and width of the input.
        reach: of a window, dilation included.
        strides: of it.
        pads: that are wanted.
    """
    if not any(pads):
        return VALID
    outputs = [-(-i // s) for i, s in zip(size, strides, strict=True)]
    total = [max(0, (o - 1) * s + r - i) for o, s, r, i in zip(outputs, strides, reach, size, strict=True)]
    same = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    return SAME if same == pads else None


def pad(state: Lowering, tensor: LiteTensor, pads: Pads, fill: float = 0.0, source: str = "") -> LiteTensor:
    """An NHWC tensor with a border."""
    if not any(pads):
        return tensor
    amounts = state.constant(np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32))
    n, h, w, c = tensor.sides
    sides = (n, _more(h, pads[0] + pads[2]), _more(w, pads[1] + pads[3]), c)
    if fill == 0.0:
        return state.emit("PAD", [tensor, amounts], sides, source=source)
    value = state.constant(np.array([fill], np.float32))
    return state.emit("PADV2", [tensor, amounts, value], sides, source=source)


def _more(side: tuple[int, int], amount: int) -> tuple[int, int]:
    return side[0] + amount, side[1] + amount


def _conv(state: Lowering, node: Node) -> None:
    weights = state.known(node.inputs[1], "weight").astype(np.float32)
    bias = state.known(node.inputs[2], "bias").astype(np.float32) if node.has(2) else None
    if weights.ndim == 3:
        _conv_1d(state, node, weights, bias)
        return
    if weights.ndim != 4:
        raise state.refuse(f"it convolves over {weights.ndim - 2} axes")
    image = state.physical(node.inputs[0], NHWC)
    output = ordered(state.sides(node.outputs[0]), NHWC)
    strides, dilations, pads = window(state, node, image.shape[1:3], weights.shape[2:], [s[0] for s in output[1:3]])
    tensor = convolve(state, image, weights, bias, strides, dilations, pads, int(node.get("group", 1)), output)
    state.result(tensor, NHWC)


def convolve(
    state: Lowering,
    image: LiteTensor,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    groups: int,
    output: Sides,
) -> LiteTensor:
    """A convolution over an NHWC tensor.

    Args:
        state: what is built.
        image: (n, h, w, c).
        weights: as ONNX has them, (o, c / groups, kh, kw).
        bias: (o,).
        strides, dilations, pads, groups: as in ONNX.
        output: sides of the result, NHWC.
    """
    channels = image.shape[3]
    reach = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilations, strict=True)]
    how = padding(image.shape[1:3], reach, strides, pads)
    if how is None:
        image, how = pad(state, image, pads), VALID
    options: dict[str, Any] = {
        "padding": how, "strideH": strides[0], "strideW": strides[1],
        "dilationHFactor": dilations[0], "dilationWFactor": dilations[1],
    }  # fmt: skip
    added = state.constant(np.zeros(len(weights), np.float32) if bias is None else bias)
    if groups > 1 and weights.shape[1] == 1 and groups == channels:
        kernel = state.constant(weights.transpose(1, 2, 3, 0))
        return state.emit(
            "DEPTHWISE_CONV_2D", [image, kernel, added], output, depthMultiplier=len(weights) // channels, **options
        )
    return state.emit("CONV_2D", [image, state.constant(weights.transpose(0, 2, 3, 1)), added], output, **options)


def _conv_1d(state: Lowering, node: Node, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
    """Over one axis: as over an image of one row."""
    row = state.physical(node.inputs[0], NWC)
    n, w, c = row.sides
    image = state.reshape(row, (n, ONE, w, c))
    n, w, c = ordered(state.sides(node.outputs[0]), NWC)
    pads = list(node.get("pads", [0, 0]))
    if node.text("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        raise state.refuse("auto_pad over one axis")
    strides, dilations = [1, *node.get("strides", [1])], [1, *node.get("dilations", [1])]
    kernel = weights[:, :, None]
    tensor = convolve(
        state,
        image,
        kernel,
        bias,
        strides,
        dilations,
        (0, pads[0], 0, pads[1]),
        int(node.get("group", 1)),
        (n, ONE, w, c),
    )
    state.result(state.reshape(tensor, (n, w, c)), NWC)


def _conv_transpose(state: Lowering, node: Node) -> None:
    """As a convolution that computes all s x s phases of its output as channels, which DEPTH_TO_SPACE then puts in place.

    Output pixel s q + p is a sum over input pixels q - j with the weights at p + s j (Shi et al. 2016, "Is the deconvolution layer the same as
    a convolutional layer?"). Exact, for any batch, and what every runtime has fast kernels for.
    """
    weights = state.known(node.inputs[1], "weight").astype(np.float32)  # (c, o / groups, kh, kw)
    bias = state.known(node.inputs[2], "bias").astype(np.float32) if node.has(2) else None
    strides, groups = list(node.get("strides", [1, 1])), int(node.get("group", 1))
    if weights.ndim != 4 or len(set(strides)) != 1:
        raise state.refuse("its strides differ" if weights.ndim == 4 else f"it goes over {weights.ndim - 2} axes")
    if node.text("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", None):
        raise state.refuse("auto_pad or output_shape")
    stride, pads = strides[0], list(node.get("pads", [0] * 4))
    kernel, taps = _phases(_spread(weights, node.get("dilations", [1, 1])), stride, groups)
    image = state.physical(node.inputs[0], NHWC)
    n, h, w, c = ordered(state.sides(node.outputs[0]), NHWC)
    # Input pixels that an output pixel reads lie up to taps - 1 before it; the output may end after the last of them.
    rows, columns = ([-(-(b + o[0]) // stride), b] for b, o in ((pads[0], h), (pads[1], w)))
    ends = [count[0] - size for count, size in zip((rows, columns), image.shape[1:3], strict=True)]
    before = [tap - 1 for tap in taps]
    border = (before[0], before[1], max(0, ends[0]), max(0, ends[1]))
    image = pad(state, image, border)
    found = [size - tap + 1 for size, tap in zip(image.shape[1:3], taps, strict=True)]
    phases = stride * stride
    outputs = weights.shape[1] * groups
    inner = (n, *fixed(found), (outputs * phases,) * 2)
    wide = None if bias is None else np.tile(bias, phases)
    if groups > 1 and phases > 1:
        raise state.refuse(f"{groups} groups with stride {stride}")
    tensor = convolve(state, image, kernel, wide, [1, 1], [1, 1], (0, 0, 0, 0), groups, inner)
    if stride > 1:
        whole = (n, *fixed(size * stride for size in found), c)
        tensor = state.emit("DEPTH_TO_SPACE", [tensor], whole, blockSize=stride)
    state.result(_cropped(state, tensor, (pads[0], pads[1]), (n, h, w, c)), NHWC)


def _spread(weights: NDArray[np.float32], dilations: Sequence[int]) -> NDArray[np.float32]:
    """A kernel with the zeros that its dilation means."""
    sides = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilations, strict=True)]
    spread = np.zeros((*weights.shape[:2], *sides), np.float32)
    spread[:, :, :: dilations[0], :: dilations[1]] = weights
    return spread


def _phases(weights: NDArray[np.float32], stride: int, groups: int) -> tuple[NDArray[np.float32], list[int]]:
    """The kernel (stride^2 o, c / groups, th, tw) of all phases, the phase outermost, and th, tw."""
    taps = [-(-side // stride) for side in weights.shape[2:]]
    c, o = weights.shape[:2]
    padded = np.zeros((c, o, taps[0] * stride, taps[1] * stride), np.float32)
    padded[:, :, : weights.shape[2], : weights.shape[3]] = weights
    split = padded.reshape(c, o, taps[0], stride, taps[1], stride)[:, :, ::-1, :, ::-1]
    grouped = split.reshape(groups, c // groups, o, taps[0], stride, taps[1], stride)
    kernel = grouped.transpose(4, 6, 0, 2, 1, 3, 5).reshape(stride * stride * groups * o, c // groups, *taps)
    return kernel, taps


def _cropped(state: Lowering, tensor: LiteTensor, begin: tuple[int, int], sides: Sides) -> LiteTensor:
    if tensor.sides == sides:
        return tensor
    starts = [0, begin[0], begin[1], 0]
    ends = [0, begin[0] + sides[1][0], begin[1] + sides[2][0], 0]
    numbers = [state.constant(np.array(values, np.int32)) for values in (starts, ends, [1] * 4)]
    return state.emit("STRIDED_SLICE", [tensor, *numbers], sides, beginMask=0b1001, endMask=0b1001)


TABLE: dict[str, Lower] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
