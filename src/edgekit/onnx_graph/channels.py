"""The order of the channels: images are RGB, and some networks were trained on BGR.

Reversing the order costs a copy of the image. If a convolution comes next, its weights are reversed instead, which computes the same sums.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

REVERSED = [2, 1, 0]
_BETWEEN = {"Pad", "Transpose"}  # operators allowed between, which do not mix channels


def fold_reversal(model: ModelProto) -> ModelProto:
    """Reverse the weights of the first convolution instead of the image, if nothing else reads the reversed image; changes `model`.

    Args:
        model: a graph whose constants are initializers and whose shapes are written in it.
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[1] not in constants:
            continue
        complete = shapes.get(node.input[0], []) == shapes.get(node.output[0])  # no channel is left out
        if not complete or numpy_helper.to_array(constants[node.input[1]]).tolist() != REVERSED:
            continue
        if (convolution := _next_convolution(graph, node, set(constants))) is not None:
            _turn(graph, node, convolution)
    return model


def _next_convolution(graph: GraphProto, gather: NodeProto, constants: set[str]) -> NodeProto | None:
    """The convolution over three channels that is the only reader of a Gather's output; None if there is none."""
    value, axis = gather.output[0], next((a.i for a in gather.attribute if a.name == "axis"), 0)
    while True:
        readers = [node for node in graph.node if value in node.input]
        if len(readers) != 1 or any(output.name == value for output in graph.output):
            return None
        (node,) = readers
        if node.op_type == "Conv":
            grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
            shared = sum(node.input[1] in other.input for other in graph.node) > 1
            return None if axis != 1 or grouped or shared or node.input[1] not in constants else node
        if node.op_type not in _BETWEEN or node.input[0] != value:
            return None
        if node.op_type == "Transpose":
            axis = next(list(a.ints) for a in node.attribute if a.name == "perm").index(axis)
        value = node.output[0]


def _turn(graph: GraphProto, gather: NodeProto, convolution: NodeProto) -> None:
    for weights in graph.initializer:
        if weights.name == convolution.input[1]:
            turned = np.ascontiguousarray(numpy_helper.to_array(weights)[:, ::-1])
            weights.CopyFrom(numpy_helper.from_array(turned, weights.name))
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == gather.output[0]:
                node.input[i] = gather.input[0]
    for known in [v for v in graph.value_info if v.name == gather.output[0]]:
        graph.value_info.remove(known)
    order = gather.input[1]
    graph.node.remove(gather)
    if not any(order in node.input for node in graph.node):
        graph.initializer.remove(next(t for t in graph.initializer if t.name == order))
