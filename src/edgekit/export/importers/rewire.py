"""Rewrite a foreign float graph to edgekit's form: pixels as input (uint8 NHWC, normalized inside), output `logits`, free batch axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekit.export.importers.answers import SMALLEST, SMALLEST_OTHER
from edgekit.export.importers.onnx_output import Output
from edgekit.export.importers.ports import CHANNELS, ImageInput, Layout
from edgekit.models.pixels import Channels, Statistics, in_reverse
from edgekit.onnx_graph.build import INPUT
from edgekit.onnx_graph.channels import REVERSED
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.names import unique
from edgekit.onnx_graph.operators import refused
from edgekit.onnx_graph.simplify import replace_value
from edgekit.sizes import ImageSize
from edgekit.tasks import EMBEDDING
from edgekit.tasks.classification import LOGITS as OUTPUT
from edgekit.temporary import scratch_folder

# Names that edgekit uses; values of a foreign graph with these names are renamed.
_OURS = {
    INPUT, OUTPUT, EMBEDDING, "pixels", "pixels_nchw", "pixels_scaled", "pixels_normalized", "pixels_reordered", "pixel_scale", "pixel_shift",
    "pixel_order", "logits_flat", "logits_pads", "logits_padded", "logits_one", "logits_other", "logits_both", "logits_smallest", "logits_clipped",
    "logits_log",
}  # fmt: skip


def copy_of(model: ModelProto) -> ModelProto:
    """A copy of a model that may be changed."""
    result = ModelProto()
    result.CopyFrom(model)
    return result


def set_shape(model: ModelProto, image: ImageInput, batch: int | str, size: ImageSize) -> None:
    """Set batch and image size of a graph's input, and clear all shapes derived from earlier ones; changes `model`."""
    graph = model.graph
    _drop_weights_from_inputs(graph)
    sides = [CHANNELS, *size] if image.layout == "NCHW" else [*size, CHANNELS]
    kind = graph.input[0].type.tensor_type.elem_type
    graph.input[0].CopyFrom(helper.make_tensor_value_info(image.name, kind, [batch, *sides]))
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def observe(model: ModelProto, names: Sequence[str], rank: int | None = None) -> None:
    """Make float tensors the only outputs of a graph, and remove nodes that they do not need; changes `model`.

    Args:
        model: the graph.
        names: names of the tensors.
        rank: their number of axes; None: not stated in the graph.
    """
    graph = model.graph
    del graph.output[:]
    for name in dict.fromkeys(names):
        known = None if rank is None else helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        graph.output.append(known or ValueInfoProto(name=name))
    _drop_dead(graph)


def step_aside(model: ModelProto) -> dict[str, str]:
    """Rename values of a foreign graph that have edgekit's names; changes `model`.

    Values are renamed in inner graphs too, which may read values of the outer graph.

    Returns:
        Old name -> new name of each renamed value.
    """
    taken = {name for graph in _graphs(model.graph) for name in names_in(graph)}
    new = {name: unique(f"{name}_inside", taken) for name in sorted(taken & _OURS)}
    for graph in _graphs(model.graph):
        for node in graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = new.get(name, name)
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = new.get(value.name, value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = new.get(sparse.values.name, sparse.values.name)
        del graph.quantization_annotation[:]
    return new


def folded(model: ModelProto, target: str) -> ModelProto:
    """Fold constants, BatchNorms after convolutions and constant branches, with ONNX Runtime's basic optimization, which writes
    only standard operators.

    Raises:
        ExportError: ONNX Runtime cannot read the graph.
    """
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    with scratch_folder("export") as scratch:
        options = session_options()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(scratch) / "model.onnx")
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but RuntimeError and Exception
            raise refused(target, model, error, "export it again with other operators, or another opset") from error
        result = read_onnx(Path(options.optimized_model_filepath))
    used = {node.domain for node in result.graph.node}
    for imported in [i for i in result.opset_import if i.domain and i.domain not in used]:
        result.opset_import.remove(imported)
    result.ir_version = model.ir_version
    return result


