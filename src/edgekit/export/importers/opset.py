"""Convert graphs of any opset to opset 17, which every target reads.

Older graphs are converted by onnx's converter. For newer graphs it fails on operators that are common in them (ReduceMean, whose axes became
an input in opset 18). So newer operators are replaced by their definition in older ones, attributes that state opset 17's
default behavior are dropped, and onnx's checker validates the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, inliner, numpy_helper

from edgekit.errors import ExportError, reason_of
from edgekit.export.importers.rewire import copy_of, folded
from edgekit.onnx_graph.build import OPSET
from edgekit.onnx_graph.names import unique
from edgekit.onnx_graph.simplify import fold_batch_independent_shapes

_IR = 8  # the IR version of opset 17, the newest that ONNX Runtime 1.12 and TensorRT 8.6 read
_NESTED = 4  # how deep the definitions of newer operators contain others
# Attributes that only concern casts of newer types, or that follow from the shapes.
_NEUTRAL = {"num_outputs", "saturate", "noop_with_empty_axes", "round_mode"}


def version_of(model: ModelProto) -> int:
    """The version of the default opset that a model needs."""
    return next((imported.version for imported in model.opset_import if imported.domain in {"", "ai.onnx"}), 1)


def to_opset(model: ModelProto, file: str) -> ModelProto:
    """Convert a model to opset 17; may change `model`.

    Raises:
        ExportError: the model uses a feature that opset 17 lacks, or is not a valid graph.
    """
    version = version_of(model)
    hint = f"export it again with opset {OPSET}"
    try:
        if version < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        elif version > OPSET:
            model = _lowered(model, version, file)
        model.ir_version = _IR
        onnx.checker.check_model(model, full_check=True)
    except ExportError:
        raise
    except Exception as error:  # the converter and the checker are C++ and raise many kinds
        reason = reason_of(error)
        raise ExportError(f"{file}: opset {version}: cannot be converted to opset {OPSET}: {reason}", hint) from error
    return model


def _lowered(model: ModelProto, version: int, file: str) -> ModelProto:
    """Convert a newer model to opset 17; if that fails, try again with constants folded by ONNX Runtime."""
    inlined = _inlined(model, version)
    try:
        return _down(copy_of(inlined), version, file)
    except ExportError as error:
        try:
            fold_batch_independent_shapes(inlined)
            return _down(folded(inlined, "ONNX Runtime"), version, file)
        except ExportError:
            raise error from None


def _inlined(model: ModelProto, version: int) -> ModelProto:
    """Replace operators newer than opset 17 by their definition in older operators, if onnx has one."""
    for _ in range(_NESTED):  # a definition may contain newer operators
        newer = {node.op_type for node in model.graph.node if not _has(node.op_type, OPSET)}
        if not newer:
            break
        functions = [("", kind) for kind in sorted(newer)]
        _ready_to_inline(model, newer, version)
        model = inliner.inline_selected_functions(model, functions, inline_schema_functions=True)
    return model


def _down(model: ModelProto, version: int, file: str) -> ModelProto:
    graph = Constants(model, version, file)
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"}:
            continue
        if not _has(node.op_type, OPSET):
            raise graph.impossible(node, "this operator")
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _axes_as_attribute(node, graph)
        elif node.op_type in _CHANGED:
            _CHANGED[node.op_type](node, graph)
        _drop_what_goes_without_saying(node, graph)
    for imported in model.opset_import:
        if imported.domain in {"", "ai.onnx"}:
            imported.version = OPSET
    return model


def _ready_to_inline(model: ModelProto, kinds: set[str], version: int) -> None:
    """Add what onnx's inliner needs: attributes at their default values, and the types of weights."""
    graph = model.graph
    read: set[str] = set()
    for node in [n for n in graph.node if n.op_type in kinds]:
        read.update(node.input)
        present = {a.name for a in node.attribute}
        known = onnx.defs.get_schema(node.op_type, version).attributes if _has(node.op_type, version) else {}
        node.attribute.extend(a.default_value for n, a in known.items() if a.default_value.name and n not in present)
    typed = {value.name for value in graph.value_info}
    for tensor in graph.initializer:
        if tensor.name in read - typed:
            graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )


def _drop_what_goes_without_saying(node: NodeProto, graph: Constants) -> None:
    """Drop newer attributes at their default values, and omitted trailing inputs."""
    old, new = onnx.defs.get_schema(node.op_type, OPSET), onnx.defs.get_schema(node.op_type, graph.version)
    for attribute in list(node.attribute):
        if attribute.name in old.attributes:
            continue
        if attribute.name not in _NEUTRAL and not _is_default(attribute, new):
            raise graph.impossible(node, f"its {attribute.name}")
        node.attribute.remove(attribute)
    while node.input and not node.input[-1]:
        node.input.pop()
    if len(node.input) > old.max_input:
        raise graph.impossible(node, f"its input {node.input[-1]}")


