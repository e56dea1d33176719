"""Graphs, options and the stand-in for a GPU's driver for the tests of TensorRT: what all of their files share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtimes.tensorrt import BatchRange, BuildOptions, BuildReport, builder
from tests.helpers.tiny_bundle import SIZE, write_onnx

RTX = BuildOptions(flavor="trt-rtx", precision="fp32", batch=BatchRange(max=4), compute_capabilities=("8.6",))


def silent(steps: int = 1, note: str = "") -> None: ...


def built_here(path: Path, options: BuildOptions = RTX) -> BuildReport:
    """What the builder's process does, in this one: for what is not about the process."""
    return builder.run(path, path.with_name("made.engine"), options, None, lambda done, phase: True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_onnx(path)
    return path


@pytest.fixture(scope="module")
def driver(require_tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for the CUDA driver's library."""
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    compiler = require_tool("cc", "compiles the stand-in for the CUDA driver")
    source = Path(__file__).parents[1] / "stand_ins" / "cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def with_nodes(path: Path, nodes: list[Any], weights: list[Any] = []) -> Path:  # noqa: B006
    """An ONNX of edgekit's form: the mean color of each image, then `nodes`, which make `logits` of `pooled`."""
    before = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("ReduceMean", ["float"], ["pooled"], axes=[1, 2], keepdims=0, name="pool"),
    ]
    head = numpy_helper.from_array(np.ones((3, 6), np.float32), "head")
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 6])
    graph = helper.make_graph([*before, *nodes], "graph", [image], [logits], [head, *weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def pairs(zero_point: Any) -> tuple[list[Any], list[Any]]:
    """A matrix product of quantized data."""
    names = ["scale", "zero"]
    return [
        helper.make_node("QuantizeLinear", ["pooled", *names], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", *names], ["dq"], name="dequantize"),
        helper.make_node("MatMul", ["dq", "head"], ["logits"], name="product"),
    ], [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(zero_point, "zero")]
