"""Bias correction: subtract the mean shift that quantization causes in a layer's output from its bias (Nagel et al. 2019, section 4.2).

The rounding errors of a layer's weights do not average out over its inputs, which are mostly positive after a ReLU, so each output
channel is shifted by a mean of its own. The correction is the empirical one (the paper's appendix D): compare the means over calibration
images in the float and in the quantized graph, from the first layer to the last, because a layer's error depends on the layers before it.
In deep networks a few neighboring layers are corrected at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.progress import Advance
from edgekit.quantize.ranges import batches, observing

IMAGES = 100  # a mean over them and all positions is exact enough: both graphs see the same ones
_PASSES = 16  # over the images; a network of as many layers is corrected layer by layer


@dataclass(frozen=True)
class Corrected:
    """The result of a bias correction.

    Attributes:
        model: the quantized graph with other biases.
        layers: number of corrected layers: those with a float bias.
        before, after: the root mean square of the channels' mean errors, each relative to the root mean square of its layer's
            channel means in float.
    """

    model: ModelProto
    layers: int
    before: float
    after: float


def correct(float_model: ModelProto, quantized: ModelProto, images: NDArray[np.uint8], advance: Advance) -> Corrected:
    """Correct the biases of every Conv and Gemm of a Q/DQ graph whose bias is in float.

    The quantized graph runs with its inner tensors as outputs, which keeps ONNX Runtime from fusing nodes: it computes exactly what the
    Q/DQ nodes say, without the saturation of some CPUs.

    Args:
        float_model: the graph that was quantized.
        quantized: the same graph, quantized; its layers have the same names.
        images: calibration images, uint8 (n, h, w, 3).
        advance: called with the number of images done; `passes` times for each image.
    """
    copy = ModelProto()
    copy.CopyFrom(quantized)
    layers = _correctable(float_model, copy)
    if not layers:
        return Corrected(copy, 0, 0.0, 0.0)
    # By the nodes' names: where ONNX Runtime takes a Relu away, the layer before makes the Relu's tensor.
    in_float = {node.name: node.output[0] for node in float_model.graph.node}
    tensors = [in_float[node.name] for node in layers]
    means = channel_means(float_model, tensors, images, advance)
    outputs = [node.output[0] for node in layers]
    wanted = {output: means[tensor] for output, tensor in zip(outputs, tensors, strict=True)}
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    before = _error(channel_means(copy, outputs, images, advance), wanted)
    first = [weights[node.input[2]].SerializeToString() for node in layers]
    for group in np.array_split(np.arange(len(layers)), min(_PASSES, len(layers))):
        now = channel_means(copy, [outputs[i] for i in group], images, advance)
        for i in group:
            name = layers[i].input[2]
            bias = numpy_helper.to_array(weights[name]) + (wanted[outputs[i]] - now[outputs[i]])
            weights[name].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), name))
    after = _error(channel_means(copy, outputs, images, advance), wanted)
    if after > before:  # neighboring layers, corrected together, corrected one error twice
        for node, content in zip(layers, first, strict=True):
            weights[node.input[2]].ParseFromString(content)
    return Corrected(copy, len(layers), before, min(before, after))


def passes(float_model: ModelProto) -> int:
    """The largest number of passes of `correct` over the images."""
    return 3 + min(_PASSES, sum(node.op_type in {"Conv", "Gemm"} for node in float_model.graph.node))


def channel_means(
    model: ModelProto, names: list[str], images: NDArray[np.uint8], advance: Advance
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel (axis 1) of some inner tensors over images and positions: float64 (c,) by name."""
    session = observing(model, names)
    (image,) = (i.name for i in model.graph.input)
    sums: dict[str, NDArray[np.float64]] = {}
    for batch in batches(images):
        for name, values in zip(names, session.run(names, {image: batch}), strict=True):
            mean = values.mean(axis=tuple(i for i in range(values.ndim) if i != 1), dtype=np.float64)
            sums[name] = sums.get(name, np.zeros_like(mean)) + mean * len(batch)
        advance(len(batch))
    return {name: total / len(images) for name, total in sums.items()}


def _correctable(float_model: ModelProto, quantized: ModelProto) -> list[NodeProto]:
    """Conv and Gemm nodes of the quantized graph that have a bias in float of their own, and are in the float graph by name."""
    known = {node.name for node in float_model.graph.node}
    in_float = {t.name for t in quantized.graph.initializer if t.data_type == TensorProto.FLOAT}
    readers: dict[str, int] = {}
    for node in quantized.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    return [
        node
        for node in quantized.graph.node
        if node.op_type in {"Conv", "Gemm"}
        and len(node.input) > 2
        and node.input[2] in in_float
        and readers[node.input[2]] == 1
        and node.name in known
    ]


def _error(found: dict[str, NDArray[np.float64]], wanted: dict[str, NDArray[np.float64]]) -> float:
    """Root mean square over the layers of: root mean square of the channels' errors over that of the float means."""
    shares = []
    for name, mean in wanted.items():
        size = float((mean**2).mean())
        if size > 0:
            shares.append(float(((found[name] - mean) ** 2).mean()) / size)
    return float(np.sqrt(np.mean(shares))) if shares else 0.0
