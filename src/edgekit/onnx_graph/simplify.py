"""Simplify an ONNX graph without changing what it computes: shorter, static, readable; doing it again gives the same bytes.

ONNX Runtime folds the constants, with its optimizations off, so that a folded value equals the computed one. Q/DQ nodes are kept: folding
them would undo the quantization.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.errors import ExportError, reason_of
from edgekit.onnx_graph.names import rename
from edgekit.onnx_graph.values import producers

LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit, with room for everything that is not weights
_NEVER_FOLDED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Bernoulli", "Multinomial",
}  # fmt: skip
_FOLDED_AT_MOST = 2**20  # bytes that folding a node may add to the file


def simplify(model: ModelProto, *, names: bool = True) -> ModelProto:
    """Simplify a graph; changes and returns `model`.

    Args:
        model: any opset that ONNX Runtime reads, with its weights in memory.
        names: whether to name nodes and values after the layers.

    Afterwards:

    - constants are initializers, and nodes that depend only on constants and known shapes are folded;
    - there is no Identity, no Dropout and no cast to the same type; a BatchNorm after a convolution is folded into it;
    - every node and every initializer is needed by an output;
    - every node and value is named after its layer, as in `layer1.0.conv1` (see `names`);
    - the graph holds the shape of every value, as far as it is known.

    Raises:
        ExportError: the model is too large for one ONNX file, or its shapes contradict each other.
    """
    refuse_huge(model.ByteSize())
    graph = model.graph
    fold_batch_independent_shapes(model)
    while True:
        before = len(graph.node), len(graph.initializer)
        _constants_to_initializers(graph)
        _remove_idle(model)
        _fold_batch_norms(graph)
        _fold_constants(model)
        _remove_dead(graph)
        if (len(graph.node), len(graph.initializer)) == before:
            break
    if names:
        rename(graph)
    write_shapes(model)
    return model


def refuse_huge(size: int) -> None:
    """Refuse what one ONNX file cannot hold.

    Args:
        size: of the weights, in bytes.

    Raises:
        ExportError: it is more than protobuf's limit of 2 GB.
    """
    if size > LARGEST_BYTES:
        raise ExportError(
            f"the network's weights take {size / 1e9:.1f} GB, more than the 2 GB that one ONNX file holds",
            "export a smaller student",
        )


def write_shapes(model: ModelProto) -> None:
    """Infer the shape of every value and store it in the graph, replacing earlier ones.

    Raises:
        ExportError: the shapes contradict each other.
    """
    del model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        reason = reason_of(error)
        raise ExportError(f"the shapes of the graph contradict each other: {reason}") from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param.startswith("unk__"):  # a generated name, different each time
                dimension.Clear()
    known = sorted(inferred.graph.value_info, key=lambda value: value.name)
    model.graph.value_info.extend(known)
    outputs = {output.name: output for output in inferred.graph.output}
    for output in model.graph.output:
        output.CopyFrom(outputs[output.name])


def fix_batch(model: ModelProto, batch: int) -> ModelProto:
    """Fix the batch size of a graph with a free batch axis; shape arithmetic that depended on it is folded. Changes `model`.

    Raises:
        ExportError: the graph does not work with this batch size.
    """
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        dimension.Clear()
        dimension.dim_value = batch
    return simplify(model, names=False)


def add_embedding(model: ModelProto, output: str, name: str) -> None:
    """Add the input of the last linear layer as an output: float32 (n, d), not normalized. Changes `model`.

    Args:
        model: a graph that holds the shapes of its values.
        output: the name of the logits.
        name: name of the new output.

    Raises:
        ExportError: the logits do not come from a linear layer over one vector per image.
    """
    graph = model.graph
    makers = producers(graph)
    weights = {tensor.name for tensor in graph.initializer}
    node = makers.get(output)
    if node is not None and node.op_type == "Add":  # a bias of its own
        node = next((makers[i] for i in node.input if i in makers), None)
    features = node.input[0] if node is not None and node.op_type in {"Gemm", "MatMul"} else ""
    known = next((v for v in (*graph.value_info, *graph.output) if v.name == features), None)
    if not features or node is None or node.input[1] not in weights or known is None or _rank(known) != 2:
        raise ExportError(
            "the network has no embedding: its logits do not come from a linear layer over one vector per image",
            "export it without --embedding",
        )
    replace_value(graph, features, name)
    for value in graph.value_info:
        if value.name == name:
            logits = next(o for o in graph.output if o.name == output)
            value.type.tensor_type.shape.dim[0].CopyFrom(logits.type.tensor_type.shape.dim[0])
            graph.output.append(value)
            graph.value_info.remove(value)
            return


def replace_value(graph: GraphProto, old: str, new: str) -> None:
    """Rename a value everywhere in a graph."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for value in (*graph.value_info, *graph.output):
        if value.name == old:
            value.name = new


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _constants_to_initializers(graph: GraphProto) -> None:
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        (attribute,) = node.attribute
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
        elif attribute.name in {"value_float", "value_floats", "value_int", "value_ints"}:
            kind = np.float32 if "float" in attribute.name else np.int64
            tensor = numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(attribute), kind))
        else:  # strings, sparse tensors
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _remove_idle(model: ModelProto) -> None:
    """Remove nodes that return their input: Identity, Dropout in evaluation mode, a cast to the same type."""
    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input, *typed.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in list(graph.node):
        cast = node.op_type == "Cast" and types.get(node.input[0]) == node.attribute[0].i
        dropout = node.op_type == "Dropout" and not any(name in used for name in node.output[1:])
        if not (cast or dropout or node.op_type == "Identity"):
            continue
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:  # its training mode may be on
            continue
        source, result = node.input[0], node.output[0]
        if result not in fixed:
            graph.node.remove(node)
            _rewire(graph, result, source)
        elif source not in fixed and source not in weights:  # the node that computed the value computes the output
            graph.node.remove(node)
            replace_value(graph, source, result)


