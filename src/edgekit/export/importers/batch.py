"""Free a fixed batch axis. Run the graph on several images afterwards to check the result."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.export.importers.rewire import names_in
from edgekit.onnx_graph.names import unique
from edgekit.onnx_graph.values import producers


def free_batch(model: ModelProto, batch: int, *, every: bool = False) -> None:
    """Free the batch axis in the input, in Reshapes to a constant shape that begins with it, and in constants that are concatenated
    with values of every image; changes `model`.

    Args:
        model: the graph; its input has this batch size.
        batch: the fixed batch size.
        every: whether to free also Reshapes whose first axis is a multiple of it: windows or heads of all images.
    """
    graph = model.graph
    shapes = _static_shapes(model)
    taken = set(names_in(graph))
    _reshape_for_gather(model, shapes, taken)
    _repeat_joined(model, batch, shapes, taken)
    constants = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Reshape" and n.input[1] in constants]:
        shape = _freed(
            numpy_helper.to_array(constants[node.input[1]]).tolist(), shapes.get(node.output[0]), batch, every
        )
        if shape is None:
            continue
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)
        name = unique(f"{node.name or node.output[0]}_shape", taken)
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        node.input[1] = name
    axis = graph.input[0].type.tensor_type.shape.dim[0]
    axis.ClearField("dim_value")
    axis.dim_param = "batch"
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _freed(shape: list[int], result: list[int] | None, batch: int, every: bool) -> list[int] | None:
    """The shape of a Reshape for a free batch axis; None if it needs no change."""
    if every and result and len(result) == len(shape) and result[0] % batch == 0:
        return [-1, *result[1:]]
    if shape[:1] == [batch] and 0 not in shape:
        return [0, *shape[1:]]  # 0 keeps the axis of the input, unless `allowzero` is set
    return None


def _reshape_for_gather(model: ModelProto, shapes: dict[str, list[int]], taken: set[str]) -> None:
    """Replace a Gather of every element in order by a Reshape: torch 2.15 writes a global pooling like that (`as_strided`)."""
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    makers = producers(graph)
    for node in [n for n in graph.node if n.op_type == "Gather" and n.input[1] in constants]:
        flat = makers.get(node.input[0])
        if flat is None or flat.op_type != "Reshape" or flat.input[1] not in constants:
            continue
        indices = numpy_helper.to_array(constants[node.input[1]])
        size = math.prod(shapes.get(flat.input[0], [0]))
        if shapes.get(node.input[0]) in (None, [size]) and np.array_equal(indices.reshape(-1), np.arange(size)):
            name = unique(f"{node.output[0]}_sides", taken)
            graph.initializer.append(numpy_helper.from_array(np.array(indices.shape, np.int64), name))
            reshape = helper.make_node("Reshape", [flat.input[0], name], list(node.output), name=node.name)
            node.CopyFrom(reshape)


def _repeat_joined(model: ModelProto, batch: int, shapes: dict[str, list[int]], taken: set[str]) -> None:
    """Repeat a constant with one row per image for the actual number of images, where it is concatenated with values of the images:
    the class token of a transformer that was exported with a fixed batch size.
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    size = ""
    for node in [n for n in graph.node if n.op_type == "Concat"]:
        rank = len(shapes.get(node.output[0], []))
        if rank < 2 or next(a.i for a in node.attribute if a.name == "axis") % rank == 0:
            continue
        for i, name in enumerate(node.input):
            tensor = constants.get(name)
            if tensor is None or tensor.dims[0] != batch or not _alike(tensor):
                continue
            if not size:
                size = unique("image_count", taken)
                shape_node = helper.make_node("Shape", [graph.input[0].name], [size], name=size, start=0, end=1)
                graph.node.insert(0, shape_node)
            node.input[i] = _repeated(model, node, tensor, size, taken)


def _repeated(model: ModelProto, before: NodeProto, tensor: TensorProto, size: str, taken: set[str]) -> str:
    row, sides, shape, result = (
        unique(f"{tensor.name}_{what}", taken) for what in ("row", "sides", "repeated_shape", "repeated")
    )
    values = numpy_helper.to_array(tensor)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values[:1]), row))
    graph.initializer.append(numpy_helper.from_array(np.array(values.shape[1:], np.int64), sides))
    at = list(graph.node).index(before)
    graph.node.insert(at, helper.make_node("Concat", [size, sides], [shape], name=shape, axis=0))
    graph.node.insert(at + 1, helper.make_node("Expand", [row, shape], [result], name=result))
    return result


def _alike(tensor: TensorProto) -> bool:
    rows = numpy_helper.to_array(tensor)
    return bool((rows == rows[:1]).all())


def _static_shapes(model: ModelProto) -> dict[str, list[int]]:
    """The shapes that are completely known, by value."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values: Iterable[onnx.ValueInfoProto] = (*inferred.value_info, *inferred.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return {name: sides for name, sides in shapes.items() if sides and all(side > 0 for side in sides)}
