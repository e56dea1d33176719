"""The ONNX that TensorRT builds from: opset 17, in FP32, in FP16, or INT8 with the rest in FP16.

TensorRT has two ways of typing. With strong typing (TensorRT 10.12 and later, 11, TensorRT for RTX) the types are those of the graph, so
the graph itself must be in FP16; INT8 with the rest in FP32 is slower than plain FP16 there. With weak typing (earlier versions) builder
flags choose the types and the graph stays in FP32: TensorRT 8's parser reads the scales of Q/DQ nodes as FP32, whatever their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgekit.bundle import Precision
from edgekit.errors import ExportError
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import set_precision
from edgekit.onnx_graph.tail import tail_of
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq_lint import QDQ_OPERATORS, lint

_LARGEST = float(np.finfo(np.float16).max)


def tensorrt_onnx(source: Path, output: Path, precision: Precision, *, typed: bool = True) -> None:
    """Write the ONNX for TensorRT.

    Args:
        source: the float ONNX, opset 17; for int8 the one with signed Q/DQ nodes (`quantize.qdq.SIGNED`).
        output: the file to write; may be the source.
        precision: fp32, fp16, or int8 (Q/DQ nodes unchanged, the rest in FP16).
        typed: whether the builder is strongly typed; otherwise everything that is not INT8 stays FP32, and flags choose FP16.

    Raises:
        ExportError: TensorRT would refuse or misread the graph.
    """
    model = read_onnx(source)
    if precision != "fp32" and typed:
        model = to_half(model)
    faults = lint(model)
    if faults:
        listed = "; ".join(f"{f.node} ({f.operator}): {f.reason}" for f in faults[:3])
        raise ExportError(f"TensorRT would misread the {precision} graph: {listed}")
    set_precision(model, precision)
    onnx.save(model, output)


def to_half(model: ModelProto) -> ModelProto:
    """Convert a float model to FP16; its inputs, its outputs and a marked tail keep their types, and its Q/DQ nodes get FP16 scales.

    Opset 17 does not define Q/DQ with FP16 scales (19 does), but TensorRT reads them, and `simulated` runs them.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = ModelProto()
    copied.CopyFrom(model)
    half = ONNXModel(
        convert_float_to_float16(
            copied, keep_io_types=True, node_block_list=[node.name for node in tail_of(model)] or None
        )
    )
    half.topological_sort()  # it appends its casts at the end
    converted: ModelProto = half.model
    return converted


def simulated(path: Path, outputs: Sequence[str]) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """What such a file computes, by ONNX Runtime on the CPU, node by node: uint8 (n, h, w, 3) -> some outputs, float32 (n, …).

    This is what the graph computes, not what TensorRT's kernels compute. FP16 Q/DQ, which opset 17 lacks, runs as ONNX Runtime's own
    operators of the same meaning. The graph is not optimized, so that each rounding happens where the graph has it.
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

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(outputs, session.run(list(outputs), {image: images}), strict=True))

    return run


def check_range(calibration: Calibration) -> None:
    """Check that the activations on the calibration images are within the range of FP16.

    Raises:
        ExportError: an activation is not.
    """
    for name, histogram in calibration.histograms.items():
        reached = max(-histogram.lowest, histogram.highest)
        if reached > _LARGEST:
            raise ExportError(
                f"the activation {name} reaches {reached:.3g} on the calibration images; FP16 holds at most {_LARGEST:g}",
                "export this model for TensorRT with --precision fp32",
            )
