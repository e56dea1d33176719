"""A float ONNX as the graph of a `.tflite`: every operator that can be converted, and the conversion."""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import ModelProto

from edgekit.export.litert import convolutions, elementwise, matrices, pooling, shapes, spatial
from edgekit.export.litert.facts import observe
from edgekit.export.litert.graph import Graph, LiteScale, LiteTensor
from edgekit.export.litert.layout import plain
from edgekit.export.litert.lowering import Lower, Lowering, Node
from edgekit.export.litert.patterns import with_gelu

TABLE: dict[str, Lower] = {
    **convolutions.TABLE,
    **pooling.TABLE,
    **elementwise.TABLE,
    **matrices.TABLE,
    **shapes.TABLE,
    **spatial.TABLE,
}


def lower(model: ModelProto) -> Graph:
    """Convert a float ONNX, node by node, to the graph of a `.tflite` that computes the same.

    Args:
        model: opset 17, simplified (see `graph.simplify`), uint8 image (n, h, w, 3) -> float32 outputs; batch free or fixed.

    Raises:
        ExportError: it has an operator that cannot be converted, or an image of open size.
    """
    nodes = with_gelu(model)
    outputs = [output.name for output in model.graph.output]
    readers = Counter(name for node in nodes for name in dict.fromkeys(node.inputs))
    readers.update(outputs)
    state = Lowering(observe(model), readers)
    (image,) = model.graph.input
    pixels = LiteTensor(image.name, state.sides(image.name), np.dtype(np.uint8), scale=LiteScale.single(1.0, 0))
    state.graph.inputs.append(pixels)
    state.set(image.name, pixels, plain(len(pixels.sides)))
    for node in nodes:
        if all(name in state.facts.pixelless for name in node.outputs if name):
            continue
        state.node = node
        if node.op not in TABLE:
            raise state.refuse()
        TABLE[node.op](state, node)
    for name in outputs:
        _give(state, name)
    state.graph.remove_dead()
    return state.graph


def _give(state: Lowering, name: str) -> None:
    """Make a value an output of the graph, in the order of ONNX, as its own tensor."""
    state.node = Node("output", name, (), (), {})
    tensor = state.physical(name, plain(len(state.sides(name))))
    if tensor.data is not None or tensor in state.graph.inputs or tensor in state.graph.outputs.values():
        sizes = state.constant(np.array([-1, *(s[0] for s in tensor.sides[1:])], np.int32))
        tensor = state.emit("RESHAPE", [tensor, sizes], tensor.sides, source=tensor.source, newShape=sizes.data)
    state.graph.outputs[name] = tensor
