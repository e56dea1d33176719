"""Equalization: rescale the channels of a float graph so that one range fits them all, without changing what the graph computes.

Activations are quantized with one scale a tensor. A channel whose values are a hundred times smaller than its neighbors' is
left with two or three of the 256 levels. Dividing a layer's output channel i by s_i and multiplying what the next layer reads from it
by s_i changes nothing in float (ReLU commutes with positive factors) but much for the integers. s is chosen by one of two methods:

- `by="weights"`: cross-layer equalization (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
  correction", equation 11): both layers' weight ranges of a channel become equal.
- `by="activations"`: SmoothQuant (Xiao et al. 2022, equation 4) with alpha = 0.5, between LayerNormalization and MatMul or Gemm as
  published, and between convolutions too. A depthwise convolution has a weight scale for each channel, so there alpha is 1:
  all that it reads gets the same range.

A residual stream has many writers and readers. All of them share one factor for each channel, chosen from the largest of their ranges. (Both
papers leave streams out; in networks whose blocks end in a linear projection, such as MobileNetV2, most activations lie in streams.)

ReLU6 commutes with a factor only below its ceiling. A channel that reaches the ceiling on the calibration images keeps its scale, and the
others stay below it: the graph computes the same on these images, and on others unless a value leaves the range seen here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgekit.errors import ExportError
from edgekit.progress import Advance
from edgekit.quantize.layers import (
    EqualizablePair,
    LayerGraph,
    by_input_channel,
    depthwise,
    layer_pairs,
    normalized_pairs,
    output_axis,
    scale_inputs,
    scale_outputs,
    streams,
)
from edgekit.quantize.ranges import batches, observing

By = Literal["weights", "activations"]
_SWEEPS = 20  # over all pairs of layers; each pair changes the ranges of its neighbors
_FURTHEST = 1e4  # factors stay within a range that float32 does not notice


def equalize(model: ModelProto, images: NDArray[np.uint8], by: By, advance: Advance) -> tuple[ModelProto, int]:
    """An equalized copy of a float graph.

    Args:
        model: opset 17, BatchNorm folded.
        images: calibration images, uint8 (n, h, w, 3).
        by: the method that chooses the factors.
        advance: called with the number of images done.

    Returns:
        The graph, which computes the same, and the number of equalized pairs of layers (0 if it has none).
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = LayerGraph(copy)
    pairs = [*layer_pairs(graph), *streams(graph), *(normalized_pairs(graph) if by == "activations" else [])]
    if not pairs:
        return copy, 0
    peaks = channel_peaks(model, pairs, images, advance)
    for _ in range(_SWEEPS):
        largest = 1.0
        for pair in pairs:
            peak = peaks[pair.tensors]
            wanted = _by_weights(graph, pair) if by == "weights" else _by_activations(graph, pair, peak)
            factor = _allowed(wanted, peak, pair.ceiling)
            rescale(graph, pair, factor)
            peaks[pair.tensors] = peak / factor
            largest = max(largest, float(np.exp(np.abs(np.log(factor)).max())))
        if largest < 1.001:
            break
    return copy, len(pairs)


def rescale(graph: LayerGraph, pair: EqualizablePair, factor: NDArray[np.float32]) -> None:
    """Divide the channels between layers by `factor` (c,), all positive, and multiply by it in the layers that read them.

    The graph computes the same if the nodes between the layers are homogeneous; a Clip is not: see `equalize`.
    """
    for first in pair.first:
        if first.op_type == "LayerNormalization":
            for name in first.input[1:3]:
                graph.set(name, graph.value(name) / factor)
            continue
        weight = graph.weight(first)
        assert weight is not None
        graph.set(weight, scale_outputs(first, graph.value(weight), np.reciprocal(factor)))
        if len(first.input) > 2 and first.input[2]:
            bias = graph.bias(first)
            if bias is None:
                raise ExportError(f"the bias of {first.name} is not a weight of its own")
            graph.set(bias, graph.value(bias) / factor)
    for second in pair.second:
        weight = graph.weight(second)
        assert weight is not None
        graph.set(weight, scale_inputs(second, graph.value(weight), factor))


def channel_peaks(
    model: ModelProto, pairs: list[EqualizablePair], images: NDArray[np.uint8], advance: Advance
) -> dict[tuple[str, ...], NDArray[np.float32]]:
    """The largest magnitude of each channel that the second layers read, by the pair's tensors: float32 (c,)."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair.tensors))
    of_map = {name for pair in pairs for name in pair.tensors if pair.second[0].op_type == "Conv"}
    session = observing(model, names)
    (image,) = (i.name for i in model.graph.input)
    peaks: dict[str, NDArray[np.float32]] = {}
    for batch in batches(images):
        for name, values in zip(names, session.run(names, {image: batch}), strict=True):
            axis = 1 if name in of_map else values.ndim - 1
            peak = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
        advance(len(batch))
    return {pair.tensors: np.max([peaks[name] for name in pair.tensors], axis=0) for pair in pairs}


def _by_weights(graph: LayerGraph, pair: EqualizablePair) -> NDArray[np.float32]:
    """s = sqrt(r1 r2) / r2, where r1 and r2 are the ranges of a channel's weights in the layers that write and that read it."""
    ranges1, ranges2 = [], []
    for first in pair.first:
        name = graph.weight(first)
        assert name is not None
        weight = np.moveaxis(graph.value(name), output_axis(first), 0)
        ranges1.append(np.abs(weight).reshape(len(weight), -1).max(axis=1))
    for second in pair.second:
        name = graph.weight(second)
        assert name is not None
        ranges2.append(np.abs(by_input_channel(second, graph.value(name))).max(axis=1))
    r1, r2 = np.max(ranges1, axis=0), np.max(ranges2, axis=0)
    return _ratio(np.sqrt(r1 * r2), r2)


def _by_activations(graph: LayerGraph, pair: EqualizablePair, peak: NDArray[np.float32]) -> NDArray[np.float32]:
    """s = a^alpha / w^(1 - alpha) for the range a of a channel and the largest weight w that reads it; the largest a is kept."""
    largest = np.zeros_like(peak)
    alpha = 0.5
    for second in pair.second:
        name = graph.weight(second)
        assert name is not None
        weight = graph.value(name)
        largest = np.maximum(largest, np.abs(by_input_channel(second, weight)).max(axis=1))
        if depthwise(second, weight):
            alpha = 1.0
    factor = _ratio(peak**alpha, largest ** (1 - alpha))
    used = (peak > 0) & (largest > 0)
    if not used.any():
        return np.ones_like(peak)
    factor = np.where(used, factor * ((peak / factor)[used].max() / peak[used].max()), 1.0)
    return factor.astype(np.float32)


def _allowed(wanted: NDArray[np.float32], peak: NDArray[np.float32], ceiling: float | None) -> NDArray[np.float32]:
    """The factors, limited to a reasonable range and to what a Clip at `ceiling` allows."""
    factor = np.clip(wanted, 1 / _FURTHEST, _FURTHEST)
    if ceiling is not None:
        touching = peak >= ceiling * (1 - 1e-6)
        factor = np.where(touching, 1.0, np.maximum(factor, peak / (ceiling * (1 - 1e-3))))
    return factor.astype(np.float32)


def _ratio(above: NDArray[np.float32], below: NDArray[np.float32]) -> NDArray[np.float32]:
    """above / below, or 1 where either is 0: an unused channel has no range to equalize."""
    usable = (above > 0) & (below > 0)
    return np.where(usable, above / np.where(usable, below, 1), 1).astype(np.float32)
