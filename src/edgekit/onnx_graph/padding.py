"""Fold 'same' padding before a max pooling into the pooling.

Networks that pad as TensorFlow does fill with -inf or the lowest number of their type, then pool without padding. ONNX's MaxPool has padding of
its own that never wins, and needs no padded tensor: then no activation is infinite, nothing widens an INT8 range, and every
runtime fuses the padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.onnx_graph.values import producers

_AT_LEAST_ZERO = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus"}
_LOWEST = float(np.finfo(np.float32).min)


def fold_pool_padding(model: ModelProto) -> ModelProto:
    """Fold constant padding into the max poolings that read it, if its fill never is their result; changes and returns `model`.

    Padding is kept if folding could change the result: the fill may be larger than a value beside it, another node reads the padded
    tensor, or a window would cover only padding.

    Args:
        model: opset 11 or later, its constants as initializers.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = producers(graph)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        pools = _readers(graph, pad.output[0])
        fill = fill_of(pad, constants)
        if not pools or fill is None or fill > _least(pad.input[0], makers, constants):
            continue
        amounts = _amounts(pad, constants)
        together = [_together(pool, amounts) for pool in pools]
        if any(pads is None for pads in together):
            continue
        for pool, pads in zip(pools, together, strict=True):
            others = [a for a in pool.attribute if a.name not in {"pads", "auto_pad"}]
            del pool.attribute[:]
            pool.attribute.extend([*others, helper.make_attribute("pads", pads)])
            pool.input[0] = pad.input[0]
        graph.node.remove(pad)
        for value in [v for v in graph.value_info if v.name == pad.output[0]]:
            graph.value_info.remove(value)
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
    return model


def only_pooled(model: ModelProto) -> dict[str, str]:
    """Padded tensors that only max poolings read and whose fill is at most 0, each with the tensor before the padding.

    If every window covers a value too, the fill is the largest only if it is at least the lowest value: a range of the values and 0 is
    enough.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for pad in graph.node:
        fill = fill_of(pad, constants) if pad.op_type == "Pad" else None
        if fill is not None and fill <= 0 and _readers(graph, pad.output[0]):
            found[pad.output[0]] = pad.input[0]
    return found


def fill_of(pad: NodeProto, constants: dict[str, TensorProto]) -> float | None:
    """The fill value of a Pad; None if it is not constant padding or the value is unknown."""
    if next((a.s for a in pad.attribute if a.name == "mode"), b"constant") != b"constant":
        return None
    if len(pad.input) < 3 or not pad.input[2]:
        return 0.0
    value = constants.get(pad.input[2])
    return None if value is None else float(numpy_helper.to_array(value).reshape(-1)[0])


def _readers(graph: GraphProto, name: str) -> list[NodeProto]:
    """The max poolings that read a tensor; empty if another node reads it, too."""
    readers = [node for node in graph.node if name in node.input]
    outside = any(output.name == name for output in graph.output)
    return [] if outside or any(node.op_type != "MaxPool" for node in readers) else readers


def _least(name: str, makers: dict[str, NodeProto], constants: dict[str, TensorProto]) -> float:
    """A lower bound of a tensor's values, from the node that computes it."""
    node = makers.get(name)
    if node is not None and node.op_type in _AT_LEAST_ZERO:
        return 0.0
    if node is not None and node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in constants:
        return float(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
    return _LOWEST


def _amounts(pad: NodeProto, constants: dict[str, TensorProto]) -> list[int]:
    """The padding before and after each axis; empty if unknown."""
    tensor = constants.get(pad.input[1]) if len(pad.input) > 1 else None
    if tensor is None or (len(pad.input) > 3 and pad.input[3]):
        return []
    return [int(amount) for amount in numpy_helper.to_array(tensor)]


def _together(pool: NodeProto, amounts: Sequence[int]) -> list[int] | None:
    """The padding of a pooling plus the padding before it; None if the pooling cannot express it."""
    attributes = {a.name: helper.get_attribute_value(a) for a in pool.attribute}
    kernel = list(attributes["kernel_shape"])
    axes, spatial = len(amounts) // 2, len(kernel)
    plain = (
        axes == spatial + 2
        and all(amount >= 0 for amount in amounts)
        and not any((*amounts[:2], *amounts[axes : axes + 2]))
        and len(pool.output) == 1
        and attributes.get("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}
        and not attributes.get("ceil_mode", 0)
        and set(attributes.get("dilations", [1])) == {1}
    )
    if not plain:
        return None
    own = list(attributes.get("pads", [0] * 2 * spatial))
    pads = [a + b for a, b in zip(own, [*amounts[2:axes], *amounts[axes + 2 :]], strict=True)]
    # A window of k values with less than k of padding on either side covers at least one value.
    return pads if all(amount < size for amount, size in zip(pads, kernel * 2, strict=True)) else None
