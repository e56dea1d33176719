"""FP16: the weights as float16 behind a DEQUANTIZE each, which halves the file; LiteRT computes in what the processor has."""

from __future__ import annotations

import numpy as np

from edgekit.export.litert.graph import Graph, LiteTensor, Operator

_FEWEST = 64  # numbers of a constant that is worth an operator of its own
_LARGEST = float(np.finfo(np.float16).max)
_LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}  # whose weights XNNPACK takes so


def halve(graph: Graph) -> int:
    """Store the weights of layers as float16; changes the graph.

    A weight with a number that float16 cannot hold stays as it is.

    Returns:
        How many weights are float16 now.
    """
    made: dict[int, LiteTensor] = {}
    added: list[Operator] = []
    for operator in graph.operators:
        if operator.kind not in _LAYERS:
            continue
        weight = operator.inputs[1]
        if weight is None or weight.data is None or weight.dtype != np.float32 or weight.data.size < _FEWEST:
            continue
        if float(np.abs(weight.data).max()) > _LARGEST:
            continue
        if id(weight) not in made:
            stored = LiteTensor(
                f"{weight.name}/half", weight.sides, np.dtype(np.float16), weight.data.astype(np.float16)
            )
            made[id(weight)] = LiteTensor(weight.name, weight.sides)
            added.append(Operator("DEQUANTIZE", [stored], [made[id(weight)]], {}, operator.node))
        operator.inputs[1] = made[id(weight)]
    graph.operators[:0] = added
    return len(made)
