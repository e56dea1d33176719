"""A foreign float graph in edgekit's form: pixels in (uint8 NHWC, normalised inside), `logits` out, a free batch axis."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekit.errors import ExportError
from edgekit.export.graph.onnx import INPUT, OUTPUT
from edgekit.export.graph.operators import refused
from edgekit.export.sources.onnx_checks import type_name
from edgekit.models.pixels import Statistics

Layout = Literal["NCHW", "NHWC"]
_CHANNELS = 3


@dataclass(frozen=True)
class Ports:
    """Where images go into a foreign graph and logits come out.

    Attributes:
        input: name of the input.
        layout: of the input.
        is_pixels: whether it takes uint8 pixels rather than normalised floats.
        batch: the batch size that the graph fixes; None where it is free.
        size: the side of the images that the graph fixes, in pixels; None where it is free.
        output: name of the graph's output.
        logits: the tensor that the logits are: `output`, or what the Softmax that gives it sees.
    """

    input: str
    layout: Layout
    is_pixels: bool
    batch: int | None
    size: int | None
    output: str
    logits: str


def find_ports(model: ModelProto, here: str) -> Ports:
    """Input and output of a classifier.

    Raises:
        ExportError: it has several inputs or outputs, or does not take RGB images as float32 or uint8.
    """
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:5]) or "none"
        raise ExportError(
            f"{here}: has {len(inputs)} inputs ({names}), not one image", "export the image classifier alone"
        )
    name, kind = inputs[0].name, inputs[0].type.tensor_type.elem_type
    shape = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim]
    says = f"{here}: its input {name} is {type_name(kind)} ({', '.join(str(d or '?') for d in shape)})"
    if kind not in {TensorProto.FLOAT, TensorProto.UINT8} or len(shape) != 4:
        raise ExportError(
            f"{says}, not a float32 or uint8 image of four axes", "export it with a float32 image (n, 3, h, w) as input"
        )
    layout: Layout = "NHWC" if shape[3] == _CHANNELS and shape[1] != _CHANNELS else "NCHW"
    channels, *sides = (shape[1], *shape[2:]) if layout == "NCHW" else (shape[3], *shape[1:3])
    if channels not in {None, _CHANNELS}:
        raise ExportError(f"{says}: no axis of 3 channels", "edgekit's images are RGB; export it for three channels")
    if None not in sides and sides[0] != sides[1]:
        raise ExportError(
            f"{says}: {sides[0]}x{sides[1]} pixels", "edgekit's images are square; export it for a square"
        )
    output = _one_output(graph, here)
    return Ports(
        name, layout, kind == TensorProto.UINT8, shape[0], sides[0] or sides[1], output, _before_softmax(graph, output)
    )


def _one_output(graph: GraphProto, here: str) -> str:
    found = [o for o in graph.output if o.type.tensor_type.elem_type in {TensorProto.FLOAT, 0}]
    if len(found) > 1:
        named = [o for o in found if o.name == OUTPUT]
        flat = [o for o in found if len(o.type.tensor_type.shape.dim) == 2]
        found = named or flat
    if len(found) != 1:
        listed = ", ".join(f"{o.name} {type_name(o.type.tensor_type.elem_type)}" for o in graph.output)
        raise ExportError(
            f"{here}: has the outputs {listed}: which one the logits are cannot be told",
            "export it with the logits alone",
        )
    return str(found[0].name)


def _before_softmax(graph: GraphProto, output: str) -> str:
    """Probabilities are no logits: what the last Softmax sees is what every other export of edgekit gives."""
    maker = next((node for node in graph.node if output in node.output), None)
    return str(maker.input[0]) if maker is not None and maker.op_type == "Softmax" else output


def set_shape(model: ModelProto, ports: Ports, batch: int | str, size: int) -> None:
    """Write batch and image size into a graph's input, and forget every shape that followed from others; changes `model`."""
    graph = model.graph
    _drop_weights_from_inputs(graph)
    square = [_CHANNELS, size, size] if ports.layout == "NCHW" else [size, size, _CHANNELS]
    kind = graph.input[0].type.tensor_type.elem_type
    graph.input[0].CopyFrom(helper.make_tensor_value_info(ports.input, kind, [batch, *square]))
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def observe(model: ModelProto, ports: Ports) -> None:
    """Make the logits the graph's one output; changes `model`."""
    graph = model.graph
    kept = next((output for output in graph.output if output.name == ports.logits), None)
    value = ValueInfoProto()
    value.CopyFrom(kept if kept is not None else helper.make_tensor_value_info(ports.logits, TensorProto.FLOAT, None))
    del graph.output[:]
    graph.output.append(value)
    _drop_dead(graph)


