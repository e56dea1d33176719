"""The tail of a graph: everything behind its last convolutions, which some tasks keep in float32 in every precision.

Distances are differences of large numbers, and whitening enlarges what is small: 8 bits, and half precision, lose there what the
convolutions before have kept. The tail is small beside them.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto

_KEY, _VALUE = "float_tail", "true"
_LAYERS = {"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"}


def mark_tail(model: ModelProto) -> None:
    """Record in a graph that its tail stays in float32; every file made from it inherits that. Changes `model`."""
    known = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, _KEY: _VALUE})


def tail_of(model: ModelProto) -> list[NodeProto]:
    """The nodes behind the last convolutions, in the order of the graph; none where the graph is not marked.

    Behind means: no convolution, directly or through others, reads what the node gives. A node between two convolutions is none of them.
    """
    if not any((prop.key, prop.value) == (_KEY, _VALUE) for prop in model.metadata_props):
        return []
    read = set[str]()  # by convolutions, directly or not
    found: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if node.op_type in _LAYERS or read & set(node.output):
            read.update(node.input)
        else:
            found.append(node)
    return found[::-1]
