"""Names after layers: Netron, a profile and a sensitivity table show the module's path in the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from onnx import GraphProto, NodeProto

# edgekit's own wrappers around a network (PixelClassifier.model, Classifier.encoder, Encoder.network); paths leave them out.
_WRAPPERS = ("model", "encoder", "network")
# Names of the graph's inputs and outputs, also of those added later: a layer may be named `embedding`, its value may not.
RESERVED = {"image", "logits", "embedding", "image_shape"}
_LAYER = ("", "weight", "bias")  # the roles of its inputs
_ROLES = {"Conv": _LAYER, "ConvTranspose": _LAYER, "Gemm": _LAYER, "MatMul": ("", "weight")}


def rename(graph: GraphProto) -> None:
    """Name nodes, the values that they compute and the initializers that they read after the layers; inputs and outputs keep their names.

    A layer that is one node has the module's path: `layer1.0.conv1`. A node that a module computes in addition to its submodules has the
    operator added: `layer1.0.Add`. A weight is named as in the state dict: `layer1.0.conv1.weight`. Graphs with control flow keep the
    names of their values, because inner graphs may read them. Renaming a second time changes nothing.
    """
    paths = [_path(node.name) for node in graph.node]
    counts = Counter(path for path, _ in paths)
    parents = {path[:i] for path, _ in paths for i, letter in enumerate(path) if letter == "."}
    names: set[str] = set()
    for node, (path, operator) in zip(graph.node, paths, strict=True):
        layer = counts[path] == 1 and path not in parents
        wanted = path if not operator or (path and layer) else f"{path}.{operator}" if path else operator
        node.name = unique(wanted or node.op_type, names)
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return
    _name_values(graph)


def _path(name: str) -> tuple[str, str]:
    """The module's path and the operator of a node of PyTorch's exporter: `/layer1/layer1.0/conv1/Conv` -> layer1.0.conv1, Conv.

    A name of another form is a path without operator.
    """
    if not name.startswith("/"):
        return name, ""
    *scopes, operator = name.strip("/").split("/")
    for wrapper in _WRAPPERS:
        if scopes[:1] == [wrapper]:
            scopes = scopes[1:]
    # A part of a list or Sequential repeats its parent's name: `layer1/layer1.0`.
    parts = [s for i, s in enumerate(scopes) if i + 1 == len(scopes) or not scopes[i + 1].startswith(f"{s}.")]
    return ".".join(parts), operator


def _name_values(graph: GraphProto) -> None:
    fixed = {value.name for value in (*graph.input, *graph.output)}
    new: dict[str, str] = {}
    taken = fixed | RESERVED
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name and name not in fixed:
                new[name] = unique(node.name if i == 0 else f"{node.name}:{i}", taken)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in weights and name not in new and name not in fixed:
                new[name] = unique(f"{node.name}.{_role(node, i)}", taken)
    for node in graph.node:
        _apply(node.input, new)
        _apply(node.output, new)
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    del graph.value_info[:]  # written again later


def _apply(names: Sequence[str], new: dict[str, str]) -> None:
    for i, name in enumerate(names):
        names[i] = new.get(name, name)  # type: ignore[index]  # a repeated field of protobuf


def _role(node: NodeProto, i: int) -> str:
    roles = _ROLES.get(node.op_type, ())
    return roles[i] if i < len(roles) and roles[i] else f"constant_{i}"


def unique(name: str, taken: set[str]) -> str:
    """A name that is not in `taken`: `name`, or `name` with a number; adds it to `taken`."""
    candidate, i = name, 1
    base = re.sub(r"_\d+$", "", name) if name in taken else name
    while candidate in taken:
        candidate, i = f"{base}_{i}", i + 1
    taken.add(candidate)
    return candidate
