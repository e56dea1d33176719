"""The values of a graph and the nodes that compute them."""

from __future__ import annotations

from onnx import GraphProto, NodeProto


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that computes each value. The empty name, of an output that is left out, is no value."""
    return {name: node for node in graph.node for name in node.output if name}
