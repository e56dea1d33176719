"""The ONNX that TensorRT builds from: opset 17, in FP32, in FP16, or INT8 with the rest in FP16.

TensorRT decides types in two ways. Strongly typed (TensorRT from 10.12 on, 11, TensorRT for RTX) it takes them from the graph, so
the graph itself must be in FP16; INT8 with the rest in FP32 loses to plain FP16 there. Weakly typed (before) flags of the
builder choose them, and the graph stays in FP32: the parser of TensorRT 8 reads the scales of Q/DQ pairs as FP32, whatever
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgekit.bundle import Precision
from edgekit.errors import ExportError
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import set_precision
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq_lint import QDQ_OPERATORS, lint
from edgekit.runtimes.session import OUTPUT

_LARGEST = float(np.finfo(np.float16).max)


def tensorrt_onnx(source: Path, output: Path, precision: Precision, *, typed: bool = True) -> None:
    """Write the ONNX for TensorRT.

    Args:
        source: the float ONNX, opset 17; for int8 the one with signed Q/DQ pairs (`quantize.SIGNED`).
        output: the file to write; may be the source.
        precision: fp32, fp16, or int8 (the pairs as they are, the rest in FP16).
        typed: whether the builder is strongly typed; otherwise all that is not INT8 stays FP32, and its flags do the rest.

    Raises:
        ExportError: a graph that does not come out as TensorRT reads it.
    """
    model = read_onnx(source)
    if precision != "fp32" and typed:
        model = to_half(model)
    faults = lint(model)
    if faults:
        listed = "; ".join(f"{f.node} ({f.operator}): {f.reason}" for f in faults[:3])
        raise ExportError(f"TensorRT would not read the {precision} graph as it is meant: {listed}")
    set_precision(model, precision)
    onnx.save(model, output)


def to_half(model: ModelProto) -> ModelProto:
    """A float model in FP16, what it takes and gives in the types it had; its Q/DQ pairs then scale to FP16, too.

    Opset 17 has no such pairs by the letter (19 does): TensorRT reads them all the same, and `simulated` runs them.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = ModelProto()
    copied.CopyFrom(model)
    half = ONNXModel(convert_float_to_float16(copied, keep_io_types=True))
    half.topological_sort()  # the casts that it adds stand at the end
    converted: ModelProto = half.model
    return converted


def simulated(path: Path, output: str = OUTPUT) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """What such a file computes, by ONNX Runtime on the CPU, node by node: uint8 (n, s, s, 3) -> an output, float32 (n, …).

    It shows what the graph says, not what TensorRT's kernels make of it. Pairs in FP16, for which opset 17 has no word, go to ONNX
    Runtime's own operators of the same meaning; the graph is not optimized, so that each rounding happens where it stands.
    """
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    model = read_onnx(path)
    half = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    qdq_nodes = [node for node in model.graph.node if node.op_type in QDQ_OPERATORS and node.input[1] in half]
    for node in qdq_nodes:
        node.domain = "com.microsoft"
    if qdq_nodes:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    options = session_options()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0].name

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return session.run([output], {image: images})[0]

    return run


def check_range(calibration: Calibration) -> None:
    """Make sure that activations on the calibration images are within FP16.

    Raises:
        ExportError: one is not.
    """
    for name, histogram in calibration.histograms.items():
        reached = max(-histogram.lowest, histogram.highest)
        if reached > _LARGEST:
            raise ExportError(
                f"the activation {name} reaches {reached:.3g} on the calibration images, beyond FP16's {_LARGEST:g}",
                "export this model for TensorRT with --precision fp32",
            )