def folded(model: ModelProto, target: str) -> ModelProto:
    """Constants folded, BatchNorm folded into convolutions, branches that never change cut away: ONNX Runtime's basic optimisation,
    which writes standard operators only.

    Raises:
        ExportError: ONNX Runtime does not take the graph.
    """
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    with tempfile.TemporaryDirectory(prefix="edgekit-export-") as scratch:
        options = session_options()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(scratch) / "model.onnx")
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but RuntimeError and Exception
            raise refused(target, model, error, "export it again with other operators, or another opset") from error
        result = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in result.graph.node}
    for imported in [i for i in result.opset_import if i.domain and i.domain not in used]:
        result.opset_import.remove(imported)
    result.ir_version = model.ir_version
    return result


def free_batch(model: ModelProto) -> None:
    """Turn a batch of one into a free one: in the input, and in Reshapes to a constant shape that begins with it; changes `model`.

    Whether that was enough, only running the graph on several images tells.
    """
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Reshape" and n.input[1] in constants]:
        shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if shape[:1] != [1] or 0 in shape:
            continue
        shape[0] = 0  # as long as the axis is now, unless `allowzero` says that it is empty
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)
        name = f"{node.name or node.output[0]}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        node.input[1] = name
    _name_batch(graph.input[0])
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def take_pixels(model: ModelProto, ports: Ports, size: int, mean: Statistics, std: Statistics) -> None:
    """Put cast, layout and normalisation, in this order, before the graph's input, and name it; changes `model`."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    value = INPUT

    def then(kind: str, result: str, *constants: str, **attributes: Any) -> None:
        nonlocal value
        nodes.append(helper.make_node(kind, [value, *constants], [result], name=result, **attributes))
        value = result

    if not ports.is_pixels:
        then("Cast", "pixels", to=TensorProto.FLOAT)
    if ports.layout == "NCHW":
        then("Transpose", "pixels_nchw", perm=[0, 3, 1, 2])
    if not ports.is_pixels:
        scale, shift = _constants(mean, std, ports.layout)
        graph.initializer.extend(
            [numpy_helper.from_array(scale, "pixel_scale"), numpy_helper.from_array(shift, "pixel_shift")]
        )
        then("Mul", "pixels_scaled", "pixel_scale")
        then("Sub", "pixels_normalised", "pixel_shift")
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == ports.input:
                node.input[i] = value
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", size, size, _CHANNELS]))


def name_logits(model: ModelProto, ports: Ports, classes: int) -> None:
    """Call the output `logits` and give it its shape; one of (n, classes, 1, 1) is flattened; changes `model`."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    rank = len(inferred.type.tensor_type.shape.dim)
    taken = {OUTPUT} & {name for node in graph.node for name in (*node.input, *node.output)} - {ports.logits}
    for name in taken:  # an inner tensor of that name steps aside
        _rename(graph, name, f"{name}_inner")
    if rank == 2:
        _rename(graph, ports.logits, OUTPUT)
    else:
        graph.node.append(helper.make_node("Flatten", [ports.logits], [OUTPUT], name="flatten_logits", axis=1))
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))


def _constants(mean: Statistics, std: Statistics, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """What pixels are multiplied by, and what is then taken from them; scalars, or one number a channel in the layout's place."""
    single = not isinstance(mean, tuple) and not isinstance(std, tuple)
    means, stds = (np.array(v, np.float64) for v in (mean, std))
    shape = () if single else (_CHANNELS, 1, 1) if layout == "NCHW" else (1, 1, _CHANNELS)
    values = (1 / (255 * stds), means / stds)
    scale, shift = (
        np.broadcast_to(v.reshape(-1, *shape[1:]) if v.ndim and layout == "NCHW" else v, shape) for v in values
    )
    return scale.astype(np.float32), shift.astype(np.float32)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def _name_batch(value: ValueInfoProto) -> None:
    axis = value.type.tensor_type.shape.dim[0]
    axis.ClearField("dim_value")
    axis.dim_param = "batch"


def _drop_weights_from_inputs(graph: GraphProto) -> None:
    """Before IR version 4 weights had to be listed as inputs too."""
    weights = {t.name for t in graph.initializer}
    for value in [v for v in graph.input if v.name in weights]:
        graph.input.remove(value)


def _drop_dead(graph: GraphProto) -> None:
    """Remove nodes that no output needs."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed & set(node.output):
            needed.update(node.input)
            needed.update(_captured(node))
        else:
            graph.node.remove(node)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the branches of an If or Loop take from around it."""
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    return {name for graph in graphs for inner in graph.node for name in (*inner.input, *_captured(inner))}
