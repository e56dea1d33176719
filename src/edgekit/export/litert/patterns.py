"""What several nodes of ONNX say and one operator of LiteRT does: GELU."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from onnx import ModelProto, numpy_helper

from edgekit.export.litert.lowering import Node

GELU = "Gelu"


def with_gelu(model: ModelProto) -> list[Node]:
    """The nodes of a graph, 0.5 x (1 + erf(x / sqrt 2)) as one node `Gelu` (Hendrycks and Gimpel 2016), wherever it stands in that form."""
    nodes = [Node.of(node) for node in model.graph.node]
    graph = _Wiring(model, nodes)
    gone: set[str] = set()
    found: dict[str, Node] = {}
    for erf in [node for node in nodes if node.op == "Erf"]:
        match = _gelu(graph, erf)
        if match is not None:
            source, last, inner = match
            found[last.outputs[0]] = Node(GELU, last.name, (source,), last.outputs, {})
            gone.update(inner)
    kept = [
        found.get(node.outputs[0], node) for node in nodes if node.outputs[0] in found or node.outputs[0] not in gone
    ]
    return _without_unread(kept, {output.name for output in model.graph.output})


class _Wiring:
    def __init__(self, model: ModelProto, nodes: list[Node]) -> None:
        self.maker = {name: node for node in nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        self.outputs = {output.name for output in model.graph.output}
        self.numbers: dict[str, float] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers[name].append(node)
        for tensor in model.graph.initializer:
            if math.prod(tensor.dims) == 1:
                self.numbers[tensor.name] = float(numpy_helper.to_array(tensor).reshape(-1)[0])

    def reader(self, name: str, op: str) -> Node | None:
        """The one node that reads a value, if it is of that operator."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and readers[0].op == op and name not in self.outputs else None

    def beside(self, node: Node, name: str) -> str:
        """The other one of two inputs."""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def is_number(self, name: str, number: float) -> bool:
        return name in self.numbers and bool(np.isclose(self.numbers[name], number, rtol=1e-5))

    def scaled(self, name: str, factor: float) -> str | None:
        """What a value is `factor` times of, if a Mul or Div says so."""
        node = self.maker.get(name)
        if node is None or node.op not in {"Mul", "Div"}:
            return None
        if self.is_number(node.inputs[1], factor if node.op == "Mul" else 1 / factor):
            return node.inputs[0]
        return node.inputs[1] if node.op == "Mul" and self.is_number(node.inputs[0], factor) else None


def _gelu(graph: _Wiring, erf: Node) -> tuple[str, Node, list[str]] | None:
    """What GELU is computed of, the last node of it, and the values between."""
    source = graph.scaled(erf.inputs[0], 1 / math.sqrt(2))
    plus = graph.reader(erf.outputs[0], "Add")
    if source is None or plus is None or not graph.is_number(graph.beside(plus, erf.outputs[0]), 1.0):
        return None
    product = graph.reader(plus.outputs[0], "Mul")
    if product is None:
        return None
    inner = [erf.outputs[0], plus.outputs[0]]
    other = graph.beside(product, plus.outputs[0])
    if graph.scaled(other, 0.5) == source:
        return source, product, inner
    last = graph.reader(product.outputs[0], "Mul")
    if last is None:
        return None
    left = graph.beside(last, product.outputs[0])
    halved = other == source and graph.is_number(left, 0.5)
    if halved or (graph.is_number(other, 0.5) and left == source):
        return source, last, [*inner, product.outputs[0]]
    return None


def _without_unread(nodes: list[Node], outputs: set[str]) -> list[Node]:
    alive = set(outputs)
    kept = []
    for node in reversed(nodes):
        if alive & set(node.outputs):
            kept.append(node)
            alive.update(node.inputs)
    return kept[::-1]