def _rewire(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _fold_batch_norms(graph: GraphProto) -> None:
    """Fold a BatchNorm into the convolution before it, if nothing else reads that: w' = w g / s, b' = (b - m) g / s + beta."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = producers(graph)
    readers: dict[str, int] = {}
    for name in (*(i for node in graph.node for i in node.input), *(output.name for output in graph.output)):
        readers[name] = readers.get(name, 0) + 1
    for norm in [n for n in graph.node if n.op_type == "BatchNormalization" and len(n.output) == 1]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or readers[norm.input[0]] > 1:
            continue
        if not all(name in tensors for name in (*conv.input[1:], *norm.input[1:])) or readers[conv.input[1]] > 1:
            continue
        weight = numpy_helper.to_array(tensors[conv.input[1]])
        if weight.dtype != np.float32:
            continue
        scale, shift, mean, variance = (numpy_helper.to_array(tensors[n]).astype(np.float64) for n in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        gain = scale / np.sqrt(variance + epsilon)
        bias = numpy_helper.to_array(tensors[conv.input[2]]).astype(np.float64) if len(conv.input) > 2 else 0.0
        new = {
            f"{norm.output[0]}.weight": weight * gain.reshape(-1, *[1] * (weight.ndim - 1)),
            f"{norm.output[0]}.bias": (bias - mean) * gain + shift,
        }
        graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in new.items())
        del conv.input[1:]
        conv.input.extend(new)
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
        makers[norm.output[0]] = conv


def _fold_constants(model: ModelProto) -> None:
    """Compute the nodes that depend on no input; known shapes count as constants."""
    graph = model.graph
    _fold_shapes(model)
    constant = {tensor.name for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    folded: list[NodeProto] = []
    for node in graph.node:
        able = node.op_type not in _NEVER_FOLDED and not _has_subgraph(node) and bool(node.input)
        if able and not outputs & set(node.output) and all(not name or name in constant for name in node.input):
            folded.append(node)
            constant.update(node.output)
    if not folded:
        return
    inside = {name for node in folded for name in node.output}
    needed = {name for node in graph.node if not inside & set(node.output) for name in _read_by(node)}
    results = [name for name in inside if name and name in needed]
    values = _computed(model, folded, results) if results else {}  # without results, all of them are dead
    read = {name for node in folded for name in node.input}
    budget = _FOLDED_AT_MOST + sum(tensor.ByteSize() for tensor in graph.initializer if tensor.name in read)
    if (
        sum(value.nbytes for value in values.values()) > budget
    ):  # for example an Expand: the node is smaller than its result
        return
    for node in folded:
        graph.node.remove(node)
    new = (numpy_helper.from_array(np.ascontiguousarray(values[name]), name) for name in sorted(values))
    graph.initializer.extend(new)


def _fold_shapes(model: ModelProto) -> None:
    """Replace the Shape of a value of known shape by a constant."""
    graph = model.graph
    shapes = [node for node in graph.node if node.op_type == "Shape" and not node.attribute]
    if not shapes:
        return
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {v.name: v.type.tensor_type.shape for v in (*inferred.value_info, *inferred.input)}
    for node in shapes:
        shape = known.get(node.input[0])
        if shape is not None and shape.dim and all(d.HasField("dim_value") for d in shape.dim):
            sides = np.array([d.dim_value for d in shape.dim], np.int64)
            graph.initializer.append(numpy_helper.from_array(sides, node.output[0]))
            graph.node.remove(node)


def fold_batch_independent_shapes(model: ModelProto) -> None:
    """Replace shape arithmetic whose result does not depend on the batch size by constants.

    Transformers compute reshapes from the shape of their input, batch included, in about two hundred nodes. All of this arithmetic is run at
    three batch sizes. A result that is the same each time becomes a constant; if only one side of a Reshape differs, that side becomes -1.
    """
    graph = model.graph
    if len(graph.input) != 1 or not any(node.op_type == "Shape" for node in graph.node):
        return
    sides = graph.input[0].type.tensor_type.shape.dim
    if not sides or sides[0].HasField("dim_value") or not all(d.HasField("dim_value") for d in list(sides)[1:]):
        return
    constant = {tensor.name for tensor in graph.initializer}
    constant |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    arithmetic: set[str] = set()  # values that depend only on shapes
    inside: list[NodeProto] = []
    for node in graph.node:
        inputs = {name for name in node.input if name}
        if node.op_type == "Shape" or (
            inputs & arithmetic and inputs <= arithmetic | constant and not _has_subgraph(node)
        ):
            arithmetic.update(node.output)
            inside.append(node)
    shape_values = {name for node in inside for name in node.output}
    readers = [(n, i, name) for n in graph.node if not shape_values & set(n.output) for i, name in enumerate(n.input)]
    results = sorted({name for _, _, name in readers if name in shape_values})
    if not results:
        return
    by_batch = [_at_batch(model, batch, results) for batch in (2, 3, 5)]
    for name, values in ((name, [values_at[name] for values_at in by_batch]) for name in results):
        only_reshapes = all(n.op_type == "Reshape" and i == 1 for n, i, other in readers if other == name)
        if all(np.array_equal(values[0], other) for other in values):
            folded = values[0]
        elif only_reshapes and len({v.shape for v in values}) == 1 and np.greater(values[0], 0).all():
            differs = np.any([values[0] != other for other in values], axis=0)
            if differs.sum() != 1:
                continue
            folded = np.where(differs, -1, values[0]).astype(np.int64)
        else:
            continue
        tensor = numpy_helper.from_array(np.ascontiguousarray(folded), f"{name}.folded")
        graph.initializer.append(tensor)
        _rewire(graph, name, tensor.name)


def _at_batch(model: ModelProto, batch: int, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """The named values of a graph for a blank input of one batch size."""
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.value_info[:]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    kind = model.graph.input[0].type.tensor_type
    sides = [batch, *(d.dim_value for d in list(kind.shape.dim)[1:])]
    blank = np.zeros(sides, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return _run(watched, names, {model.graph.input[0].name: blank})


def _computed(model: ModelProto, nodes: list[NodeProto], names: list[str]) -> dict[str, NDArray[np.generic]]:
    """Compute nodes that depend only on the graph's initializers."""
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    part = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "constants", [], outputs, weights),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    return _run(part, names, {})


def _run(model: ModelProto, names: list[str], inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, inputs), strict=True))


def _remove_dead(graph: GraphProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    alive = {output.name for output in graph.output}
    live_nodes = []
    for node in reversed(graph.node):
        if alive & set(node.output):
            live_nodes.append(node)
            alive.update(_read_by(node))
    live_nodes.reverse()
    if len(live_nodes) < len(graph.node):
        del graph.node[:]
        graph.node.extend(live_nodes)
    for tensor in [t for t in graph.initializer if t.name not in alive]:
        graph.initializer.remove(tensor)


def _read_by(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _read_by(inner)


def _has_subgraph(node: NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
