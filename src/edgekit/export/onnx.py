"""The float ONNX, opset 17: the one source of every other variant.

The graph takes `image`, uint8 (n, s, s, 3) with a free batch axis, and gives `logits`, float32 (n, classes).
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from edgekit import __version__
from edgekit.errors import ExportError
from edgekit.export.prepare import exportable

OPSET = 17  # the newest that TensorRT 8.6 reads; the oldest with LayerNormalization
INPUT, OUTPUT = "image", "logits"
_TRAINING_ONLY = {"Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}


def export_onnx(model: nn.Module, path: Path, *, image_size: int, classes: list[str]) -> None:
    """Write a model as float ONNX.

    Args:
        model: uint8 images (n, s, s, 3) -> float32 logits (n, classes); it is not changed.
        path: the file to write.
        image_size: s, in pixels.
        classes: names, in the order of the logits; written into the file's metadata.

    Raises:
        ExportError: the network holds an operation that opset 17 has no word for, or the graph that came out is not valid.
    """
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    try:
        # The exporter that traces: the newer one, asked for opset 17, silently writes 18 (torch 2.15), and converting
        # that down breaks on ReduceMean.
        with warnings.catch_warnings(), _quiet(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the deprecation, and of what tracing makes constant: that is meant
            torch.onnx.export(
                exportable(model, image_size),
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                external_data=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the network cannot be written as ONNX opset {OPSET}: {reason}", "choose another student architecture"
        ) from error
    graph = tidy(onnx.load(path))
    graph.producer_name, graph.producer_version = "edgekit", __version__
    onnx.helper.set_model_props(graph, {"edgekit": __version__, "classes": json.dumps(classes, ensure_ascii=False)})
    check(graph)
    onnx.save(graph, path)


def check(graph: ModelProto) -> None:
    """Refuse a graph that is not what the bundle promises.

    Raises:
        ExportError: it is invalid, of another opset, keeps nodes of training, or fixes the batch.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {' '.join(str(error).split())[:200]}") from error
    opsets = {(imported.domain, imported.version) for imported in graph.opset_import}
    if opsets != {("", OPSET)}:
        raise ExportError(f"the exported graph asks for the opsets {sorted(opsets)}, not for {OPSET} alone")
    left = sorted({node.op_type for node in graph.graph.node if _of_training(node)})
    if left:
        raise ExportError(f"the exported graph still trains: it holds {', '.join(left)}")
    for value in (*graph.graph.input, *graph.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the batch axis of {value.name} is not free")


def tidy(model: ModelProto) -> ModelProto:
    """Constants as initialisers, no Identity, nothing unused, every node with a name of its own; changes `model`."""
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        (value,) = node.attribute
        if value.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            graph.node.remove(node)
    outputs = {output.name for output in graph.output}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.output[0] not in outputs]:
        _rewire(graph, node.output[0], node.input[0])
        graph.node.remove(node)
    _remove_idle_casts(model)
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    names: set[str] = set()
    for i, node in enumerate(graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{i}"
        names.add(node.name)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output clean: on a failure the exporter's C++ prints the whole graph there."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _remove_idle_casts(model: ModelProto) -> None:
    """Remove casts to the type that a value has already."""
    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input, *typed.output)}
    outputs = {output.name for output in graph.output}
    for node in [n for n in graph.node if n.op_type == "Cast"]:
        source, result = node.input[0], node.output[0]
        if types.get(source) != node.attribute[0].i:
            continue
        graph.node.remove(node)
        if result not in outputs:
            _rewire(graph, result, source)
            continue
        for other in graph.node:  # what made the value makes the output
            for names in (other.input, other.output):
                for i, name in enumerate(names):
                    if name == source:
                        names[i] = result


def _rewire(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _of_training(node: NodeProto) -> bool:
    modes = [a.i for a in node.attribute if a.name == "training_mode"]
    return node.op_type in _TRAINING_ONLY or any(modes)