def take_pixels(
    model: ModelProto, image: ImageInput, size: ImageSize, mean: Statistics, std: Statistics, channels: Channels
) -> None:
    """Insert cast, layout, normalization and reordering of the channels, in this order, before the graph's input; changes `model`."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    value = INPUT

    def then(kind: str, result: str, *constants: str, **attributes: Any) -> None:
        nonlocal value
        nodes.append(helper.make_node(kind, [value, *constants], [result], name=result, **attributes))
        value = result

    if not image.is_pixels:
        then("Cast", "pixels", to=TensorProto.FLOAT)
    if image.layout == "NCHW":
        then("Transpose", "pixels_nchw", perm=[0, 3, 1, 2])
    if not image.is_pixels:
        if channels == "bgr":  # statistics are in the network's order, and the channels are reordered afterwards
            mean, std = in_reverse(mean), in_reverse(std)
        scale, shift = _constants(mean, std, image.layout)
        graph.initializer.extend(
            [numpy_helper.from_array(scale, "pixel_scale"), numpy_helper.from_array(shift, "pixel_shift")]
        )
        then("Mul", "pixels_scaled", "pixel_scale")
        then("Sub", "pixels_normalized", "pixel_shift")
    if channels == "bgr":
        graph.initializer.append(numpy_helper.from_array(np.array(REVERSED, np.int64), "pixel_order"))
        then("Gather", "pixels_reordered", "pixel_order", axis=1 if image.layout == "NCHW" else 3)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == image.name:
                node.input[i] = value
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *size, CHANNELS]))


def name_logits(model: ModelProto, output: Output, source: str, classes: int) -> None:
    """Make `logits`, float32 (n, classes), the output, computed from the tensor `source`; changes `model`."""
    graph = model.graph
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    value, nodes = source, []

    def then(kind: str, inputs: Sequence[str], result: str, **attributes: Any) -> None:
        nonlocal value
        nodes.append(helper.make_node(kind, inputs, [result], name=result, **attributes))
        value = result

    def constant(name: str, content: Any, kind: type[np.generic] = np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(content, kind), name))
        return name

    if output.rank != 2:
        then("Flatten", [value], "logits_flat", axis=1)
    if output.reading == "one logit":
        then("Pad", [value, constant("logits_pads", [0, 1, 0, 0], np.int64)], "logits_padded")
    elif output.reading == "one probability":
        then("Sub", [constant("logits_one", 1.0), value], "logits_other")
        then("Concat", ["logits_other", nodes[-1].input[1]], "logits_both", axis=1)
    if output.reading in {"probabilities", "one probability"}:
        smallest = SMALLEST if output.reading == "probabilities" else SMALLEST_OTHER
        then("Clip", [value, constant("logits_smallest", smallest)], "logits_clipped")
        then("Log", [value], "logits_log")
    if not nodes:
        replace_value(graph, source, OUTPUT)
        return
    nodes[-1].output[0] = OUTPUT
    graph.node.extend(nodes)


def _constants(mean: Statistics, std: Statistics, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The factor of pixels, and the number to subtract afterwards; scalars, or one number per channel on the layout's channel axis."""
    single = not isinstance(mean, tuple) and not isinstance(std, tuple)
    means, stds = (np.array(v, np.float64) for v in (mean, std))
    shape = () if single else (CHANNELS, 1, 1) if layout == "NCHW" else (1, 1, CHANNELS)
    values = (1 / (255 * stds), means / stds)
    scale, shift = (
        np.broadcast_to(v.reshape(-1, *shape[1:]) if v.ndim and layout == "NCHW" else v, shape) for v in values
    )
    return scale.astype(np.float32), shift.astype(np.float32)


def _drop_weights_from_inputs(graph: GraphProto) -> None:
    """Remove weights from the inputs, where graphs before IR version 4 had to list them."""
    weights = {t.name for t in graph.initializer}
    for value in [v for v in graph.input if v.name in weights]:
        graph.input.remove(value)


def _drop_dead(graph: GraphProto) -> None:
    """Remove nodes that no output depends on."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed & set(node.output):
            needed.update(node.input)
            needed.update(_captured(node))
        else:
            graph.node.remove(node)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the branches of an If or Loop read from the outer graph."""
    return {name for graph in _inner(node) for inner in graph.node for name in (*inner.input, *_captured(inner))} | {
        output.name for graph in _inner(node) for output in graph.output
    }


def _inner(node: onnx.NodeProto) -> list[GraphProto]:
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and its inner graphs."""
    yield graph
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner)


def names_in(graph: GraphProto) -> Iterator[str]:
    """Every name in a graph, without those of inner graphs."""
    for node in graph.node:
        yield from (*node.input, *node.output)
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
