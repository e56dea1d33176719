"""Cast, layout and normalization at the start of a graph, in the form that runs fastest.

Statistics with one number per channel are slow: in INT8, ONNX Runtime removes the transpose, which leaves a broadcast over an innermost
axis of three values. Expanded over the whole image when the file is loaded (an `Expand` of constants, which every runtime folds), they are
as fast as a single number.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edgekit.onnx_graph.names import unique

_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_BEFORE = {"Cast", "Transpose", *_ARITHMETIC}  # operators allowed before the first layer


def spread(model: ModelProto) -> ModelProto:
    """Expand constants (3, 1, 1) between the image and the first layer to (1, 3, h, w); changes `model`.

    Graphs that normalize with single numbers are not changed.

    Args:
        model: takes one image, uint8 (n, h, w, 3).
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    value = graph.input[0].name
    _, height, width, _ = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    for node in _chain(graph, value):
        for i, name in enumerate(node.input):
            if node.op_type in _ARITHMETIC and name in constants and list(constants[name].dims)[-3:] == [3, 1, 1]:
                node.input[i] = _expanded(model, node, name, [1, 3, height, width])
    return model


def _chain(graph: onnx.GraphProto, value: str) -> list[NodeProto]:
    """The nodes from the image to the first layer, as far as each has only one reader."""
    found: list[NodeProto] = []
    while True:
        users = [node for node in graph.node if value in node.input]
        if len(users) != 1 or users[0].op_type not in _BEFORE:
            return found
        found.append(users[0])
        value = users[0].output[0]


def _expanded(model: ModelProto, before: NodeProto, name: str, shape: list[int]) -> str:
    """Insert an Expand of a constant before a node; return the name of its output."""
    graph = model.graph
    taken = {value for node in graph.node for value in (*node.input, *node.output)}
    result, size = unique(f"{name}_over_image", taken), "image_shape"
    if size not in {t.name for t in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), size))
    node = onnx.helper.make_node("Expand", [name, size], [result], name=f"{before.name or before.op_type}_over_image")
    graph.node.insert(list(graph.node).index(before), node)
    return result
