"""Graphs of any opset as opset 17, the one that every target reads.

Up, onnx's converter does it. Down, it fails on what newer exporters write most (ReduceMean, whose axes became an input in opset 18), so
here operators that are newer are replaced by what onnx defines them as, attributes that say what opset 17 does anyway are
dropped, and onnx's checker has the last word.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edgekit.errors import ExportError
from edgekit.export.graph.onnx import OPSET

_IR = 8  # the IR version of opset 17; ONNX Runtime 1.12 and TensorRT 8.6 read no newer one
# Attributes that only say how newer types are cast, or that the shapes say too.
_NEUTRAL = {"num_outputs", "saturate", "noop_with_empty_axes", "round_mode"}


def version_of(model: ModelProto) -> int:
    """The opset of onnx's own operators that a model asks for."""
    return next((imported.version for imported in model.opset_import if imported.domain in {"", "ai.onnx"}), 1)


def to_opset(model: ModelProto, here: str) -> ModelProto:
    """A model with the same function in opset 17; the one given may be changed.

    Raises:
        ExportError: it uses something that opset 17 cannot say, or is not a valid graph.
    """
    version = version_of(model)
    hint = f"export it again with opset {OPSET}"
    try:
        if version < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        elif version > OPSET:
            model = _down(model, version, here)
        model.ir_version = _IR
        onnx.checker.check_model(model, full_check=True)
    except ExportError:
        raise
    except Exception as error:  # the converter and the checker are C++ and raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{here}: opset {version}: cannot be converted to opset {OPSET}: {reason}", hint) from error
    return model


def _down(model: ModelProto, version: int, here: str) -> ModelProto:
    newer = {node.op_type for node in model.graph.node if not _has(node.op_type, OPSET)}
    if newer:
        from onnx import inliner

        model = inliner.inline_selected_functions(
            model, [("", kind) for kind in sorted(newer)], inline_schema_functions=True
        )
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    for node in model.graph.node:
        if not _has(node.op_type, OPSET):
            raise _impossible(node, version, here, "this operator")
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _axes_as_attribute(node, constants, version, here)
        old, new = onnx.defs.get_schema(node.op_type, OPSET), onnx.defs.get_schema(node.op_type, version)
        for attribute in list(node.attribute):
            if attribute.name in old.attributes:
                continue
            if attribute.name not in _NEUTRAL and not _is_default(attribute, new):
                raise _impossible(node, version, here, f"its {attribute.name}")
            node.attribute.remove(attribute)
        while node.input and not node.input[-1]:
            node.input.pop()
        if len(node.input) > old.max_input:
            raise _impossible(node, version, here, f"its input {node.input[-1]}")
    for imported in model.opset_import:
        if imported.domain in {"", "ai.onnx"}:
            imported.version = OPSET
    return model


def _has(kind: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(kind, version)
    except onnx.defs.SchemaError:
        return False
    return True


def _axes_as_attribute(node: NodeProto, constants: dict[str, Any], version: int, here: str) -> None:
    """Opset 18 moved the axes of ReduceMean and its like from an attribute to an input."""
    if len(node.input) < 2 or not node.input[1]:
        empty = next((a.i for a in node.attribute if a.name == "noop_with_empty_axes"), 0)
        if empty:
            raise _impossible(node, version, here, "a reduction over no axis")
        return
    if node.input[1] not in constants:
        raise _impossible(node, version, here, "axes that are computed")
    axes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    del node.input[1:]
    node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))


def _is_default(attribute: onnx.AttributeProto, schema: Any) -> bool:
    known = schema.attributes.get(attribute.name)
    value = onnx.helper.get_attribute_value(attribute)
    if known is not None and known.default_value.name:
        return bool(onnx.helper.get_attribute_value(known.default_value) == value)
    return attribute.name == "dilations" and set(value) == {1}


def _impossible(node: NodeProto, version: int, here: str, what: str) -> ExportError:
    return ExportError(
        f"{here}: opset {version}: {node.op_type} (node {node.name or '?'}): opset {OPSET} has no word for {what}",
        f"export it again with opset {OPSET}",
    )
