"""Layer sensitivity: the gain when one layer, or one block of layers, stays in float; measured without labels in the runtime that will
serve the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from onnx import GraphProto, ModelProto, NodeProto

from edgekit.onnx_graph.values import producers
from edgekit.progress import Advance
from edgekit.quantization import LayerSensitivityRecord
from edgekit.quantize.blocks import name_of
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.layers import HOMOGENEOUS, LAYERS, LayerGraph
from edgekit.quantize.qdq import kept_in_float

T = TypeVar("T")
Exclude = tuple[str, ...]
_ACTIVATIONS = {"Clip", *HOMOGENEOUS} - {"MaxPool", "AveragePool", "GlobalAveragePool"}


@dataclass(frozen=True)
class LayerSensitivity:
    """The sensitivity of a layer or of a block of layers.

    Attributes:
        layer: name of the node or of the block.
        operator: Conv, Gemm or MatMul, or the number of layers.
        agreement: agreement with the trained model when only this layer is in float.
        sqnr_db: of the main output then, in dB.
        gain_db: the gain over every layer quantized, in dB.
        members: the layers of the block; the layer itself if it is one.
    """

    layer: str
    operator: str
    agreement: float
    sqnr_db: float
    gain_db: float
    members: tuple[str, ...]

    def describe(self) -> LayerSensitivityRecord:
        """The record for the bundle."""
        return LayerSensitivityRecord(
            layer=self.layer,
            operator=self.operator,
            agreement=round(self.agreement, 4),
            sqnr_db=round(self.sqnr_db, 4),
            gain_db=round(self.gain_db, 4),
        )


def quantizable(model: ModelProto) -> dict[str, tuple[str, Exclude]]:
    """The layers of a float graph that can be quantized: name -> (operator, the names to exclude: itself and its activation)."""
    graph = LayerGraph(model)
    in_float = set(kept_in_float(model))
    found = {}
    for node in graph.layers():
        if node.name in in_float:
            continue
        reader = graph.sole_reader(node.output[0])
        own = (reader.name,) if reader is not None and reader.op_type in _ACTIVATIONS else ()
        found[node.name] = node.op_type, (node.name, *own)
    return found


def sensitivity(
    layers: Mapping[str, tuple[str, Exclude]],
    groups: Sequence[tuple[str, ...]],
    quantized: Fidelity,
    measure: Callable[[Exclude], Fidelity],
    advance: Advance,
    over: Callable[[], bool] = lambda: False,
) -> list[LayerSensitivity]:
    """Leave each block in float in turn; the most sensitive comes first.

    Args:
        layers: of the float graph (see `quantizable`).
        groups: the blocks, each of one or several layers.
        quantized: the fidelity with every layer quantized.
        measure: returns the fidelity with the given nodes in float.
        advance: called after each block.
        over: returns whether the time is up: then the remaining blocks are not measured and not returned.
    """
    found = []
    for group in groups:
        if over():
            break
        fidelity = measure(excluding(layers, group))
        gain = fidelity.sqnr_db - quantized.sqnr_db
        operator = layers[group[0]][0] if len(group) == 1 else f"{len(group)} layers"
        found.append(LayerSensitivity(name_of(group), operator, fidelity.agreement, fidelity.sqnr_db, gain, group))
        advance(note=f"{name_of(group)} {gain:+.1f} dB")
    return sorted(found, key=lambda s: (-s.gain_db, -s.agreement))


def excluding(layers: Mapping[str, tuple[str, Exclude]], names: Iterable[str]) -> Exclude:
    """The nodes to exclude from quantization so that these layers stay in float."""
    return tuple(node for name in names for node in layers[name][1])


def restore_float_inputs(quantized: ModelProto, float_model: ModelProto, exclude: Sequence[str]) -> ModelProto:
    """Let layers that stay in float read the float tensor before Q/DQ instead of the dequantized one; changes the model.

    ONNX Runtime's quantizer leaves the weights of an excluded layer in float, but the layer before it still quantizes its output. A layer
    is as often sensitive to its input as to its weights. Where the range of Q/DQ does the work of a Relu or Clip, the quantizer has removed
    the Relu or Clip: a layer that reads the tensor before Q/DQ needs it back.

    Args:
        quantized: a Q/DQ graph.
        float_model: the graph that was quantized; nodes and tensors have the same names.
        exclude: names of the nodes that stay in float.
    """
    graph = quantized.graph
    maker = producers(graph)
    float_maker = producers(float_model.graph)
    names = set(exclude)
    for node in list(graph.node):
        if node.name not in names or node.op_type not in LAYERS:
            continue
        dequantize = maker.get(node.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = maker.get(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        read = quantize.input[0]
        node.input[0] = read
        if read in maker and read in float_maker and maker[read].name != float_maker[read].name:
            _put_back(graph, maker, float_maker[read], float_model)
    _remove_unused_qdq(graph)
    return quantized


def _put_back(graph: GraphProto, maker: dict[str, NodeProto], activation: NodeProto, float_model: ModelProto) -> None:
    """Insert an activation of the float graph after the node that computes its output now."""
    before = maker[activation.output[0]]
    place = next(i for i, node in enumerate(graph.node) if node.name == before.name)
    before.output[list(before.output).index(activation.output[0])] = activation.input[0]
    graph.node.insert(place + 1, activation)
    have = {tensor.name for tensor in graph.initializer}
    bounds = set(activation.input[1:]) - have
    graph.initializer.extend(tensor for tensor in float_model.graph.initializer if tensor.name in bounds)
    maker[activation.input[0]], maker[activation.output[0]] = before, graph.node[place + 1]


def _remove_unused_qdq(graph: GraphProto) -> None:
    outputs = {output.name for output in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        idle = [
            n for n in graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"} and n.output[0] not in read
        ]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)


def fewest(
    order: Sequence[T], passes: Callable[[tuple[T, ...]], bool], over: Callable[[], bool] = lambda: False
) -> tuple[T, ...] | None:
    """Return the fewest layers in float that pass, taken from the front of `order`; None if not even all of them pass.

    Doubles the number until it passes, bisects to the shortest beginning that passes, then removes one by one the layers that are not
    needed.

    Args:
        order: the layers or blocks, the most sensitive first.
        passes: returns whether the file with these layers in float passes; called at most `max_trials` times.
        over: returns whether the time is up: then the fewest that have passed are returned, or None if none has.
    """
    count = 1
    failed = 0
    while True:
        if over():
            return None
        if passes(tuple(order[:count])):
            break
        failed = count
        if count >= len(order):
            return None
        count = min(2 * count, len(order))
    while count - failed > 1 and not over():
        middle = (count + failed) // 2
        if passes(tuple(order[:middle])):
            count = middle
        else:
            failed = middle
    chosen = tuple(order[:count])
    for name in chosen[:-1][::-1]:  # without the last one it did not pass
        fewer = tuple(n for n in chosen if n != name)
        if fewer and not over() and passes(fewer):
            chosen = fewer
    return chosen


def max_trials(count: int) -> int:
    """The largest number of calls of `passes` by `fewest`, for `count` layers or blocks."""
    return 2 * math.ceil(math.log2(max(2, count))) + count
