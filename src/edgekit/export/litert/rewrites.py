"""What XNNPACK does not compute in INT8, written with operators that it does: each of the others would cut the graph in two."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.export.litert.graph import NONE, RELU6, VALID, Graph, LiteTensor, Operator, constant

Range = tuple[float, float]


def for_integers(graph: Graph, ranges: Mapping[str, Range], kept: Collection[str], lacks: Collection[str]) -> Graph:
    """A float graph that computes the same with other operators.

    Args:
        graph: is left as it is.
        ranges: of the activations, by ONNX value: what has none stays in float and is not rewritten.
        kept: names of the ONNX nodes that stay in float.
        lacks: kinds of operators that are rewritten, of `REWRITES`.
    """
    found = Graph([], list(graph.inputs), dict(graph.outputs), dict(graph.metadata))
    skipped: set[int] = set()
    for operator in graph.operators:
        if id(operator) in skipped:
            continue
        source, output = operator.inputs[0], operator.outputs[0]
        rewritten: list[Operator] | None = None
        if operator.node not in kept and source is not None and source.source in ranges:
            if (
                operator.kind == "MUL"
                and (added := _summand(graph, operator)) is not None
                and added.outputs[0].source in ranges
            ):
                rewritten = [_per_channel(operator, added)]
                skipped.add(id(added))
            elif output.source in ranges and operator.kind in lacks:
                rewritten = REWRITES[operator.kind](operator)
        found.operators += rewritten or [_copy(operator)]
    return found


def _copy(operator: Operator) -> Operator:
    return Operator(operator.kind, list(operator.inputs), operator.outputs, operator.options, operator.node)


def _hard_swish(operator: Operator) -> list[Operator] | None:
    """x relu6(x + 3) / 6 (Howard et al. 2019, arXiv 1905.02244, section 5.2)."""
    source, output = operator.inputs[0], operator.outputs[0]
    three, sixth = (constant(f"{output.name}/{v:.3g}", np.array([v], np.float32)) for v in (3.0, 1 / 6))
    gate, share = (LiteTensor(f"{output.name}/{name}", output.sides) for name in ("gate", "share"))
    none = {"fusedActivationFunction": NONE}
    return [
        Operator("ADD", [source, three], [gate], {"fusedActivationFunction": RELU6}, operator.node),
        Operator("MUL", [gate, sixth], [share], none, operator.node),
        Operator("MUL", [source, share], [output], none, operator.node),
    ]


def _average_pool(operator: Operator) -> list[Operator] | None:
    """A depthwise convolution whose weights are all the same; not where the border counts for nothing (SAME)."""
    options, source, output = operator.options, operator.inputs[0], operator.outputs[0]
    if options["padding"] != VALID:
        return None
    height, width, channels = options["filterHeight"], options["filterWidth"], output.shape[3]
    kernel = np.full((1, height, width, channels), 1 / (height * width), np.float32)
    bias, strides = np.zeros(channels, np.float32), (options["strideH"], options["strideW"])
    return [_depthwise(operator, source, output, kernel, bias, options["fusedActivationFunction"], strides)]


def _per_channel(factor: Operator, added: Operator) -> Operator:
    """A factor and a summand a channel (a BatchNorm that no convolution took up) as a convolution of one pixel."""
    scale, shift = factor.inputs[1], added.inputs[1]
    assert scale is not None
    assert shift is not None
    assert scale.data is not None
    assert shift.data is not None
    kernel = scale.data.reshape(1, 1, 1, -1)
    activation = added.options["fusedActivationFunction"]
    return _depthwise(factor, factor.inputs[0], added.outputs[0], kernel, shift.data, activation, (1, 1))


def _summand(graph: Graph, operator: Operator) -> Operator | None:
    """The ADD of one number a channel that alone reads a MUL of one number a channel over an image; None where it is not so."""
    output = operator.outputs[0]
    if not _is_per_channel(operator) or output in graph.outputs.values():
        return None
    readers = graph.readers(output)
    if (
        len(readers) != 1
        or readers[0].kind != "ADD"
        or readers[0].node != operator.node
        or not _is_per_channel(readers[0])
    ):
        return None
    return readers[0]


def _is_per_channel(operator: Operator) -> bool:
    source, other = operator.inputs[0], operator.inputs[1]
    return (
        source is not None and source.data is None and other is not None and other.data is not None
        and len(source.sides) == 4 and other.shape == (source.shape[3],)
    )  # fmt: skip


def _depthwise(
    operator: Operator,
    source: LiteTensor | None,
    output: LiteTensor,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    activation: int,
    strides: tuple[int, int],
) -> Operator:
    weights, added = constant(f"{output.name}/weight", kernel), constant(f"{output.name}/bias", bias)
    options = {
        "padding": VALID, "strideH": strides[0], "strideW": strides[1], "dilationHFactor": 1, "dilationWFactor": 1,
        "depthMultiplier": 1, "fusedActivationFunction": activation,
    }  # fmt: skip
    return Operator("DEPTHWISE_CONV_2D", [source, weights, added], [output], options, operator.node)


REWRITES: dict[str, Callable[[Operator], list[Operator] | None]] = {
    "HARD_SWISH": _hard_swish,
    "AVERAGE_POOL_2D": _average_pool,
}
