"""INT8 as ONNX with quantize/dequantize (Q/DQ) nodes, by ONNX Runtime's static quantization.

ONNX Runtime fuses the file fully and OpenVINO reads it too: uint8 asymmetric activations, int8 weights per output channel, biases in
float. The nodes before the first layer stay in float, and so does the classifier: it costs next to nothing and carries
the outputs' precision.
"""

from __future__ import annotations

import contextlib
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from edgekit.errors import ExportError, reason_of
from edgekit.machine import has_int8_dot_product
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import set_precision
from edgekit.onnx_graph.tail import tail_of
from edgekit.onnx_graph.values import producers
from edgekit.quantization import Quantization
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.ranges import Method, select
from edgekit.quantize.signed import LAYERS, quantize_signed

# Operators that both runtimes compute in INT8. All others (parts of SiLU, LayerNorm, Softmax) are faster and more exact in float.
OPERATIONS = [
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool",
]  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """How weights are quantized, per output channel and symmetric.

    Attributes:
        name: as recorded in the bundle.
        bits: 8, or 7, which cannot saturate (see `saturates`).
        signed: int8; otherwise uint8 around 128: exact on every CPU, but about as slow as float on a CPU without a dot product.
        symmetric: activations as int8 around 0, with Q/DQ nodes placed for TensorRT; otherwise uint8.
    """

    name: str
    bits: int
    signed: bool = True
    symmetric: bool = False


FULL = Scheme("8-bit", 8)
REDUCED = Scheme("7-bit", 7)
UNSIGNED = Scheme("unsigned 8-bit", 8, signed=False)
SIGNED = Scheme("signed 8-bit", 8, symmetric=True)  # for TensorRT; slower than float in ONNX Runtime


def saturates() -> bool:
    """Whether INT8 products of 8-bit weights saturate on this CPU.

    x86 without VNNI adds two u8 x s8 products in 16 bits, which can overflow; 7-bit weights cannot overflow.
    """
    return platform.machine().lower() in {"x86_64", "amd64"} and not has_int8_dot_product()


def quantize_onnx(
    calibration: Calibration,
    output: Path,
    scheme: Scheme,
    *,
    method: Method = "percentile",
    exclude: Sequence[str] = (),
) -> Quantization:
    """Write a Q/DQ model; return the record of how it was made.

    Args:
        calibration: the float model and its calibration images.
        output: the file to write.
        scheme: how weights and activations are quantized.
        method: how the ranges of the activations are chosen.
        exclude: names of nodes that stay in float, in addition to `kept_in_float`.

    Raises:
        ExportError: the graph, or every node of it, cannot be quantized.
    """
    model = read_onnx(calibration.model)
    float_nodes = list(dict.fromkeys([*kept_in_float(model), *exclude]))
    ranges = select(calibration.histograms, method, scheme.symmetric)
    try:
        if scheme.symmetric:
            quantized = quantize_signed(model, ranges, float_nodes)
        else:
            quantized = _by_onnxruntime(model, ranges, scheme, [*float_nodes, *between_tokens(model)])
    except OSError:  # a full disk is not the graph's fault
        raise
    except Exception as error:  # the quantizer raises many kinds for a graph that it does not expect
        reason = reason_of(error)
        raise ExportError(f"the model cannot be quantized: {reason}", "export it without --precision int8") from error
    onnx.checker.check_model(quantized, full_check=True)
    if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
        raise ExportError("the network has no layer that can be quantized", "export it without --precision int8")
    set_precision(quantized, "int8")
    onnx.save(quantized, output)
    return Quantization(
        tool="edgekit" if scheme.symmetric else f"onnxruntime {metadata.version('onnxruntime')} QDQQuantizer",
        format="QDQ",
        activations="int8 symmetric, per tensor" if scheme.symmetric else "uint8 asymmetric, per tensor",
        weights=f"{'int8' if scheme.signed else 'uint8'} symmetric, per output channel, {scheme.bits} bits",
        calibration=calibration.describe(method),
        operations=[*sorted(LAYERS), "the skip of residual sums"] if scheme.symmetric else OPERATIONS,
        kept_in_float=float_nodes,
    )


def _by_onnxruntime(
    model: ModelProto, ranges: dict[str, tuple[float, float]], scheme: Scheme, float_nodes: list[str]
) -> ModelProto:
    """Quantize with ONNX Runtime, which places the Q/DQ nodes where it can fuse them."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    extremes = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        True,  # per channel
        scheme.bits == 7,
        QuantType.QInt8 if scheme.signed else QuantType.QUInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, extremes),
        [],
        float_nodes,
        OPERATIONS,
        {"QuantizeBias": False},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    return quantized


def between_tokens(model: ModelProto) -> list[str]:
    """Names of the nodes of a transformer that are no layers, and better in float: products of two activations, and sums that no convolution feeds.

    The residual sum of a transformer reaches much further than what a block adds to it, so one scale for all of it costs most of the accuracy
    (ViT-tiny with random weights: 5.5 dB of SQNR with these sums in INT8, 18.6 dB without), and both runtimes are faster in float there. Empty for a
    graph without attention.
    """
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    products = [n.name for n in model.graph.node if n.op_type == "MatMul" and not known & set(n.input)]
    if not products:
        return []
    by_output = producers(model.graph)

    def fed(node: NodeProto) -> bool:
        makers = [by_output[name] for name in node.input if name in by_output]
        before = [by_output.get(m.input[0], m) if m.op_type in {"Relu", "Clip"} else m for m in makers]
        return any(maker.op_type in {"Conv", "ConvTranspose"} for maker in before)

    return [*products, *(node.name for node in model.graph.node if node.op_type == "Add" and not fed(node))]


def kept_in_float(model: ModelProto) -> list[str]:
    """Names of the nodes that stay in float: those before the first layer, the last layer, and those after it; and a marked tail (see `tail`)."""
    nodes = list(model.graph.node)
    first = next((i for i, node in enumerate(nodes) if node.op_type in LAYERS), len(nodes))
    return list(dict.fromkeys(node.name for node in (*nodes[:first], *_last_nodes(model), *tail_of(model))))


def last_layer(model: ModelProto) -> NodeProto | None:
    """The layer that makes the main output; None where the graph has no layers."""
    return next((node for node in _last_nodes(model) if node.op_type in LAYERS), None)


def _last_nodes(model: ModelProto) -> list[NodeProto]:
    """Back from the main output until the layer that made them."""
    by_output = producers(model.graph)
    found: dict[str, NodeProto] = {}
    frontier = [model.graph.output[0].name]  # the main one, see `graph.onnx`
    while frontier:
        node = by_output.get(frontier.pop())
        if node is None or node.name in found:
            continue
        found[node.name] = node
        if node.op_type not in LAYERS:
            frontier.extend(node.input)
    return list(found.values())
