"""Where TensorRT wants quantize/dequantize pairs: signed, symmetric, on what enters a layer and on the skip of a residual sum.

The rules are those of TensorRT's guide ("Working with quantized types", placement of Q/DQ): a layer is computed in INT8 when its
activation and its weight come out of pairs; what follows it (bias, ReLU, the sum of a residual block) is fused into it only
if no pair stands between. Weights keep their float values, quantized by a pair of their own; biases are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
CONVOLUTIONS = {"Conv", "ConvTranspose"}
FEWEST_CHANNELS = 16  # of a convolution's input; with fewer, INT8 is no faster than FP16
_LARGEST = 127
_SMALLEST_SCALE = 2.0**-24  # the smallest number of FP16, which the scales will be stored in


class Wiring:
    """Who makes and who reads the tensors of a graph.

    Attributes:
        maker: tensor -> the node that computes it.
        readers: tensor -> how many inputs of nodes and outputs of the graph it is.
        constants: the initializers by name.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(output.name for output in graph.output)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._depth: dict[str, int] = {}
        for node in graph.node:  # in topological order
            depth = max((self._depth.get(name, 0) for name in node.input), default=0) + (node.op_type in LAYERS)
            self._depth.update(dict.fromkeys(node.output, depth))

    def residual(self, node: NodeProto) -> tuple[int, int] | None:
        """The inputs of a residual sum, as (the one that a convolution makes for it alone, the skip); None if it is no such sum.

        Where both come from convolutions (a block that changes the resolution), the deeper one is the block and the other the skip.
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
    """How many channels a layer reads."""
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(attribute(node, "group", 1))
    if node.op_type == "Gemm":
        return int(weight.dims[1 if attribute(node, "transB", 0) else 0])
    return int(weight.dims[0])


def output_axis(node: NodeProto) -> int:
    """The axis of a layer's weight along which its output channels lie."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def quantize_signed(model: ModelProto, ranges: Mapping[str, tuple[float, float]], float_nodes: Collection[str]) -> ModelProto:
    """A copy of a float model with the pairs that TensorRT reads best.

    Args:
        model: float, opset 13 to 17; in topological order, its weights as initializers.
        ranges: of the activations, by tensor.
        kept: names of nodes that stay in float.
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
        if found is None or node.name in float_nodes or node.input[found[0]] not in done or node.input[found[1]] not in ranges:
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
    )  # kernels read four channels at once; TensorRT 11 has no others


class _QdqPairs:
    """The pairs of one model: one for each activation, however many layers read it."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.by_tensor: dict[str, list[NodeProto]] = {}  # tensor -> its pair

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
        """Put every pair right behind what makes its tensor."""
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
