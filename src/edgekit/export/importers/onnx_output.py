"""Find the output of a foreign graph that holds the classes, and the logits before its last nodes.

A Softmax or Sigmoid at the end is recognized by its nodes, also if later nodes move, select or clip its result. Running the graph then checks
with numbers that it was recognized correctly. Probabilities without reachable logits become logits by a logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from edgekit.errors import ExportError
from edgekit.export.importers.answers import Reading, is_flat, multi_label, sigmoid, softmax, sum_to_one, to_logits
from edgekit.export.importers.onnx_checks import type_name
from edgekit.onnx_graph.names import unique
from edgekit.tasks.classification import LOGITS
from edgekit.text import counted

Values = dict[str, NDArray[np.generic]]
_SHAPES = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice"}
_SCALES = {"Cast", "Dropout", "Clip", "Min", "Max", "Mul", "Div", "Add", "Sub"}
_FUNCTIONS = {"Softmax", "LogSoftmax", "Sigmoid"}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, 0}  # 0: not stated in the file
_NOTHING = 1e-6
_CLOSE = 2e-3  # tolerance of probabilities: for clips, small additions and half precision


@dataclass(frozen=True)
class Output:
    """The output of a foreign graph that holds the classes.

    Attributes:
        name: name of the graph's output.
        source: the tensor that the logits are computed from: `name`, or one before it.
        rank: rank of `source`.
        numbers: how many numbers `source` holds per image.
        reading: what these numbers are.
        function: the function that the file applies to them: "", "Softmax", "LogSoftmax" or "Sigmoid".
    """

    name: str
    source: str
    rank: int
    numbers: int
    reading: Reading
    function: str = ""

    def decode(self, source: NDArray[np.generic], output: NDArray[np.generic], file: str) -> NDArray[np.float32]:
        """Convert `source` to logits (n, classes), after checking it against the file's own output.

        Raises:
            ExportError: the two do not match.
        """
        rows = _rows(source, len(source))
        off = _difference(self.function, rows, _rows(output, len(source))) if self.function else None
        if off is not None and off > _CLOSE:
            raise ExportError(
                f"{file}: its output {self.name} is not the {self.function} of {self.source} for every image",
                "export it without the nodes after its last layer",
            )
        return to_logits(rows, self.reading)

    def note(self, file: str) -> str | None:
        """A note for the user on how the logits were obtained; None if they are the output itself."""
        if self.reading == "one logit":
            return (
                f"{file}: gives one number: it is the logit of the second of two classes; the logit of the first is 0"
            )
        if self.reading == "one probability":
            return (
                f"{file}: gives one probability p, of the second of two classes: the logits are log(1 - p) and log(p)"
            )
        if self.reading == "probabilities":
            return f"{file}: gives probabilities: the bundle's logits are their logarithms"
        if self.function:
            return f"{file}: its {self.function} is left out: the bundle's logits are the input of it"
        return None


@dataclass(frozen=True)
class OutputTrace:
    """The tensors from an output back to where its logits may be.

    Attributes:
        output: name of the graph's output.
        tensors: the output and the tensors before it, back to the function's result.
        function: "", "Softmax", "LogSoftmax" or "Sigmoid".
        seen: the function's input, and the same moved and selected like the output; empty without a function.
    """

    output: str
    tensors: tuple[str, ...]
    function: str = ""
    seen: tuple[str, ...] = ()


def paths(model: ModelProto) -> list[OutputTrace]:
    """Trace each float output. Adds nodes to `model` that no output depends on: see `OutputTrace.seen`."""
    found = []
    for output in list(model.graph.output):
        tensor = output.type.WhichOneof("value") in {None, "tensor_type"}
        if tensor and output.type.tensor_type.elem_type in _FLOATS:
            found.append(_path(model.graph, output.name))
    return found


def choose(
    model: ModelProto, found: Sequence[OutputTrace], values: Sequence[Values], count: int, wanted: str | None, file: str
) -> Output:
    """Choose the output that holds the classes.

    Args:
        model: the graph.
        found: the traced outputs, see `paths`.
        values: the values of their tensors for some batches of images.
        count: number of images in a batch.
        wanted: the user's choice, by name; None: decide by the values.
        file: the file, for messages.

    Raises:
        ExportError: the choice is ambiguous, the graph has no such output, or it is not a classifier.
    """
    listed = ", ".join(
        f"{o.name} {type_name(o.type.tensor_type.elem_type)} {_shape(values[0].get(o.name))}".strip()
        for o in model.graph.output
    )
    if wanted is not None:
        named = [path for path in found if path.output == wanted]
        if not named:
            raise ExportError(
                f"{file}: --output-name {wanted}: is not a float output; the outputs are {listed}", "give one of these"
            )
        found = named
    resolved = [output for path in found if (output := _resolve(path, values, count)) is not None]
    if len(resolved) > 1:
        resolved = [o for o in resolved if o.name == LOGITS] or resolved
        resolved = [o for o in resolved if o.numbers > 1] or resolved
    if len({o.source for o in resolved}) == 1:
        if labels := next((o for o in resolved if o.function == "Sigmoid" and o.numbers > 1), None):
            raise multi_label(file, f"its output {labels.name} is a Sigmoid of {labels.numbers} numbers")
        return min(resolved, key=lambda o: bool(o.function))  # the logits, if it gives both
    if not resolved:
        shapes = [_shape(values[0][path.output]) for path in found]
        reason = f"its output {found[0].output} is {shapes[0]}" if len(found) == 1 else f"has the outputs {listed}"
        raise ExportError(
            f"{file}: {reason or 'no output'} for {counted(count, 'image')}, not logits (n, classes)",
            "give an image classifier",
        )
    raise ExportError(
        f"{file}: has the outputs {listed}; which one holds the logits is ambiguous", "choose one: --output-name NAME"
    )


def _resolve(path: OutputTrace, values: Sequence[Values], count: int) -> Output | None:
    """Decide from its values what an output is; None if it does not hold one row per image."""
    first = values[0]
    value = first[path.output]
    if not is_flat(value.shape, count) and value.ndim != 1:
        return None
    # A Cast may have changed the type, and a Squeeze may have removed the batch axis of one image: then a tensor before it is used.
    before = [n for n in path.tensors if first[n].size == value.size and first[n].dtype == np.float32]
    flat = [n for n in before if is_flat(first[n].shape, count) and (n == path.output or first[n].ndim > 1)]
    if not flat:
        return None
    own = flat[0]
    rows = np.concatenate([_rows(v[own], count) for v in values])
    for name in path.seen:
        if not is_flat(first[name].shape, count):
            continue
        seen = np.concatenate([_rows(v[name], count) for v in values])
        if seen.shape != rows.shape or (path.function != "Sigmoid" and seen.shape[1] < 2):
            continue
        off = _difference(path.function, seen, rows)
        if off is not None and off <= _CLOSE:
            single = path.function == "Sigmoid" and seen.shape[1] == 1
            reading: Reading = "one logit" if single else "logits"
            return Output(path.output, name, first[name].ndim, seen.shape[1], reading, path.function)
    if rows.shape[1] == 1:
        reading = "one probability" if path.function == "Sigmoid" else "one logit"
    else:
        selected = path.function == "Softmax" and not bool((rows < 0).any())  # some of the probabilities
        reading = "probabilities" if selected or sum_to_one(rows) else "logits"
    function = "Sigmoid" if path.function == "Sigmoid" and rows.shape[1] > 1 else ""
    return Output(path.output, own, first[own].ndim, rows.shape[1], reading, function)


def _difference(function: str, seen: NDArray[np.floating], rows: NDArray[np.floating]) -> float | None:
    """The largest difference between `rows` and a function of `seen`, as probabilities; None if no rows can be compared.

    A Softmax is compared up to a factor per row, because some of its classes may be left out.
    """
    finite = np.isfinite(seen).all(1) & np.isfinite(rows).all(1)
    seen, rows = seen[finite].astype(np.float64), rows[finite].astype(np.float64)
    if function == "Sigmoid":
        return float(np.abs(sigmoid(seen) - rows).max()) if len(seen) else None
    if function == "LogSoftmax":
        rows = np.exp(np.minimum(rows, 0))
    sums = rows.sum(1)
    comparable = np.abs(sums) > _NOTHING  # rows whose classes all have almost no probability are skipped
    if not comparable.any():
        return None
    return float(np.abs(softmax(seen[comparable]) - rows[comparable] / sums[comparable, None]).max())


def _path(graph: GraphProto, output: str) -> OutputTrace:
    makers = {name: node for node in graph.node for name in node.output if name}
    constants = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    passed: list[NodeProto] = []
    tensors, name = [output], output
    while (node := makers.get(name)) is not None:
        function, before = _function(node, makers)
        if function:
            seen = _moved(graph, passed, before, constants)
            return OutputTrace(output, tuple(tensors), function, (before,) if seen == before else (before, seen))
        data = [n for n in node.input if n and n not in constants]
        usual = node.op_type in _SHAPES | _SCALES and len(data) == 1 and name == node.output[0]
        if not usual or data[0] in tensors:  # a cycle: ONNX Runtime reports it
            break
        passed.append(node)
        name = data[0]
        tensors.append(name)
    return OutputTrace(output, tuple(tensors))


def _function(node: NodeProto, makers: dict[str, NodeProto]) -> tuple[str, str]:
    """The function whose last node this is, and its input; two empty strings if there is none."""
    before = node.input[0] if node.input else ""
    if node.op_type in _FUNCTIONS:
        return node.op_type, before
    maker = makers.get(before)
    if node.op_type == "Log" and maker is not None and maker.op_type != "Log":
        function, seen = _function(maker, makers)
        return ("LogSoftmax", seen) if function == "Softmax" else ("", "")
    if node.op_type == "Div" and maker is not None and maker.op_type == "Exp":  # exp(x) / sum(exp(x))
        total = makers.get(node.input[1])
        if total is not None and total.op_type == "ReduceSum" and total.input[0] == before:
            return "Softmax", str(maker.input[0])
    return "", ""


def _moved(graph: GraphProto, passed: Sequence[NodeProto], before: str, constants: set[str]) -> str:
    """Apply copies of the nodes after the function to its input; return the name of the result."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    moves = [node for node in reversed(passed) if node.op_type in _SHAPES]
    for node in moves:
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.name = f"{node.name or node.op_type}_of_logits"
        for i, name in enumerate(copied.input):
            if name and name not in constants:
                copied.input[i] = before
        before = unique(f"{node.output[0]}_of_logits", taken)
        del copied.output[:]
        copied.output.append(before)
    return before


def _rows(value: NDArray[np.generic], count: int) -> NDArray[np.floating]:
    rows: NDArray[np.floating] = np.asarray(value, np.float32).reshape(count, -1)
    return rows


def _shape(value: NDArray[np.generic] | None) -> str:
    return "" if value is None else f"({', '.join(map(str, value.shape))})"
