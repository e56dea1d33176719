"""Q/DQ placement for TensorRT: signed, symmetric, at the inputs of layers and at the skip input of residual sums.

The rules are those of TensorRT's guide ("Working with quantized types", placement of Q/DQ): TensorRT computes a layer in INT8 if its
activation and its weight are both dequantized; it fuses what follows the layer (bias, ReLU, the sum of a residual block) only if there is
no Q/DQ between. Weights stay in float and have Q/DQ of their own; biases stay in float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.onnx_graph.values import producers

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
CONVOLUTIONS = {"Conv", "ConvTranspose"}
FEWEST_CHANNELS = 16  # input channels of a convolution; with fewer, INT8 is no faster than FP16
_LARGEST = 127
_SMALLEST_SCALE = 2.0**-24  # the smallest FP16 number: the scales are stored in FP16


class Wiring:
    """Which nodes compute and which read the tensors of a graph.

    Attributes:
        maker: tensor -> the node that computes it.
        readers: tensor -> how many node inputs and graph outputs it is.
        constants: initializers by name.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.maker = producers(graph)
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(output.name for output in graph.output)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._depth: dict[str, int] = {}
        for node in graph.node:  # in topological order
            depth = max((self._depth.get(name, 0) for name in node.input), default=0) + (node.op_type in LAYERS)
            self._depth.update(dict.fromkeys(node.output, depth))

    def residual(self, node: NodeProto) -> tuple[int, int] | None:
        """The inputs of a residual sum: (index of the convolution's output, index of the skip); None if the node is not such a sum.

        Only the sum may read the convolution's output. If both inputs come from convolutions (a block that changes the resolution), the
        deeper one is the block and the other the skip.
        """
        if node.op_type != "Add" or len(node.input) != 2 or any(name in self.constants for name in node.input):
            return None
        fusable = [
            i
            for i, name in enumerate(node.input)
            if (source := self.maker.get(name)) is not None and source.op_type == "Conv" and self.readers[name] == 1
        ]
        if not fusable:
            return None
        main = max(fusable, key=lambda i: (self._depth[node.input[i]], -i))
        return main, 1 - main


def layer_channels(node: NodeProto, weight: TensorProto) -> int:
    """The number of input channels of a layer."""
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(attribute(node, "group", 1))
    if node.op_type == "Gemm":
        return int(weight.dims[1 if attribute(node, "transB", 0) else 0])
    return int(weight.dims[0])


def output_axis(node: NodeProto) -> int:
    """The axis of the output channels in a layer's weight."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def quantize_signed(
    model: ModelProto, ranges: Mapping[str, tuple[float, float]], float_nodes: Collection[str]
) -> ModelProto:
    """Return a copy of a float model with Q/DQ nodes as TensorRT reads them best.

    Args:
        model: float, opset 13 to 17, in topological order, with its weights as initializers.
        ranges: ranges of the activations, by tensor.
        float_nodes: names of nodes that stay in float.
    """
    quantized = ModelProto()
    quantized.CopyFrom(model)
    wiring = Wiring(quantized)
    qdq = _QdqPairs(quantized)
    done: set[str] = set()
    for node in wiring.nodes:
        if node.name in float_nodes or not _quantizable(node, wiring, ranges):
            continue
        weight = wiring.constants[node.input[1]]
        node.input[1] = qdq.of_weight(weight, output_axis(node))
        node.input[0] = qdq.of_activation(node.input[0], ranges[node.input[0]])
        done.update(node.output)
    for node in wiring.nodes:
        found = wiring.residual(node)
        if (
            found is None
            or node.name in float_nodes
            or node.input[found[0]] not in done
            or node.input[found[1]] not in ranges
        ):
            continue
        skip = node.input[found[1]]
        node.input[found[1]] = qdq.of_activation(skip, ranges[skip])
    qdq.insert()
    return quantized


def _quantizable(node: NodeProto, wiring: Wiring, ranges: Mapping[str, tuple[float, float]]) -> bool:
    if node.op_type not in LAYERS or node.input[0] not in ranges:
        return False
    weight = wiring.constants.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
        return False
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return False
    if node.op_type not in CONVOLUTIONS:
        return True
    channels = layer_channels(node, weight)
    return (
        channels >= FEWEST_CHANNELS and channels % 4 == 0
    )  # kernels read four channels at once; TensorRT 11 has only such kernels


class _QdqPairs:
    """The Q/DQ pairs of one model: one for each activation, however many layers read it."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.by_tensor: dict[str, list[NodeProto]] = {}  # tensor -> its QuantizeLinear and DequantizeLinear

    def of_activation(self, name: str, extremes: tuple[float, float]) -> str:
        scale = np.float32(max(max(map(abs, extremes)) / _LARGEST, _SMALLEST_SCALE))
        return self._pair(name, np.array(scale), None)

    def of_weight(self, weight: TensorProto, axis: int) -> str:
        values = numpy_helper.to_array(weight)
        others = tuple(i for i in range(values.ndim) if i != axis)
        scales = np.maximum(np.abs(values).max(axis=others) / _LARGEST, _SMALLEST_SCALE).astype(np.float32)
        return self._pair(weight.name, scales, axis)

    def _pair(self, name: str, scale: NDArray[np.float32], axis: int | None) -> str:
        if name not in self.by_tensor:
            names = [f"{name}_scale", f"{name}_zero_point"]
            arrays: list[NDArray[np.generic]] = [scale, np.zeros(scale.shape, np.int8)]
            self.graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
            q, dq = f"{name}_QuantizeLinear", f"{name}_DequantizeLinear"
            pair = [
                helper.make_node("QuantizeLinear", [name, *names], [q], name=q),
                helper.make_node("DequantizeLinear", [q, *names], [dq], name=dq),
            ]
            if axis is not None:
                for node in pair:
                    node.attribute.append(helper.make_attribute("axis", axis))
            self.by_tensor[name] = pair
        return self.by_tensor[name][1].output[0]

    def insert(self) -> None:
        """Insert every pair directly after the node that computes its tensor."""
        nodes = list(self.graph.node)
        computed = {name for node in nodes for name in node.output}
        ordered = [node for name, pair in self.by_tensor.items() if name not in computed for node in pair]
        for node in nodes:
            ordered.append(node)
            for name in node.output:
                ordered.extend(self.by_tensor.get(name, []))
        ordered = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
