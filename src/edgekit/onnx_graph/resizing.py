"""ONNX's Resize of one axis as a matrix, read off ONNX Runtime's own: for targets whose resizing rounds in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper


def resize_matrix(attributes: Mapping[str, Any], size: int, target: int, scale: float | None) -> NDArray[np.float32]:
    """Return the matrix (target, size) that resizes an axis: ONNX's own Resize of unit vectors.

    Args:
        attributes: of the Resize node; `axes` is left out.
        size: of the axis.
        target: its size afterwards.
        scale: of the axis where the node gives scales, on which the values then depend; None: it gives sizes.
    """
    import onnxruntime as ort

    from edgekit.runtimes.onnxruntime import session_options

    if scale is None:
        shape, operands = (
            helper.make_tensor("sizes", TensorProto.INT64, [4], [size, 1, target, 1]),
            ["x", "", "", "sizes"],
        )
    else:
        shape, operands = (
            helper.make_tensor("sizes", TensorProto.FLOAT, [4], [1.0, 1.0, scale, 1.0]),
            ["x", "", "sizes"],
        )
    resize = helper.make_node("Resize", operands, ["y"], **{k: v for k, v in attributes.items() if k != "axes"})
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size, 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([resize], "resize", inputs, outputs, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quiet = session_options()
    quiet.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    units = np.eye(size, dtype=np.float32).reshape(size, 1, size, 1)
    found: NDArray[np.float32] = session.run(["y"], {"x": units})[0].reshape(size, target).T
    return np.ascontiguousarray(found)
