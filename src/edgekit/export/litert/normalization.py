"""The normalization of the pixels by rows: a number for each of three channels is the slowest broadcast that XNNPACK has."""

from __future__ import annotations

import numpy as np

from edgekit.export.litert.graph import Graph, LiteTensor, Operator, Sides, constant

_ELEMENTWISE = {"ADD", "SUB", "MUL", "DIV"}


def by_rows(graph: Graph) -> Graph:
    """Return a graph that computes the same and normalizes its image as rows of `width x channels` numbers.

    XNNPACK broadcasts along the last axis in calls of that many numbers. Three of them, one per channel, took 115 µs for an image of 96 x 96
    pixels (AVX-512, one thread), half the time of a MobileNetV3-small in INT8; rows take 15 µs, the two reshapes included. One number for all
    channels is as fast, and is left as it is.

    Args:
        graph: float; is left as it is. Its image is uint8 (n, h, w, channels).
    """
    chain = _normalization(graph)
    if not any(_operands(operator)[1].shape for operator in chain):
        return graph
    pixels, normalized = _operands(chain[0])[0], chain[-1].outputs[0]
    batch, height, width, channels = pixels.sides
    across = width[0] * channels[0]
    sides: Sides = (batch, height, (across, across))
    rows = LiteTensor(f"{pixels.name}/rows", sides, source=pixels.source)
    made = [_reshape(pixels, rows, chain[0].node)]
    for operator in chain:
        last = operator is chain[-1]
        output = LiteTensor(
            f"{operator.outputs[0].name}/rows", sides, source="" if last else operator.outputs[0].source
        )
        inputs: list[LiteTensor | None] = [
            rows if t is None or t.data is None else _repeated(t, width[0]) for t in operator.inputs
        ]
        made.append(Operator(operator.kind, inputs, [output], operator.options, operator.node))
        rows = output
    made.append(_reshape(rows, normalized, chain[-1].node))
    at = graph.operators.index(chain[-1])
    others = [operator for operator in graph.operators[:at] if operator not in chain]
    return Graph(
        [*others, *made, *graph.operators[at + 1 :]], list(graph.inputs), dict(graph.outputs), dict(graph.metadata)
    )


def _normalization(graph: Graph) -> list[Operator]:
    """The operators after the pixels that compute with one constant each: of one number, or of one for each channel."""
    first = graph.operators[0] if graph.operators else None
    if (
        first is None
        or first.kind != "DEQUANTIZE"
        or first.inputs != [graph.inputs[0]]
        or len(first.outputs[0].sides) != 4
    ):
        return []
    value, found = first.outputs[0], []
    while value not in graph.outputs.values():
        readers = graph.readers(value)
        if len(readers) != 1 or readers[0].kind not in _ELEMENTWISE or readers[0].outputs[0].sides != value.sides:
            break
        constants = [t for t in readers[0].inputs if t is not None and t.data is not None]
        if len(constants) != 1 or constants[0].shape not in {(), (1,), value.shape[-1:]}:
            break
        found.append(readers[0])
        value = readers[0].outputs[0]
    return found


def _operands(operator: Operator) -> tuple[LiteTensor, np.ndarray]:
    """What an operator of the normalization reads, and its constant; of one number without an axis."""
    tensor, number = operator.inputs
    assert tensor is not None
    assert number is not None
    if tensor.data is not None:
        tensor, number = number, tensor
    assert number.data is not None
    return tensor, number.data.reshape(()) if number.data.size == 1 else number.data


def _repeated(tensor: LiteTensor, times: int) -> LiteTensor:
    assert tensor.data is not None
    return tensor if tensor.data.size == 1 else constant(f"{tensor.name}/rows", np.tile(tensor.data, times))


def _reshape(source: LiteTensor, target: LiteTensor, node: str) -> Operator:
    shape = [-1 if a != b else a for a, b in target.sides]
    sizes = constant(f"{target.name}/shape", np.array(shape, np.int32))
    return Operator("RESHAPE", [source, sizes], [target], {"newShape": shape}, node)
