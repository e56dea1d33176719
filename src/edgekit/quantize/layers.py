"""The layers of a float ONNX graph: their weights, how they are connected, and the nodes between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.onnx_graph.values import producers

LAYERS = {"Conv", "Gemm", "MatMul"}
# Nodes allowed between two layers whose channels are scaled: f(s x) = s f(x) for each channel and every s > 0.
HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}


class LayerGraph:
    """A model with look-up tables for rewriting. Weights of `model` may be changed; nodes and tensor names must not be.

    Args:
        model: opset 17, with its weights inside.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.maker = producers(model.graph)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in model.graph.output}

    def value(self, name: str) -> NDArray[np.float32]:
        """A weight, as a copy."""
        return numpy_helper.to_array(self.weights[name]).copy()

    def set(self, name: str, value: NDArray[np.float32]) -> None:
        """Change a weight."""
        self.weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))

    def layers(self) -> list[NodeProto]:
        """The nodes that multiply by a weight of their own, in the order of the graph."""
        return [node for node in self.model.graph.node if node.op_type in LAYERS and self.weight(node) is not None]

    def weight(self, node: NodeProto) -> str | None:
        """The name of a layer's weight, float32 and read by no other node; None if it has none."""
        if node.op_type not in LAYERS or len(node.input) < 2:
            return None
        name = node.input[1]
        own = name in self.weights and len(self.readers[name]) == 1
        return name if own and self.weights[name].data_type == TensorProto.FLOAT else None

    def bias(self, node: NodeProto) -> str | None:
        """The name of a Conv's or Gemm's own bias; None if it has none."""
        if node.op_type not in {"Conv", "Gemm"} or len(node.input) < 3 or node.input[2] not in self.weights:
            return None
        return node.input[2] if len(self.readers[node.input[2]]) == 1 else None

    def sole_reader(self, name: str) -> NodeProto | None:
        """The only node that reads a tensor; None if several do, or if it is an output of the model."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


@dataclass(frozen=True)
class EqualizablePair:
    """Layers that can be equalized: two layers with only homogeneous nodes between them, or all writers and all readers of a residual stream.

    Attributes:
        first: the layers that write the channels: Convs or Gemms (the outputs of several are summed), or one LayerNormalization.
        second: the layers that read the channels; several only after a sum or a LayerNormalization.
        tensors: the tensors that the second layers read: one, or several of a stream.
        between: the nodes between the first and the second.
        ceiling: the upper bound of a Clip between them (6 for ReLU6); None without a Clip.
    """

    first: tuple[NodeProto, ...]
    second: tuple[NodeProto, ...]
    tensors: tuple[str, ...]
    between: tuple[NodeProto, ...] = ()
    ceiling: float | None = field(default=None)


def layer_pairs(graph: LayerGraph) -> list[EqualizablePair]:
    """Pairs of one Conv or Gemm after another, with only homogeneous nodes or a Clip from 0 between them, each read by the next node alone."""
    found = []
    for first in graph.layers():
        if first.op_type == "MatMul":
            continue
        between: list[NodeProto] = []
        ceiling, tensor = None, first.output[0]
        while (node := graph.sole_reader(tensor)) is not None and tensor == node.input[0]:
            if node.op_type in {"Conv", "Gemm"}:
                if graph.weight(node) is not None and _same_channels(graph, first, node):
                    found.append(EqualizablePair((first,), (node,), (tensor,), tuple(between), ceiling))
                break
            if node.op_type == "Clip":
                low, high = clip_bounds(graph, node)
                if low != 0.0 or high is None or ceiling is not None:
                    break
                ceiling = high
            elif node.op_type not in HOMOGENEOUS:
                break
            between.append(node)
            tensor = node.output[0]
    return found


def streams(graph: LayerGraph) -> list[EqualizablePair]:
    """The residual streams whose channels can be scaled, each with all layers that write and all that read it.

    A stream is a group of tensors that sums and homogeneous nodes connect: all carry the same channels, so they share one factor for each
    channel. A stream that any other node writes or reads (a Clip, a product, the graph's output) is left out.
    """
    found = []
    for tensors, nodes in _tied(graph):
        inside = {node.name for node in nodes}
        sums = [node for node in nodes if node.op_type == "Add"]
        makers = [graph.maker[name] for name in tensors if name in graph.maker]
        readers = [(node, name) for name in tensors for node in graph.readers.get(name, [])]
        first = [node for node in makers if node.name not in inside]
        second = [(node, name) for node, name in readers if node.name not in inside]
        complete = len(makers) == len(tensors) and not graph.outputs.intersection(tensors)
        scaled = all(_scales(graph, node) for node in first) and all(
            node.input[0] == name and _scales(graph, node) for node, name in second
        )
        if sums and first and second and complete and scaled:
            read = tuple(node for node, _ in second)
            if all(_same_channels(graph, writer, node) for writer in first for node in read):
                found.append(
                    EqualizablePair(tuple(first), read, tuple(dict.fromkeys(name for _, name in second)), tuple(nodes))
                )
    return found


def _tied(graph: LayerGraph) -> list[tuple[list[str], list[NodeProto]]]:
    """Groups of tensors that carry the same channels, each with the sums and homogeneous nodes that connect it, in the order of the graph."""
    group: dict[str, str] = {}

    def of(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    ties = []
    for node in graph.model.graph.node:
        names = [*node.input, *node.output]
        if node.op_type == "Add":
            tie = not any(name in graph.weights for name in node.input)
        else:
            tie = node.op_type in HOMOGENEOUS
        if tie:
            ties.append(node)
            for name in names:
                group[of(name)] = of(names[0])
    found: dict[str, tuple[list[str], list[NodeProto]]] = {}
    for name in list(group):
        found.setdefault(of(name), ([], []))[0].append(name)
    for node in ties:
        found[of(node.output[0])][1].append(node)
    return list(found.values())


def _scales(graph: LayerGraph, node: NodeProto) -> bool:
    """Whether a node is a layer whose channels can be scaled: a Conv or Gemm whose weight and bias (if any) no other node reads."""
    if node.op_type not in {"Conv", "Gemm"} or graph.weight(node) is None:
        return False
    return len(node.input) < 3 or not node.input[2] or graph.bias(node) is not None


def normalized_pairs(graph: LayerGraph) -> list[EqualizablePair]:
    """LayerNormalizations whose output only MatMuls and Gemms with weights of their own read, with these."""
    found = []
    for node in graph.model.graph.node:
        if node.op_type != "LayerNormalization" or len(node.input) < 2 or node.output[0] in graph.outputs:
            continue
        readers = graph.readers.get(node.output[0], [])
        if not readers or any(n not in graph.weights or len(graph.readers[n]) > 1 for n in node.input[1:3]):
            continue
        layers = all(
            r.op_type in {"MatMul", "Gemm"} and r.input[0] == node.output[0] and graph.weight(r) is not None
            for r in readers
        )
        if layers and len(graph.value(node.input[1]).shape) == 1:
            found.append(EqualizablePair((node,), tuple(readers), (node.output[0],)))
    return found


def clip_bounds(graph: LayerGraph, node: NodeProto) -> tuple[float | None, float | None]:
    """The lower and the upper bound of a Clip; None for a bound that is missing or computed."""
    bounds = [
        float(graph.value(name).item()) if name in graph.weights else None for name in (*node.input[1:3], "", "")
    ][:2]
    return bounds[0], bounds[1]


def output_axis(node: NodeProto) -> int:
    """The axis of the output channels in a layer's weight."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def by_input_channel(node: NodeProto, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A layer's weight as (input channels, all weights that multiply this channel)."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])  # (g, o/g, i/g, h, w)
        return np.moveaxis(parts, 2, 1).reshape(groups * weight.shape[1], -1)
    return weight if output_axis(node) == 1 else weight.T


def scale_inputs(node: NodeProto, weight: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight, its part for input channel i multiplied by factor[i]."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return (parts * factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    return weight * (factor[:, None] if output_axis(node) == 1 else factor)


def scale_outputs(node: NodeProto, weight: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight, its part for output channel i multiplied by factor[i]."""
    shape = [1] * weight.ndim
    shape[output_axis(node)] = -1
    return weight * factor.reshape(shape)


def depthwise(node: NodeProto, weight: NDArray[np.float32]) -> bool:
    """Whether a Conv is depthwise: every output channel reads one input channel."""
    return node.op_type == "Conv" and weight.shape[1] == 1 and attribute(node, "group", 1) > 1


def _same_channels(graph: LayerGraph, first: NodeProto, second: NodeProto) -> bool:
    """Whether the second layer reads as many channels as the first writes (after a Flatten of a map there are more)."""
    made, read = graph.weight(first), graph.weight(second)
    assert made is not None
    assert read is not None
    rank = 4 if first.op_type == "Conv" else 2
    if (second.op_type == "Conv") != (rank == 4) or attribute(first, "transA", 0) or attribute(second, "transA", 0):
        return False
    channels = graph.value(made).shape[output_axis(first)]
    return by_input_channel(second, graph.value(read)).shape[0] == channels
