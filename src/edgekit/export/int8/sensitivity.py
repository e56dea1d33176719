"""Which layers lose the accuracy: each one left in float alone, measured in the runtime that will serve the file, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx import ModelProto

from edgekit.export.int8.fidelity import Fidelity
from edgekit.export.int8.layers import HOMOGENEOUS, LAYERS, Graph
from edgekit.export.int8.quantize import kept_in_float
from edgekit.progress import Advance

Exclude = tuple[str, ...]
_ACTIVATIONS = {"Clip", *HOMOGENEOUS} - {"MaxPool", "AveragePool", "GlobalAveragePool"}


@dataclass(frozen=True)
class LayerSensitivity:
    """A layer and what leaving it in float brings.

    Attributes:
        layer: the node's name.
        operator: Conv, Gemm or MatMul.
        agreement: with the trained model, with this layer alone in float.
        sqnr_db: of the logits then, in dB.
        gain_db: how much more that is than with every layer quantised.
    """

    layer: str
    operator: str
    agreement: float
    sqnr_db: float
    gain_db: float

    def describe(self) -> dict[str, Any]:
        """For the bundle."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def quantisable(model: ModelProto) -> dict[str, tuple[str, Exclude]]:
    """The layers of a float graph that can be quantised: name -> (operator, the names to exclude: itself and its activation)."""
    graph = Graph(model)
    kept = set(kept_in_float(model))
    found = {}
    for node in graph.layers():
        if node.name in kept:
            continue
        reader = graph.sole_reader(node.output[0])
        own = (reader.name,) if reader is not None and reader.op_type in _ACTIVATIONS else ()
        found[node.name] = node.op_type, (node.name, *own)
    return found


def sensitivity(
    model: ModelProto, quantised: Fidelity, measure: Callable[[Exclude], Fidelity], advance: Advance
) -> list[LayerSensitivity]:
    """Leave each layer in float in turn; the most sensitive comes first.

    Args:
        model: the float graph.
        quantised: the fidelity with every layer quantised.
        measure: the fidelity with some nodes left in float.
        advance: told each layer.
    """
    found = []
    for name, (operator, names) in quantisable(model).items():
        fidelity = measure(names)
        gain = fidelity.sqnr_db - quantised.sqnr_db
        found.append(LayerSensitivity(name, operator, fidelity.agreement, fidelity.sqnr_db, gain))
        advance(note=f"{name} {gain:+.1f} dB")
    return sorted(found, key=lambda s: (-s.gain_db, -s.agreement))


def release(quantised: ModelProto, exclude: Sequence[str]) -> ModelProto:
    """Let layers that stay in float read what the graph computed, not what quantising it left; changes the model.

    ONNX Runtime's quantiser leaves the weights of an excluded layer alone, but what the layer reads has been quantised by whoever
    made it. A layer is sensitive as often for what it reads as for its weights.

    Args:
        quantised: a Q/DQ graph.
        exclude: names of the nodes that were left in float.
    """
    graph = quantised.graph
    maker = {name: node for node in graph.node for name in node.output}
    names = set(exclude)
    for node in graph.node:
        if node.name not in names or node.op_type not in LAYERS:
            continue
        dequantise = maker.get(node.input[0])
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            continue
        quantise = maker.get(dequantise.input[0])
        if quantise is not None and quantise.op_type == "QuantizeLinear":
            node.input[0] = quantise.input[0]
    kept = {output.name for output in graph.output}
    while True:
        read = kept | {name for node in graph.node for name in node.input}
        idle = [
            n for n in graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"} and n.output[0] not in read
        ]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
    return quantised


def fewest(order: Sequence[str], passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """The fewest layers in float that pass, taken from the front of an order; None where even all of it does not.

    Doubles until it passes, halves back to the shortest beginning that does, then takes out one after the other what is not
    needed beside the others.

    Args:
        order: the layers, the most sensitive first.
        passes: whether the file with these layers in float passes; asked about `2 log2(n)` beginnings, then about each layer.
    """
    count = 1
    failed = 0
    while not passes(tuple(order[:count])):
        failed = count
        if count >= len(order):
            return None
        count = min(2 * count, len(order))
    while count - failed > 1:
        middle = (count + failed) // 2
        if passes(tuple(order[:middle])):
            count = middle
        else:
            failed = middle
    chosen = tuple(order[:count])
    for name in chosen[:-1][::-1]:  # without the last it did not pass
        fewer = tuple(n for n in chosen if n != name)
        if fewer and passes(fewer):
            chosen = fewer
    return chosen
