"""The float ONNX, opset 17: the source of every other variant.

The graph takes `image`, uint8 (n, h, w, 3) with a free batch axis, and gives the outputs of its task, float32 with n rows, the main one
first: of a classification `logits` (n, classes).
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

from edgekit import __version__, tasks
from edgekit.errors import EdgekitError, ExportError, one_line
from edgekit.onnx_graph.channels import fold_reversal
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.normalization import spread
from edgekit.onnx_graph.padding import fold_pool_padding
from edgekit.onnx_graph.prepare import exportable, pooling_by_matrices
from edgekit.onnx_graph.simplify import add_embedding, refuse_huge, simplify
from edgekit.onnx_graph.tail import mark_tail
from edgekit.sizes import ImageSize, SizeLike
from edgekit.tasks import EMBEDDING, Task

OPSET = 17  # the newest that TensorRT 8.6 reads; the oldest with LayerNormalization
INPUT = "image"
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    image_size: SizeLike,
    classes: list[str],
    embedding: bool = False,
    task: Task | None = None,
) -> None:
    """Write a model as float ONNX.

    Args:
        model: uint8 images (n, h, w, 3) -> the task's main output, float32 (n, …), or a tuple of all required ones; it is not changed.
        path: the file to write.
        image_size: h and w, in pixels.
        classes: names, in the order of the outputs; written into the file's metadata.
        embedding: whether the graph also gives what the linear layer sees, `embedding`, float32 (n, d).
        task: what the model answers; None: the usual one, classification.

    Raises:
        ExportError: opset 17 has no operator for a part of the network, the network is too large for an ONNX file or has no
            embedding, or the exported graph is not valid.
    """
    task = task or tasks.find(tasks.DEFAULT)
    refuse_huge(sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers())))
    image_size = ImageSize.of(image_size)
    example = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    try:
        # The tracing exporter. The newer one silently writes opset 18 when asked for 17 (torch 2.15), and converting
        # down to 17 fails on ReduceMean.
        with warnings.catch_warnings(), _quiet(), torch.no_grad(), slow_attention(), pooling_by_matrices():
            warnings.simplefilter(
                "ignore"
            )  # about the deprecation, and about values that tracing makes constant, as intended
            prepared = exportable(model, image_size)
            if any(isinstance(module, torch.jit.ScriptModule) for module in prepared.modules()):
                prepared = torch.jit.trace(
                    prepared, (example,), check_trace=False
                )  # the exporter does not trace into script modules
            torch.onnx.export(
                prepared,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(task.required),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *task.required)},
                external_data=False,
            )
    except EdgekitError:
        raise
    except Exception as error:  # the exporter and the traced network raise many kinds
        raise ExportError(
            f"the network cannot be exported as ONNX opset {OPSET}: {_reason(error)}", "choose another architecture"
        ) from error
    save(read_onnx(path), path, classes, embedding=embedding, task=task)


def save(
    model: ModelProto, path: Path, classes: list[str], *, embedding: bool = False, task: Task | None = None
) -> None:
    """Write a graph that takes pixels as edgekit's float ONNX: simplified, its metadata filled, checked.

    Args:
        model: uint8 image (n, h, w, 3) -> the task's outputs, opset 17; it is changed.
        path: the file to write.
        classes: names, in the order of the outputs.
        embedding: whether what the linear layer sees becomes an output beside the main one.
        task: what the model answers; None: the usual one, classification.

    Raises:
        ExportError: see `check`, `arrange`, `simplify` and `add_embedding`.
    """
    task = task or tasks.find(tasks.DEFAULT)
    graph = spread(fold_reversal(fold_pool_padding(simplify(arrange(model, task)))))
    if embedding:
        add_embedding(graph, task.main, EMBEDDING)
    graph.producer_name, graph.producer_version = "edgekit", __version__
    onnx.helper.set_model_props(graph, {"edgekit": __version__, "classes": json.dumps(classes, ensure_ascii=False)})
    if task.float_tail:
        mark_tail(graph)
    check(graph)
    onnx.save(graph, path)


def arranged(model: ModelProto, task: Task) -> bool:
    """Whether the outputs that a task requires come first, in its order."""
    return tuple(output.name for output in model.graph.output)[: len(task.required)] == task.required


def arrange(model: ModelProto, task: Task) -> ModelProto:
    """Put the outputs that a task requires first, in its order; changes `model`.

    Raises:
        ExportError: the graph lacks one.
    """
    by_name = {output.name: output for output in model.graph.output}
    if missing := [name for name in task.required if name not in by_name]:
        raise ExportError(
            f"the graph has no output named {missing[0]}, which {task.name} needs, only {', '.join(by_name)}",
            "rename its outputs",
        )
    if not arranged(model, task):
        order = [*task.required, *(name for name in by_name if name not in task.required)]
        found = [by_name[name] for name in order]
        del model.graph.output[:]
        model.graph.output.extend(found)
    return model


def check(graph: ModelProto) -> None:
    """Refuse a graph that does not have the form that the bundle describes.

    Raises:
        ExportError: the graph is invalid, of another opset, in training mode, or has a fixed batch size.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {' '.join(str(error).split())[:200]}") from error
    opsets = {(imported.domain, imported.version) for imported in graph.opset_import}
    if opsets != {("", OPSET)}:
        raise ExportError(f"the exported graph needs the opsets {sorted(opsets)}, not only {OPSET}")
    training_nodes = sorted({node.op_type for node in graph.graph.node if _of_training(node)})
    if training_nodes:
        raise ExportError(
            f"the network is in training mode or draws random numbers (found {', '.join(training_nodes)})",
            "call .eval() before exporting",
        )
    for value in (*graph.graph.input, *graph.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the batch axis of {value.name} is not free")


@contextmanager
def slow_attention() -> Iterator[None]:
    """Disable PyTorch's fast path for attention (`nn.TransformerEncoder`, torchvision's ViTs): ONNX has no operator for it."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _reason(error: BaseException) -> str:
    """The message of an exception in one line, without the exporter's request to report the problem."""
    message = one_line(str(error).partition(". Please feel free to request support")[0], 200)
    if isinstance(error, torch.onnx.errors.OnnxExporterError | RuntimeError | ValueError) and message:
        return message
    return f"{type(error).__name__}: {message}".rstrip(": ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence standard output: when it fails, the exporter's C++ code prints the whole graph there."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _of_training(node: NodeProto) -> bool:
    modes = [a.i for a in node.attribute if a.name == "training_mode"]
    return node.op_type in RANDOM | {"Dropout"} or any(modes)
