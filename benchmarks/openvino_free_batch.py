"""OpenVINO loses the bias of a quantized convolution where the batch axis is free: a reproduction without edgekit.

    python benchmarks/openvino_free_batch.py

The graph: x -> Q/DQ -> Conv with int8 weights and a bias -> Q/DQ -> Reshape to (2 n, -1), n being the batch size as `Shape` reads it. For an input of
zeros every output is the bias of its channel, 0 to 3. OpenVINO 2026.4 on the CPU gives 0 everywhere until the graph is reshaped to a
fixed batch. Why, and what edgekit does about it: docs/runtimes.md.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from onnx import TensorProto, helper, numpy_helper


def model() -> bytes:
    """The graph, as an ONNX file of opset 17."""
    constants = {
        "scale": np.float32(0.05), "zero": np.uint8(128),
        "weight": np.full((4, 4, 1, 1), 100, np.int8), "scales": np.full(4, 0.002, np.float32), "zeros": np.zeros(4, np.int8),
        "bias": np.arange(4, dtype=np.float32),
        "first": np.int64(0), "two": np.int64(2), "axis": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["weight_dq"], axis=0),
        helper.make_node("Conv", ["x_dq", "weight_dq", "bias"], ["conv"]),
        helper.make_node("QuantizeLinear", ["conv", "scale", "zero"], ["conv_q"]),
        helper.make_node("DequantizeLinear", ["conv_q", "scale", "zero"], ["conv_dq"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        helper.make_node("Mul", ["n", "two"], ["2n"]),
        helper.make_node("Unsqueeze", ["2n", "axis"], ["rows"]),
        helper.make_node("Concat", ["rows", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["conv_dq", "to"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "free_batch",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main() -> None:
    """Print the largest output with a free and with a fixed batch axis; right is 3.0 for both."""
    images = np.zeros((2, 4, 4, 4), np.float32)
    print(f"OpenVINO {ov.__version__}")
    for name in ("free", "fixed"):
        read = ov.Core().read_model(model())
        if name == "fixed":
            read.reshape(list(images.shape))
        compiled = ov.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        print(f"{name} batch axis: {compiled(images)[0].max():.1f}, right is 3.0")


if __name__ == "__main__":
    main()
