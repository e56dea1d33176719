"""The INT8 graph for TensorRT: where its Q/DQ nodes are, what it computes, and the lint, which must find every planted fault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import ExportError
from edgekit.export.half import check_range, simulated, tensorrt_onnx
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, REDUCED, SIGNED, quantize_onnx
from edgekit.quantize.qdq_lint import Fault, lint
from edgekit.quantize.ranges import METHODS
from edgekit.quantize.signed import Wiring
from tests.helpers import exported


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """A calibration of the trained network, whose two deeper stages have 16 channels or more."""
    folder = tmp_path_factory.mktemp("qdq")
    export_onnx(exported.pixels(), folder / "model.onnx", image_size=16, classes=exported.splits().classes)
    return Calibration(folder / "model.onnx", exported.splits().pool.center_crop(16).images[:50], folder)


@pytest.fixture(scope="module")
def signed(calibration: Calibration) -> ModelProto:
    path = calibration.folder / "s8.onnx"
    quantize_onnx(calibration, path, SIGNED)
    return onnx.load(path)


@pytest.fixture
def broken(signed: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(signed)
    return copied


def test_pairs_stand_where_tensorrt_fuses(signed: ModelProto) -> None:
    wiring = Wiring(signed)
    quantized, floats, skips = [], [], 0
    for node in signed.graph.node:
        made = [wiring.maker.get(name) for name in node.input]
        dequantized = [m is not None and m.op_type == "DequantizeLinear" for m in made]
        if node.op_type == "Conv":
            (quantized if dequantized[0] else floats).append(node)
            assert dequantized[0] == dequantized[1]
            assert not dequantized[2]  # the bias
            stored = wiring.constants.get(
                node.input[1] if not dequantized[1] else made[1].input[0].removesuffix("_QuantizeLinear")
            )  # type: ignore[union-attr]
            assert stored is not None
            assert stored.data_type == TensorProto.FLOAT
            assert dequantized[0] == (stored.dims[1] >= 16)
            if dequantized[1]:
                assert list(wiring.constants[made[1].input[1]].dims) == [stored.dims[0]]  # type: ignore[union-attr]
        elif node.op_type == "Add":
            skips += sum(dequantized)
            assert sum(dequantized) <= 1
        elif node.op_type != "QuantizeLinear":
            assert node.op_type == "DequantizeLinear" or not any(dequantized), node.name
    points = [wiring.constants[n.input[2]] for n in signed.graph.node if n.op_type == "QuantizeLinear"]
    assert all(p.data_type == TensorProto.INT8 and not numpy_helper.to_array(p).any() for p in points)
    assert (len(quantized), len(floats), skips) == (7, 5, 3)
    onnx.checker.check_model(signed, full_check=True)
    assert lint(signed) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("typed", [True, False])
def test_the_file_computes_what_the_model_does(
    calibration: Calibration, tmp_path: Path, precision: str, typed: bool
) -> None:
    exported.for_tensorrt(calibration, tmp_path / "t.onnx", precision, typed=typed)  # type: ignore[arg-type]
    model = onnx.load(tmp_path / "t.onnx")
    assert model.opset_import[0].version == 17
    assert [i.type.tensor_type.elem_type for i in model.graph.input] == [TensorProto.UINT8]
    assert [o.type.tensor_type.elem_type for o in model.graph.output] == [TensorProto.FLOAT]
    kinds = {t.data_type for t in model.graph.initializer if t.data_type in {TensorProto.FLOAT, TensorProto.FLOAT16}}
    half = typed and precision != "fp32"
    assert kinds == {TensorProto.FLOAT16 if half else TensorProto.FLOAT}
    assert any(n.op_type == "QuantizeLinear" for n in model.graph.node) == (precision == "int8")
    images = exported.splits().test.images
    trained, computed = (
        simulated(calibration.model, ["logits"])(images)["logits"],
        simulated(tmp_path / "t.onnx", ["logits"])(images)["logits"],
    )
    noise = 10 * np.log10((trained**2).sum() / max(((computed - trained) ** 2).sum(), 1e-20))
    assert noise > {"fp32": 100, "fp16": 55, "int8": 25}[precision if typed or precision == "int8" else "fp32"]
    assert (computed.argmax(1) == trained.argmax(1)).mean() > 0.98


def test_methods_and_exclusions_reach_the_file(calibration: Calibration, tmp_path: Path) -> None:
    scales = []
    for method in METHODS:
        quantization = quantize_onnx(calibration, tmp_path / "q.onnx", SIGNED, method=method)
        assert quantization.calibration.method == method
        graph = onnx.load(tmp_path / "q.onnx").graph
        scales.append(
            [float(numpy_helper.to_array(t)) for t in graph.initializer if t.name.endswith("_scale") and not t.dims]
        )
    minmax, percentile, entropy = (np.array(s) for s in scales)
    assert (percentile <= minmax + 1e-7).all()
    assert (entropy <= minmax + 1e-7).all()
    assert (percentile < minmax).any()
    assert (entropy != percentile).any()
    convolution = next(
        n.name for n in onnx.load(calibration.model).graph.node if "layer3" in n.name and n.op_type == "Conv"
    )
    for scheme in (SIGNED, REDUCED):
        quantization = quantize_onnx(calibration, tmp_path / "q.onnx", scheme, exclude=[convolution])
        assert convolution in quantization.kept_in_float
        wiring = Wiring(onnx.load(tmp_path / "q.onnx"))
        (node,) = (n for n in wiring.nodes if n.name == convolution)
        assert node.input[1] in wiring.constants


def test_transposed_convolutions_are_quantized_along_their_own_axis(tmp_path: Path) -> None:
    """A small decoder: ConvTranspose keeps its output channels on axis 1."""
    generator = np.random.default_rng(0)
    shapes = {"first": (16, 3, 3, 3), "up": (16, 8, 2, 2), "last": (8 * 16 * 16, 5)}
    weights = {name: (generator.normal(size=shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    weights["up"] *= np.linspace(0.1, 3, 8, dtype=np.float32)[None, :, None, None]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=1),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["pixels", "small"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "up"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "last"], ["logits"]),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}_{i}"
    graph = helper.make_graph(
        nodes, "decoder",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()] + [numpy_helper.from_array(np.float32(1 / 255), "small")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "decoder.onnx")
    images = generator.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    calibration = Calibration(tmp_path / "decoder.onnx", images, tmp_path)
    expected = simulated(tmp_path / "decoder.onnx", ["logits"])(images)["logits"]
    for scheme in (SIGNED, FULL):
        quantization = quantize_onnx(calibration, tmp_path / "q.onnx", scheme)
        assert "ConvTranspose" in quantization.operations
        quantized = onnx.load(tmp_path / "q.onnx")
        wiring = Wiring(quantized)
        (node,) = (n for n in quantized.graph.node if n.op_type == "ConvTranspose")
        dequantize = wiring.maker[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert list(wiring.constants[dequantize.input[1]].dims) == [8]
        assert [a.i for a in dequantize.attribute if a.name == "axis"] == [1]
        computed = simulated(tmp_path / "q.onnx", ["logits"])(images)["logits"]
        assert 10 * np.log10((expected**2).sum() / ((computed - expected) ** 2).sum()) > 25
        if scheme is SIGNED:
            assert lint(quantized) == []


# ---- faults, planted one by one into the clean file


def _node(model: ModelProto, operator: str, contains: str = "") -> NodeProto:
    return next(n for n in model.graph.node if n.op_type == operator and contains in n.name)


def _halves(model: ModelProto, *, of_weight: bool) -> tuple[NodeProto, NodeProto]:
    """The first QuantizeLinear and DequantizeLinear of an activation, or of a weight."""
    constants = {t.name for t in model.graph.initializer}
    q = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and (n.input[0] in constants) == of_weight)
    return q, next(n for n in model.graph.node if n.input and n.input[0] == q.output[0])


def _replace(model: ModelProto, name: str, array: NDArray[np.generic]) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _pair(model: ModelProto, name: str, before: NodeProto, scale: float = 0.1) -> str:
    """Insert Q/DQ on a tensor, before a node."""
    q, dq = f"{name}_q", f"{name}_dq"
    points = [f"{name}_s", f"{name}_z"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), points[0]))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), points[1]))
    at = list(model.graph.node).index(before)
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", [q, *points], [dq], name=dq))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [name, *points], [q], name=q))
    return dq


def unsigned(model: ModelProto) -> None:
    """Q/DQ as NNCF writes it after a ReLU."""
    _replace(model, _halves(model, of_weight=False)[0].input[2], np.array(0, np.uint8))


def no_zero_point(model: ModelProto) -> None:
    for node in _halves(model, of_weight=False):
        del node.input[2]


def off_center(model: ModelProto) -> None:
    _replace(model, _halves(model, of_weight=False)[0].input[2], np.array(-128, np.int8))


def integer_bias(model: ModelProto) -> None:
    convolution = _node(model, "Conv", "layer3")
    bias = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == convolution.input[2])
    model.graph.initializer.append(numpy_helper.from_array((bias / 1e-3).astype(np.int32), "bias_q"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e-3), "bias_s"))
    model.graph.initializer.append(numpy_helper.from_array(np.int32(0), "bias_z"))
    at = list(model.graph.node).index(convolution)
    convolution.input[2] = "bias_dq"
    model.graph.node.insert(
        at, helper.make_node("DequantizeLinear", ["bias_q", "bias_s", "bias_z"], ["bias_dq"], name="bias_dq")
    )


def before_relu(model: ModelProto) -> None:
    relu = _node(model, "Relu", "layer3")
    relu.input[0] = _pair(model, relu.input[0], relu)


def after_relu_for_no_layer(model: ModelProto) -> None:
    mean = _node(model, "ReduceMean")
    mean.input[0] = _pair(model, mean.input[0], mean)


def one_scale(model: ModelProto) -> None:
    q, _ = _halves(model, of_weight=True)
    _replace(model, q.input[1], np.float32(0.01))
    _replace(model, q.input[2], np.int8(0))


def wrong_axis(model: ModelProto) -> None:
    for node in _halves(model, of_weight=True):
        (axis,) = (a for a in node.attribute if a.name == "axis")
        axis.i = 1


def scale_per_channel_of_an_activation(model: ModelProto) -> None:
    q = _halves(model, of_weight=False)[0]
    _replace(model, q.input[1], np.full(16, 0.1, np.float32))
    _replace(model, q.input[2], np.zeros(16, np.int8))


def quantized_output(model: ModelProto) -> None:
    classifier = _node(model, "Gemm")
    classifier.output[0] = "float_logits"
    model.graph.node.append(helper.make_node("Identity", ["float_logits"], ["unused"], name="end"))
    _pair(model, "float_logits", model.graph.node[-1])
    model.graph.node[-2].output[0] = "logits"
    model.graph.node.pop()


def newer_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 19


def few_channels(model: ModelProto) -> None:
    convolution = _node(model, "Conv", "layer1")
    convolution.input[0] = _pair(model, convolution.input[0], convolution)
    convolution.input[1] = _pair(model, convolution.input[1], convolution)


def float_skip(model: ModelProto) -> None:
    add = _node(model, "Add", "layer3")
    wiring = Wiring(model)
    add.input[1] = wiring.maker[wiring.maker[add.input[1]].input[0]].input[0]


def quantized_main(model: ModelProto) -> None:
    add = _node(model, "Add", "layer3")
    add.input[0] = _pair(model, add.input[0], add)


def float_weight(model: ModelProto) -> None:
    convolution = _node(model, "Conv", "layer4")
    convolution.input[1] = convolution.input[1].removesuffix("_DequantizeLinear")


def stored_as_integers(model: ModelProto) -> None:
    """As ONNX Runtime stores weights."""
    q, dq = _halves(model, of_weight=True)
    shape = next(t.dims for t in model.graph.initializer if t.name == q.input[0])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(list(shape), np.int8), "stored"))
    dq.input[0] = "stored"
    model.graph.node.remove(q)


def own_domain(model: ModelProto) -> None:
    _halves(model, of_weight=False)[0].domain = "com.microsoft"


def no_scale(model: ModelProto) -> None:
    _replace(model, _halves(model, of_weight=False)[0].input[1], np.float32(0))


def scales_that_differ(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.3), "another"))
    _halves(model, of_weight=False)[1].input[1] = "another"


PLANTED: dict[Callable[[ModelProto], None], tuple[str, str]] = {
    unsigned: ("QuantizeLinear", "UINT8: TensorRT warns"),
    no_zero_point: ("QuantizeLinear", "no zero point, so its type is UINT8"),
    off_center: ("QuantizeLinear", "a zero point other than 0"),
    integer_bias: ("DequantizeLinear", "an INT32 bias"),
    before_relu: ("Relu", "it cannot be fused"),
    after_relu_for_no_layer: ("DequantizeLinear", "no quantized layer reads it"),
    one_scale: ("Conv", "one scale for all output channels"),
    wrong_axis: ("Conv", "not along its output channels, axis 0"),
    scale_per_channel_of_an_activation: ("QuantizeLinear", "an activation with one scale per channel"),
    quantized_output: ("DequantizeLinear", "an output of the graph is quantized"),
    newer_opset: ("graph", "opset 19"),
    few_channels: ("Conv", "a quantized convolution of 8 channels"),
    float_skip: ("Add", "skip input is not quantized"),
    quantized_main: ("Add", "both inputs are dequantized"),
    float_weight: ("Conv", "its activation is quantized and its weight is not"),
    stored_as_integers: ("DequantizeLinear", "dequantizes INT8 without a QuantizeLinear before it"),
    own_domain: ("QuantizeLinear", "the domain com.microsoft"),
    no_scale: ("QuantizeLinear", "a scale that is not a positive number"),
    scales_that_differ: ("DequantizeLinear", "differs from that of its QuantizeLinear"),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_every_planted_fault_is_found(broken: ModelProto, plant: Callable[[ModelProto], None]) -> None:
    plant(broken)
    operator, reason = PLANTED[plant]
    faults = lint(broken)
    assert any(f.operator == operator and reason in f.reason for f in faults), faults
    assert all(f.node for f in faults)


def test_a_file_for_the_cpu_is_full_of_faults(calibration: Calibration, tmp_path: Path) -> None:
    quantize_onnx(calibration, tmp_path / "u8.onnx", FULL)
    reasons = " ".join(f.reason for f in lint(onnx.load(tmp_path / "u8.onnx")))
    for expected in (
        "UINT8",
        "other than 0",
        "without a QuantizeLinear before it",
        "fewer than 16",
        "both inputs are dequantized",
    ):
        assert expected in reasons


def test_what_tensorrt_would_misread_is_not_written(
    calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.export.half.lint", lambda model: [Fault("conv", "Conv", "so and so")])
    (tmp_path / "t.onnx").write_bytes(b"before")
    with pytest.raises(ExportError, match=r"conv \(Conv\): so and so"):
        tensorrt_onnx(calibration.model, tmp_path / "t.onnx", "fp16")
    assert (tmp_path / "t.onnx").read_bytes() == b"before"


def test_values_beyond_half_precision_are_named(calibration: Calibration, tmp_path: Path) -> None:
    loud = onnx.load(calibration.model)
    classifier = _node(loud, "Gemm")
    (weight,) = (t for t in loud.graph.initializer if t.name == classifier.input[1])
    _replace(loud, weight.name, numpy_helper.to_array(weight) * 1e5)
    onnx.save(loud, tmp_path / "loud.onnx")
    with pytest.raises(ExportError, match=r"logits reaches .* FP16 holds at most 65504"):
        check_range(Calibration(tmp_path / "loud.onnx", calibration.images, tmp_path))


_PARSE = """
import sys, tensorrt_rtx as trt
class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, message):
        print(severity, message)
log = Log()
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
print("PARSED", parser.parse_from_file(sys.argv[1]))
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_real_parser_agrees(calibration: Calibration, signed: ModelProto, tmp_path: Path, precision: str) -> None:
    """TensorRT for RTX parses without a GPU: the clean file without a warning, the file with a planted fault with one."""
    pytest.importorskip("tensorrt_rtx")

    def parse(path: Path) -> str:
        command = [sys.executable, "-c", _PARSE, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout

    exported.for_tensorrt(calibration, tmp_path / "clean.onnx", precision)  # type: ignore[arg-type]
    said = parse(tmp_path / "clean.onnx")
    assert "PARSED True" in said
    assert "Defaulting to INT8" not in said
    assert "ERROR" not in said
    if precision == "int8":
        planted = ModelProto()
        planted.CopyFrom(signed)
        unsigned(planted)
        onnx.save(planted, tmp_path / "planted.onnx")
        assert "Defaulting to INT8" in parse(tmp_path / "planted.onnx")
