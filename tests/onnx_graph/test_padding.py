"""'Same' padding before a max pooling, which fills with -inf or a huge negative number: INT8 ranges must not include it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from edgekit.export.half import simulated
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.padding import fold_pool_padding
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.fidelity import compare, run
from edgekit.quantize.qdq import FULL, REDUCED, UNSIGNED, Scheme, quantize_onnx
from edgekit.quantize.qdq_lint import lint
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported

LOWEST = float(np.finfo(np.float32).min)
FILLS = [float("-inf"), LOWEST, -1e9, -65504.0]


class Same(nn.Module):
    """Convolutions around poolings with TensorFlow's padding: after a ReLU, without one, and once with `ceil_mode`."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill
        self.first, self.second = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.third, self.head = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(images))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=self.fill), 3, 2)
        x = functional.max_pool2d(functional.pad(self.second(x), (1, 1, 1, 1), value=self.fill), 3, 1)
        x = functional.max_pool2d(functional.pad(self.third(x), (0, 1, 0, 1), value=self.fill), 3, 2, ceil_mode=True)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module", params=FILLS, ids=str)
def same(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("same") / "model.onnx"
    torch.manual_seed(0)
    export_onnx(PixelClassifier(Same(request.param).eval(), 0.5, 0.25), path, image_size=16, classes=list("0123456789"))
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return exported.splits().pool.center_crop(16).images[:60]


@pytest.mark.parametrize("scheme", [FULL, REDUCED, UNSIGNED], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_computes_what_float_does(
    same: Path, images: np.ndarray, tmp_path: Path, scheme: Scheme, runtime: str
) -> None:
    wanted = run("onnxruntime", same, images, CLASSIFICATION)
    quantize_onnx(Calibration(same, images, tmp_path), tmp_path / "q.onnx", scheme)
    assert compare(CLASSIFICATION, run(runtime, tmp_path / "q.onnx", images, CLASSIFICATION), wanted).sqnr_db > 20


def test_tensorrt_reads_its_graph_and_it_computes_what_float_does(
    same: Path, images: np.ndarray, tmp_path: Path
) -> None:
    exported.for_tensorrt(Calibration(same, images, tmp_path), tmp_path / "q.onnx", "int8")
    assert lint(onnx.load(tmp_path / "q.onnx")) == []
    wanted = run("onnxruntime", same, images, CLASSIFICATION)
    assert compare(CLASSIFICATION, simulated(tmp_path / "q.onnx", ["logits"])(images), wanted).sqnr_db > 20


def test_no_range_holds_the_fill(same: Path, images: np.ndarray, tmp_path: Path) -> None:
    for name, histogram in Calibration(same, images, tmp_path).histograms.items():
        assert -100 < histogram.lowest <= histogram.highest < 1000, name


def pooled(
    fill: float | None, sides: tuple[int, ...], *, before: str = "", lower: float = 0.0, **pool: object
) -> ModelProto:
    """float32 (n, 2, 7, 6) -> [an operator ->] Pad -> MaxPool."""
    weights = [numpy_helper.from_array(np.array(sides, np.int64), "pads")]
    inputs = ["x", "pads"]
    if fill is not None:
        weights.append(numpy_helper.from_array(np.array(fill, np.float32), "fill"))
        inputs.append("fill")
    nodes = []
    if before:
        weights.append(numpy_helper.from_array(np.array(lower, np.float32), "lower"))
        nodes.append(helper.make_node(before, ["x", "lower"] if before == "Clip" else ["x"], ["y"], name=before))
        inputs[0] = "y"
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], **pool}
    nodes += [
        helper.make_node("Pad", inputs, ["padded"], name="Pad"),
        helper.make_node("MaxPool", ["padded"], ["z"], name="MaxPool", **attributes),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 7, 6])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", None, None, None])
    graph = helper.make_graph(nodes, "padded", [x], [z], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SIDES = (0, 0, 1, 0, 0, 0, 1, 2)


@pytest.mark.parametrize(
    ("model", "folded"),
    [
        (pooled(float("-inf"), SIDES), True),
        (pooled(LOWEST, SIDES), True),
        (pooled(float("-inf"), SIDES, pads=[1, 1, 0, 0]), True),
        (pooled(None, SIDES, before="Relu"), True),
        (pooled(-3.0, SIDES, before="Clip", lower=-2.0), True),
        (pooled(-1.0, SIDES, before="Clip", lower=-2.0), False),
        (pooled(None, SIDES), False),
        (pooled(-2.0, SIDES), False),
        (pooled(0.5, SIDES, before="Relu"), False),
        (pooled(float("-inf"), (0, 0, 3, 0, 0, 0, 0, 0)), False),  # a window of padding alone
        (pooled(float("-inf"), SIDES, pads=[1, 1, 2, 1]), False),
        (pooled(float("-inf"), (0, 1, 1, 1, 0, 0, 1, 1)), False),  # a channel of padding
        (pooled(float("-inf"), (0, 0, -1, 0, 0, 0, 1, 1)), False),  # one side is cut
        (pooled(float("-inf"), SIDES, ceil_mode=1), False),
        (pooled(float("-inf"), SIDES, dilations=[2, 2]), False),
        (pooled(float("-inf"), SIDES, auto_pad="SAME_UPPER"), False),
    ],
)
def test_padding_is_folded_only_where_the_result_stays_the_same(model: ModelProto, folded: bool) -> None:
    x = np.random.default_rng(0).normal(0, 4, (3, 2, 7, 6)).astype(np.float32)
    x[0] -= 20  # windows of negative values alone

    def answer() -> np.ndarray:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    wanted = answer()
    fold_pool_padding(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(answer(), wanted)
    assert ("Pad" in {node.op_type for node in model.graph.node}) != folded


def test_padding_that_something_else_reads_stays() -> None:
    model = pooled(float("-inf"), SIDES)
    model.graph.output.append(helper.make_tensor_value_info("padded", TensorProto.FLOAT, ["n", 2, 9, 8]))
    assert "Pad" in {node.op_type for node in fold_pool_padding(model).graph.node}


@pytest.mark.slow
def test_a_hybrid_vision_transformer_is_quantized(tmp_path: Path) -> None:
    network = exported.untrained("timm:vit_tiny_r_s16_p8_224", 64)
    export_onnx(network, tmp_path / "float.onnx", image_size=64, classes=list("0123456789"))
    graph = onnx.load(tmp_path / "float.onnx").graph
    padded = {node.output[0] for node in graph.node if node.op_type == "Pad"}
    assert not padded & {node.input[0] for node in graph.node if node.op_type == "MaxPool"}
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    wanted = run("onnxruntime", tmp_path / "float.onnx", images, CLASSIFICATION)
    quantize_onnx(Calibration(tmp_path / "float.onnx", images, tmp_path), tmp_path / "q.onnx", REDUCED)
    assert compare(CLASSIFICATION, run("onnxruntime", tmp_path / "q.onnx", images, CLASSIFICATION), wanted).sqnr_db > 10