class Constants:
    """The constants of a graph, and its shapes (inferred on first use).

    Args:
        model: the graph; constants are added to it.
        version: its opset.
        file: its path, for messages.
    """

    def __init__(self, model: ModelProto, version: int, file: str) -> None:
        self.model, self.version, self.file = model, version, file
        self.tensors = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
            elif node.op_type == "Constant" and node.attribute[0].name in {"value_int", "value_ints"}:
                values = np.array(onnx.helper.get_attribute_value(node.attribute[0]), np.int64)
                self.tensors[node.output[0]] = numpy_helper.from_array(values)
        self._taken = {n for node in model.graph.node for n in (*node.input, *node.output)} | set(self.tensors)
        self._shapes: dict[str, list[int | None]] | None = None

    def value(self, node: NodeProto, i: int, what: str) -> NDArray[np.generic] | None:
        """A constant input of a node, flat; None if it is omitted.

        Raises:
            ExportError: the input is computed.
        """
        if len(node.input) <= i or not node.input[i]:
            return None
        if node.input[i] not in self.tensors:
            raise self.impossible(node, f"computed {what}")
        return numpy_helper.to_array(self.tensors[node.input[i]]).reshape(-1)

    def shape(self, node: NodeProto, name: str) -> list[int | None]:
        """The shape of a value, with None for unknown sides.

        Raises:
            ExportError: the rank is unknown.
        """
        if self._shapes is None:
            inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
            values = [v for v in (*inferred.value_info, *inferred.input) if v.type.tensor_type.HasField("shape")]
            self._shapes = {v.name: [d.dim_value or None for d in v.type.tensor_type.shape.dim] for v in values}
        if name not in self._shapes:
            raise self.impossible(node, "its form for a value of unknown shape")
        return self._shapes[name]

    def add(self, node: NodeProto, i: int, value: NDArray[np.generic]) -> None:
        """Replace an input of a node by a new constant."""
        name = unique(f"{node.output[0]}_{i}", self._taken)
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input.extend([""] * (i + 1 - len(node.input)))
        node.input[i] = name

    def impossible(self, node: NodeProto, what: str) -> ExportError:
        return ExportError(
            f"{self.file}: opset {self.version}: {node.op_type} (node {node.name or '?'}): opset {OPSET} does not support {what}",
            f"export it again with opset {OPSET}",
        )


def _pad(node: NodeProto, graph: Constants) -> None:
    """In opset 18, Pad can name the axes that it pads."""
    axes, pads = graph.value(node, 3, "axes"), None
    if axes is None:
        return
    pads = graph.value(node, 1, "pads")
    assert pads is not None
    rank = len(graph.shape(node, node.input[0]))
    both = np.zeros((2, rank), np.int64)
    both[:, axes.astype(int) % rank] = pads.reshape(2, -1)
    graph.add(node, 1, both.reshape(-1))
    del node.input[3:]


def _resize(node: NodeProto, graph: Constants) -> None:
    """In opset 18, Resize can name the axes that it resizes."""
    named = [a for a in node.attribute if a.name == "axes"]
    if not named:
        return
    shape = graph.shape(node, node.input[0])
    axes = [axis % len(shape) for axis in named[0].ints]
    node.attribute.remove(named[0])
    if (scales := graph.value(node, 2, "scales")) is not None and len(scales):
        full = np.ones(len(shape), np.float32)
        full[axes] = scales
        graph.add(node, 2, full)
    elif (sizes := graph.value(node, 3, "sizes")) is not None:
        before = [shape[axis] for axis in axes]
        if None in before:
            raise graph.impossible(node, "its axes of unknown length")
        full = np.ones(len(shape), np.float32)  # the batch may be free, so not as sizes
        full[axes] = [size / side for size, side in zip(sizes.tolist(), before, strict=True) if side]
        graph.add(node, 2, full)
        del node.input[3:]
    if len(node.input) > 1:
        node.input[1] = ""  # the region of interest, which only one mode uses


def _split(node: NodeProto, graph: Constants) -> None:
    """In opset 18, the last of `num_outputs` parts can be smaller; before, all parts without sizes are equal."""
    count = len(node.output)
    if not any(a.name == "num_outputs" for a in node.attribute) or (len(node.input) > 1 and node.input[1]):
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    side = graph.shape(node, node.input[0])[axis]
    if side is None:
        raise graph.impossible(node, "its num_outputs for an axis of unknown length")
    part = -(-side // count)
    graph.add(node, 1, np.array([part] * (count - 1) + [side - part * (count - 1)], np.int64))


def _grid_sample(node: NodeProto, graph: Constants) -> None:
    """Opset 20 renamed the modes."""
    mode = next((a for a in node.attribute if a.name == "mode"), None)
    if mode is not None:
        mode.s = {b"linear": b"bilinear", b"cubic": b"bicubic"}.get(mode.s, mode.s)


_CHANGED: dict[str, Callable[[NodeProto, Constants], None]] = {
    "Pad": _pad,
    "Resize": _resize,
    "Split": _split,
    "GridSample": _grid_sample,
}


def _has(kind: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(kind, version)
    except onnx.defs.SchemaError:
        return False
    return True


def _axes_as_attribute(node: NodeProto, graph: Constants) -> None:
    """Opset 18 moved the axes of ReduceMean and similar operators from an attribute to an input."""
    axes = graph.value(node, 1, "axes")
    if axes is None or not len(axes):
        if any(a.i for a in node.attribute if a.name == "noop_with_empty_axes"):
            raise graph.impossible(node, "a reduction over no axis")
    else:
        node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
    del node.input[1:]


def _is_default(attribute: onnx.AttributeProto, schema: Any) -> bool:
    known = schema.attributes.get(attribute.name)
    value = onnx.helper.get_attribute_value(attribute)
    if known is not None and known.default_value.name:
        return bool(onnx.helper.get_attribute_value(known.default_value) == value)
    return attribute.name == "dilations" and set(value) == {1}
