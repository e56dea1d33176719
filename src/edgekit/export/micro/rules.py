"""What TFLite Micro asks of a graph: its operators, and pixels that never become floats."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, ExportError
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import NONE, VALID, Graph, LiteTensor, Operator, constant
from edgekit.export.litert.quantize import MICRO, OperatorCounts, quantize
from edgekit.export.litert.rewrites import Range
from edgekit.runtimes import open_session
from edgekit.targets import TFLITE_MICRO
from edgekit.tasks import Task

HINT = "leave --target micro out, or export a student whose operators it has (see docs/export.md)"
_FAILED = re.compile(r"Node (\w+) \(number (\d+)")  # what the interpreter prints of an operator
_PIXELS = (0.0, 255.0)
_CLAMPS = {"RELU_0_TO_1": (0.0, 1.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_NORMALIZATION = "normalization"  # name of a node; those of the ONNX stay in float
# The methods of tflite::MicroMutableOpResolver (tensorflow/lite/micro/micro_mutable_op_resolver.h) by kind of operator.
METHODS = {
    "ABS": "AddAbs", "ADD": "AddAdd", "AVERAGE_POOL_2D": "AddAveragePool2D", "BATCH_MATMUL": "AddBatchMatMul", "CEIL": "AddCeil",
    "CONCATENATION": "AddConcatenation", "CONV_2D": "AddConv2D", "COS": "AddCos", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "DEPTH_TO_SPACE": "AddDepthToSpace", "DEQUANTIZE": "AddDequantize", "DIV": "AddDiv", "ELU": "AddElu", "EXP": "AddExp",
    "FLOOR": "AddFloor", "FULLY_CONNECTED": "AddFullyConnected", "GATHER": "AddGather", "HARD_SWISH": "AddHardSwish",
    "LEAKY_RELU": "AddLeakyRelu", "LOG": "AddLog", "LOGISTIC": "AddLogistic", "MAXIMUM": "AddMaximum", "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean", "MINIMUM": "AddMinimum", "MUL": "AddMul", "NEG": "AddNeg", "PAD": "AddPad", "PADV2": "AddPadV2",
    "QUANTIZE": "AddQuantize", "REDUCE_MAX": "AddReduceMax", "REDUCE_MIN": "AddReduceMin", "RELU": "AddRelu", "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape", "RESIZE_BILINEAR": "AddResizeBilinear", "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor",
    "RSQRT": "AddRsqrt", "SIN": "AddSin", "SOFTMAX": "AddSoftmax", "SPACE_TO_DEPTH": "AddSpaceToDepth", "SPLIT": "AddSplit",
    "SQRT": "AddSqrt", "SQUARE": "AddSquare", "STRIDED_SLICE": "AddStridedSlice", "SUB": "AddSub", "SUM": "AddSum", "TANH": "AddTanh",
    "TRANSPOSE": "AddTranspose",
}  # fmt: skip


def check_operators(graph: Graph) -> None:
    """Check that TFLite Micro has every operator of a graph.

    Raises:
        ExportError: it lacks one.
    """
    for operator in graph.operators:
        if operator.kind not in METHODS:
            raise ExportError(
                f"TFLite Micro does not have the operator {operator.kind} (node {operator.node or '?'})", HINT
            )


def check_kernels(graph: Graph, task: Task) -> None:
    """Check that TFLite Micro's kernels take what the operators of a graph ask of them.

    Raises:
        ExportError: one does not.
    """
    check_operators(graph)
    with TemporaryDirectory(prefix="micro-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(serialize(graph))
        try:
            open_session(TFLITE_MICRO.name, path, task=task).close()
        except BundleError as error:
            failed = _FAILED.search(error.message)
            if failed is None or int(failed[2]) >= len(graph.operators):
                raise ExportError(f"TFLite Micro cannot run the graph: {error.reason}", HINT) from error
            node = graph.operators[int(failed[2])].node or "?"
            raise ExportError(
                f"TFLite Micro cannot run the operator {failed[1]} (node {node}): {error.reason}", HINT
            ) from error


def quantize_for_micro(
    graph: Graph, ranges: Mapping[str, Range], kept: Collection[str], bits: int
) -> tuple[Graph, OperatorCounts]:
    """A graph in INT8 for TFLite Micro (see `litert.quantize`), its normalization in INT8 too where nothing in float reads it.

    An image in float has four times the size of its pixels, and is often the largest activation of all.

    Args:
        graph: float, of batch 1; is left as it is.
        ranges: of the activations, by ONNX value.
        kept: names of the ONNX nodes that stay in float.
        bits: of the weights.
    """
    prepared, pixels = _with_integer_pixels(_without_clamps(graph), ranges, set(kept))
    if pixels is not None:
        ranges = {**ranges, pixels.source: _PIXELS}
    found, counts = quantize(prepared, ranges, kept, bits, MICRO)
    _join_conversions(found, counts)
    return found, counts


def _without_clamps(graph: Graph) -> Graph:
    """The graph with the activations between two numbers that TFLite Micro lacks as a maximum and a minimum."""
    found = Graph([], list(graph.inputs), dict(graph.outputs), dict(graph.metadata))
    for operator in graph.operators:
        if operator.kind not in _CLAMPS:
            found.operators.append(operator)
            continue
        output = operator.outputs[0]
        low, high = (constant(f"{output.name}/{v:g}", np.array([v], np.float32)) for v in _CLAMPS[operator.kind])
        above = LiteTensor(f"{output.name}/above", output.sides)
        found.operators += [
            Operator("MAXIMUM", [operator.inputs[0], low], [above], {}, operator.node),
            Operator("MINIMUM", [above, high], [output], {}, operator.node),
        ]
    return found


def _with_integer_pixels(graph: Graph, ranges: Mapping[str, Range], kept: set[str]) -> tuple[Graph, LiteTensor | None]:
    """The graph with its normalization as a convolution of one pixel, whose weights are exact in INT8, and the pixels as numbers; None where
    the normalization is another one, or its reader stays in float."""
    first = graph.operators[0] if graph.operators else None
    if first is None or first.kind != "DEQUANTIZE" or first.inputs != [graph.inputs[0]]:
        return graph, None
    pixels = first.outputs[0]
    channels = pixels.shape[-1]
    factor, shift = np.ones(channels), np.zeros(channels)
    value, chain = pixels, [first]
    while (step := _affine(graph, value, channels)) is not None:
        operator, by, plus = step
        chain.append(operator)
        factor, shift, value = factor * by, shift * by + plus, operator.outputs[0]
    fits = pixels.source and value is not pixels and value.source in ranges and factor.all()
    if not fits or value in graph.outputs.values() or any(reader.node in kept for reader in graph.readers(value)):
        return graph, None
    options = {
        "padding": VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": 1,
        "fusedActivationFunction": NONE,
    }  # fmt: skip
    kernel = constant(f"{_NORMALIZATION}/weight", factor.reshape(1, 1, 1, -1).astype(np.float32))
    bias = constant(f"{_NORMALIZATION}/bias", shift.astype(np.float32))
    normalized = Operator("DEPTHWISE_CONV_2D", [pixels, kernel, bias], [value], options, _NORMALIZATION)
    others = [operator for operator in graph.operators if operator not in chain]
    made = Graph([first, normalized, *others], list(graph.inputs), dict(graph.outputs), dict(graph.metadata))
    return made, pixels


def _affine(
    graph: Graph, value: LiteTensor, channels: int
) -> tuple[Operator, NDArray[np.float64], NDArray[np.float64]] | None:
    """The operator that alone reads a value, if it only multiplies each channel by a number and adds one; and those numbers."""
    readers = graph.readers(value)
    if len(readers) != 1 or value in graph.outputs.values():
        return None
    (operator,) = readers
    other = next((t for t in operator.inputs if t is not None and t is not value), None)
    if other is None or other.data is None or operator.options.get("fusedActivationFunction", NONE) != NONE:
        return None
    if other.data.size not in {1, channels} or (other.data.size > 1 and other.shape[-1] != channels):
        return None
    number = np.broadcast_to(other.data.astype(np.float64).reshape(-1), (channels,))
    first, one, zero = operator.inputs[0] is value, np.ones(channels), np.zeros(channels)
    steps = {
        "ADD": (one, number),
        "SUB": (one, -number) if first else (-one, number),
        "MUL": (number, zero),
        **({"DIV": (1 / number, zero)} if first and number.all() else {}),
    }
    return (operator, *steps[operator.kind]) if operator.kind in steps else None


def _join_conversions(graph: Graph, counts: OperatorCounts) -> None:
    """Integers that become floats and at once integers again stay integers: QUANTIZE reads what DEQUANTIZE did."""
    makers = {id(operator.outputs[0]): operator for operator in graph.operators}
    for operator in graph.operators:
        read = operator.inputs[0]
        before = makers.get(id(read)) if read is not None else None
        if operator.kind == "QUANTIZE" and before is not None and before.kind == "DEQUANTIZE":
            operator.inputs = [before.inputs[0]]
    graph.remove_dead()
    left = sum(op.kind == "DEQUANTIZE" and op.node not in {"dequantize"} for op in graph.operators)
    counts.in_float.pop("DEQUANTIZE", None)
    if left:
        counts.in_float["DEQUANTIZE"] = left
