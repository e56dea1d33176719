"""Checks of a foreign ONNX file: every problem is reported in one line."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from edgekit.errors import ExportError
from edgekit.foreign import Unreadable, read_bytes
from edgekit.onnx_graph.build import OPSET, RANDOM
from edgekit.onnx_graph.files import LARGEST, parse_onnx, read_external
from edgekit.onnx_graph.values import producers

_CONTROL = {"If", "Loop", "Scan"}
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def read(path: Path) -> tuple[ModelProto, str]:
    """Read a model with all of its weights, and the SHA-256 of its file.

    Raises:
        ExportError: the file is missing, damaged, not ONNX, larger than 2 GB, or its external data is missing or outside its folder.
    """
    if path.is_file() and (size := path.stat().st_size) > LARGEST:
        raise _too_large(path, size)
    try:
        content = read_bytes(path, LARGEST)
    except Unreadable as error:
        raise ExportError(f"{path}: cannot be read: {error.detail}", "give the path of an .onnx file") from error
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        model = parse_onnx(content, path)
    except Unreadable as error:
        raise ExportError(
            f"{path}: not an ONNX model, or a truncated one: {error.detail[:100]}", "copy or export it again"
        ) from error
    del content
    if not model.graph.node or not model.opset_import:
        raise ExportError(
            f"{path}: not an ONNX model, or a truncated one: it holds no graph", "copy or export it again"
        )
    external = [t for t in _tensors(model.graph) if uses_external_data(t)]
    for tensor in external:
        size += _bytes_outside(path, tensor)
    if size > LARGEST:
        raise _too_large(path, size)
    try:
        read_external(model, path)
    except Unreadable as error:
        raise ExportError(
            f"{path}: its external data cannot be read: {error.detail}", "copy all of its files again"
        ) from error
    short = [t.name for t in external if len(t.raw_data) < _bytes(t)]
    if short:
        raise ExportError(f"{path}: its external data is truncated: {short[0]} is incomplete", "copy it again")
    inputs = {value.name for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            # Paddle writes -1 for a free axis, other programs 0.
            if side.dim_value < 0 or (side.HasField("dim_value") and not side.dim_value and value.name in inputs):
                side.Clear()
    return model, digest


def refuse_what_no_target_takes(model: ModelProto, path: Path) -> None:
    """Refuse operators of other domains, and quantized models.

    Raises:
        ExportError: names operator and node.
    """
    local = {(f.domain, f.name) for f in model.functions}
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"} and (node.domain, node.op_type) not in local:
            raise ExportError(
                f"{path}: {node.domain}.{node.op_type} (node {node.name or '?'}) is not an ONNX operator: no target supports it",
                f"export it with only the operators of opset {OPSET}, and without a runtime's optimizations",
            )
        if node.op_type in _QUANTIZED:
            raise ExportError(
                f"{path}: is already quantized: {node.op_type} (node {node.name or '?'})",
                "give the float model: edgekit quantizes it for each target",
            )


def refuse_training(model: ModelProto, path: Path) -> None:
    """Refuse networks that were exported in training mode, and those that draw random numbers.

    Raises:
        ExportError: names operator and node.
    """
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    makers = producers(model.graph)
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"}:
            continue
        named = f"{node.op_type}, node {node.name or '?'}"
        if _trains(node, constants, makers):
            raise ExportError(
                f"{path}: the network is in training mode (found {named}): call .eval() before exporting",
                "export it again",
            )
        if node.op_type in RANDOM:
            raise ExportError(
                f"{path}: draws random numbers ({named}), so its outputs differ each time",
                "call .eval() before exporting",
            )


def _trains(node: onnx.NodeProto, constants: dict[str, TensorProto], makers: dict[str, onnx.NodeProto]) -> bool:
    attributes = {a.name: a.i for a in node.attribute}
    if (
        node.op_type == "BatchNormalization"
    ):  # before opset 14 more outputs mean training mode, before 7 an attribute does
        return bool(attributes.get("training_mode")) or len([n for n in node.output if n]) > 1
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    name = node.input[2]
    for _ in range(len(makers)):  # bounded, because the graph may have a cycle
        maker = makers.get(name)
        if maker is None or maker.op_type not in {"Identity", "Cast"} or not maker.input:
            break
        name = maker.input[0]
    return name in constants and bool(onnx.numpy_helper.to_array(constants[name]).any())


class ControlFlow(ExportError):
    """The graph has branches or loops that depend on its input."""


def refuse_control_flow(model: ModelProto, path: Path) -> None:
    """Refuse branches and loops that depend on the input (fold constant ones before).

    Raises:
        ControlFlow: names operator and node.
    """
    for node in model.graph.node:
        if node.op_type in _CONTROL:
            raise ControlFlow(
                f"{path}: {node.op_type} (node {node.name or '?'}) is dynamic control flow, which no target supports",
                "export it by tracing, with fixed branches",
            )


def type_name(kind: int) -> str:
    """The name of an element type: float, int64, uint8."""
    name: str = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else str(kind)
    return name.lower()


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _bytes_outside(path: Path, tensor: TensorProto) -> int:
    """The bytes of a tensor that is stored in another file; checks that the file exists."""
    where = ExternalDataInfo(tensor).location
    file = path.parent / where
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise ExportError(f"{path}: its external data {where} is outside its folder", "do not use this model")
    if not file.is_file():
        raise ExportError(
            f"{path}: its external data is missing: {where} (for {tensor.name} and maybe others)",
            f"copy {where} beside it, under that name",
        )
    return _bytes(tensor)


def _bytes(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _too_large(path: Path, size: int) -> ExportError:
    return ExportError(
        f"{path}: {size / 2**30:.1f} GiB with its weights; a single ONNX file, which every target reads, holds at most 2 GiB",
        "choose a smaller network, or distill it into one with `edgekit train`",
    )
