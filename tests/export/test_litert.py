"""LiteRT as a target: what is made, what INT8 is made of, and what is refused."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.bundle import Bundle
from edgekit.errors import ExportError, RuntimeMissing
from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import RELU, SAME, VALID, Graph, LiteScale
from edgekit.export.litert.int8 import LiteRtInt8
from edgekit.export.litert.layout import NHWC, reshaping, transposed
from edgekit.export.litert.quantize import quantize
from edgekit.export.litert.scales import weights
from edgekit.export.speed import with_speed
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, kept_in_float
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.quantize.ranges import select
from edgekit.runtimes import load, open_session
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported
from tests.helpers.litert_networks import Network, build, images, residual, squeeze_and_excite
from tests.helpers.tiny_bundle import SIZE, some_images, write_onnx


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every precision, with the embedding."""
    precisions = ["fp32", "fp16", "int8"]
    return exported.export(
        tmp_path_factory.mktemp("litert") / "bundle",
        targets=["litert"],
        precisions=precisions,
        embedding=True,
        max_drop=2.0,
    )


def operators(path: Path) -> list[tuple[str, str]]:
    """Kind and type of what every operator of a file computes, in order."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    (graph,) = model.subgraphs
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    return [
        (kinds[model.operatorCodes[op.opcodeIndex].builtinCode], types[graph.tensors[op.outputs[0]].type])
        for op in graph.operators
    ]


def test_every_precision_is_verified_in_litert(bundle: Bundle) -> None:
    found = {variant.id: variant for variant in bundle.manifest.variants}
    assert list(found) == ["litert-fp32", "litert-fp16", "litert-int8"]
    assert {v.status for v in found.values()} == {"verified"}
    assert all(v.executed and v.runtime == "litert" for v in found.values())
    assert found["litert-fp32"].parity.max_abs_diff < 1e-3  # type: ignore[union-attr]
    assert found["litert-fp32"].parity.embedding_cosine > 1 - 1e-6  # type: ignore[operator, union-attr]
    whole, half, quarter = (v.files[0].bytes for v in found.values())
    assert half < 0.6 * whole  # FP16 weights
    assert quarter < 0.4 * whole


def test_the_file_says_what_it_is(bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        model = schema.ModelT.InitFromPackedBuf((bundle.path / variant.files[0].path).read_bytes())
        found = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
        said = json.loads(found["edgekit"])
        assert json.loads(said["classes"]) == list(bundle.manifest.classes)
        assert said["precision"] == variant.precision
        assert json.loads(said["preprocessing"])["image_size"] == bundle.manifest.preprocessing.image_size
        (signature,) = model.signatureDefs
        assert [entry.name.decode() for entry in signature.outputs] == ["logits", "embedding"]


def test_int8_is_int8_in_one_part(bundle: Bundle) -> None:
    variant = bundle.variant("litert-int8")
    session = load(bundle, variant, threads=1)
    assert (session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]) == ("1", "nothing")
    session.close()
    assert "XNNPACK" not in variant.note
    found = operators(bundle.path / variant.files[0].path)
    assert [kind for kind, _ in found][-1] == "FULLY_CONNECTED"
    assert found[-1][1] == "FLOAT32"  # the classifier
    layers = [type_ for kind, type_ in found if "CONV" in kind]
    assert layers
    assert set(layers) == {"INT8"}
    assert (
        exported.quantization(bundle, "litert-int8")
        .operations[0]
        .startswith(f"{sum(t == 'INT8' for _, t in found) - 1} ")
    )


def test_int8_is_timed_against_float_in_litert(bundle: Bundle, tmp_path: Path) -> None:
    variant = bundle.variant("litert-int8")
    path = tmp_path / "model.onnx"
    size = bundle.manifest.preprocessing.image_size.height
    write_onnx(path, size=size)
    image = np.zeros((1, size, size, 3), np.uint8)
    (found,) = with_speed([variant], bundle.path, path, image, task=bundle.task, seconds=0)
    assert found.speed is not None
    assert found.speed.float_p50_ms > 0
    assert found.speed.verdict is not None


def test_a_fixed_batch_is_in_the_file(tmp_path: Path) -> None:
    fixed = exported.export(tmp_path / "bundle", targets=["litert"], precisions=["fp32", "int8"], batch=2, max_drop=2.0)
    for variant in fixed.manifest.variants:
        assert variant.status == "verified"
        session = load(fixed, variant, threads=1)
        assert session.batch == 2
        session.close()


def hard_network(batch: int | None = None) -> onnx.ModelProto:
    """What MobileNetV3 is made of: convolutions, hard-swish, squeeze-and-excitation, a residual."""
    net = Network(np.random.default_rng(5), (12, 12), batch)
    for _ in range(2):
        net.value = net.add(
            "Conv", [net.value, net.weight(8, net.shape[0], 3, 3), net.weight(8)], kernel_shape=[3, 3], pads=[1] * 4
        )
        net.shape = (8, 12, 12)
        net.value = net.add("HardSwish", [net.value])
    squeeze_and_excite(net)
    net.value = net.add(
        "Conv", [net.value, net.weight(8, 1, 3, 3), net.weight(8)], kernel_shape=[3, 3], pads=[1] * 4, group=8
    )
    residual(net)
    net.value = net.add("AveragePool", [net.value], kernel_shape=[2, 2], strides=[2, 2])
    return simplify(net.model())


def quantized(model: onnx.ModelProto, folder: Path, *exclude: str) -> tuple[Graph, Graph]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    calibration = Calibration(path, images(model, 40), folder)
    graph = lower(model)
    kept = [*kept_in_float(model), *exclude]
    return graph, quantize(graph, select(calibration.histograms, "minmax"), kept)[0]


def answers(graph: Graph, pixels: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, str]]:
    path = folder / "model.tflite"
    path.write_bytes(serialize(graph))
    session = open_session("litert", path, threads=1)
    logits = session.run(pixels)
    session.close()
    return logits, session.settings


def test_int8_takes_apart_what_would_cut_the_graph(tmp_path: Path) -> None:
    model = hard_network()
    graph, integers = quantized(model, tmp_path)
    assert "HARD_SWISH" in {op.kind for op in graph.operators}
    assert not {"HARD_SWISH", "AVERAGE_POOL_2D"} & {op.kind for op in integers.operators}
    pixels = images(model, 16, seed=1)
    whole, _ = answers(graph, pixels, tmp_path)
    found, settings = answers(integers, pixels, tmp_path)
    assert settings["xnnpack_partitions"] == "1"
    assert settings["outside_xnnpack"] == "nothing"
    noise = float(((found - whole) ** 2).sum() / (whole**2).sum())
    assert noise < 10**-2  # 20 dB; scales that are off leave less than 10


def test_int8_keeps_the_rules_of_the_format(tmp_path: Path) -> None:
    _, integers = quantized(hard_network(), tmp_path)
    layers = [op for op in integers.operators if op.kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}]
    assert layers
    for op in layers:
        image, weight, bias = op.inputs
        assert image is not None
        assert weight is not None
        assert bias is not None
        assert (image.dtype, weight.dtype, bias.dtype) == (np.int8, np.int8, np.int32)
        assert image.scale is not None
        assert weight.scale is not None
        assert bias.scale is not None
        assert weight.scale.axis == (3 if op.kind == "DEPTHWISE_CONV_2D" else 0)
        assert not weight.scale.zero.any()
        assert weight.data is not None
        assert weight.data.min() >= -127
        np.testing.assert_allclose(bias.scale.scale, weight.scale.scale * image.scale.scale[0], rtol=1e-6)
    for op in integers.operators:
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None and tensor.dtype == np.int8 and tensor.data is None:
                assert tensor.scale is not None
                assert -128 <= tensor.scale.zero[0] <= 127  # zero is one of the integers
        if op.kind in {"MAX_POOL_2D", "RESHAPE", "PAD", "CONCATENATION"} and op.outputs[0].dtype == np.int8:
            assert (
                len({t.scale.scale[0] for t in (*op.inputs, *op.outputs) if t is not None and t.scale is not None}) == 1
            )
        if op.kind == "LOGISTIC" and op.outputs[0].dtype == np.int8:
            assert op.outputs[0].scale is not None
            assert op.outputs[0].scale.scale[0] == np.float32(1 / 256)
            assert op.outputs[0].scale.zero[0] == -128


def test_a_layer_that_is_left_in_float_is_in_float(tmp_path: Path) -> None:
    model = hard_network()
    name = [node.name for node in model.graph.node if node.op_type == "Conv"][1]
    _, integers = quantized(model, tmp_path, name)
    found = {op.node: op.outputs[0].dtype for op in integers.operators if op.kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}}
    assert found.pop(name) == np.float32
    assert set(found.values()) == {np.dtype(np.int8)}
    assert np.isfinite(answers(integers, images(model, 2), tmp_path)[0]).all()


def test_weights_lose_half_a_step_and_a_large_bias_fits() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(4, 3, 3, 5)).astype(np.float32) * np.array([1, 10, 1e-3, 0]).reshape(4, 1, 1, 1).astype(
        np.float32
    )
    integers, scales = weights(array, 0, 8, np.array([0, 0, 0, 50], np.float32), 0.01)
    error = np.abs(integers * scales.reshape(4, 1, 1, 1) - array)
    assert (error <= 0.5001 * scales.reshape(4, 1, 1, 1)).all()
    assert abs(50 / (0.01 * scales[3])) <= 2**31 - 1


@pytest.mark.parametrize(
    ("pads", "stride", "size", "expected"),
    [
        ([1, 1, 1, 1], 1, 12, (SAME, False)),  # the same on both sides
        ([1, 1, 1, 1], 2, 12, (VALID, True)),  # SAME would pad at the end alone
        ([1, 1, 1, 1], 2, 13, (SAME, False)),
        ([0, 0, 1, 1], 2, 12, (SAME, False)),
        ([0, 0, 0, 0], 2, 12, (VALID, False)),
    ],
)
def test_padding_is_a_pad_only_where_the_format_has_none(
    pads: list[int], stride: int, size: int, expected: tuple[int, bool]
) -> None:
    net = Network(np.random.default_rng(0), (size, size))
    net.value = net.add(
        "Conv", [net.value, net.weight(4, 3, 3, 3)], kernel_shape=[3, 3], pads=pads, strides=[stride] * 2
    )
    net.shape = (4, 0, 0)
    graph = lower(simplify(net.model()))
    (layer,) = [op for op in graph.operators if op.kind == "CONV_2D"]
    assert (layer.options["padding"], "PAD" in {op.kind for op in graph.operators}) == expected


def test_activations_are_part_of_the_layer_before() -> None:
    net = Network(np.random.default_rng(0), (8, 8))
    convolved = net.add("Conv", [net.value, net.weight(4, 3, 1, 1)])
    net.value, net.shape = net.add("Relu", [convolved]), (4, 8, 8)
    graph = lower(simplify(net.model()))
    (layer,) = [op for op in graph.operators if op.kind == "CONV_2D"]
    assert layer.options["fusedActivationFunction"] == RELU
    assert "RELU" not in {op.kind for op in graph.operators}


def test_an_activation_stays_apart_where_its_input_is_read_twice() -> None:
    net = Network(np.random.default_rng(0), (8, 8))
    convolved = net.add("Conv", [net.value, net.weight(4, 3, 1, 1)])
    net.value, net.shape = net.add("Add", [net.add("Relu", [convolved]), convolved]), (4, 8, 8)
    graph = lower(simplify(net.model()))
    assert "RELU" in {op.kind for op in graph.operators}


def test_a_transpose_moves_nothing_and_a_flatten_behind_convolutions_is_a_reshape() -> None:
    graph = lower(simplify(build(["convolution", "activation"], 1)))
    assert "TRANSPOSE" not in {op.kind for op in graph.operators}


def test_groups_of_axes_stay_where_they_lie() -> None:
    n, c, h, w = (2, 3), (8, 8), (4, 4), (5, 5)
    tokens = reshaping((n, c, h, w), NHWC, (n, c, (20, 20)))
    assert tokens.before == NHWC  # no transpose
    assert tokens.after == (0, 2, 1)  # tokens before channels
    flat = reshaping((n, c, h, w), NHWC, (n, (160, 160)))
    assert flat.before == (0, 1, 2, 3)  # channels and pixels cannot be merged as they lie
    assert transposed(NHWC, [0, 2, 3, 1]) == (0, 1, 2, 3)


def test_gelu_is_one_operator() -> None:
    net = Network(np.random.default_rng(1), (6, 6))
    inner = net.add("Erf", [net.add("Div", [net.value, net.number(np.sqrt(2))])])
    net.value = net.add("Mul", [net.add("Mul", [net.value, net.add("Add", [inner, net.number(1)])]), net.number(0.5)])
    kinds = Counter(op.kind for op in lower(simplify(net.model())).operators)
    assert kinds["GELU"] == 1
    assert kinds["MUL"] == 1  # of the normalization


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def test_an_operator_that_is_not_there_is_named() -> None:
    net = Network(np.random.default_rng(1), (6, 6))
    net.value = net.add("Erf", [net.value])
    with pytest.raises(ExportError) as error:
        lower(simplify(net.model()))
    said = one_line(error)
    assert "LiteRT does not have the operator Erf (node " in said
    assert "leave --target litert out" in said


def test_what_an_operator_cannot_do_is_named() -> None:
    net = Network(np.random.default_rng(1), (6, 6))
    net.value = net.add("Conv", [net.value, net.add("Sigmoid", [net.weight(4, 3, 1, 1)])])  # folded: fine
    net.shape = (4, 6, 6)
    lower(simplify(net.model()))
    turned = net.add("ReduceMean", [net.value], axes=[0], keepdims=1)
    net.value = net.add("Add", [net.value, turned])
    with pytest.raises(ExportError, match=r"the operator ReduceMean \(node .*\) cannot be written: over the batch"):
        lower(simplify(net.model()))


def test_images_of_any_size_are_refused() -> None:
    model = build(["convolution"], 0)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    with pytest.raises(ExportError) as error:
        lower(model)
    assert "leaves the height or width of its images open" in one_line(error)


def test_without_litert_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.delitem(sys.modules, "ai_edge_litert.schema_py_generated", raising=False)
    monkeypatch.setitem(sys.modules, "tflite_micro.tensorflow.lite.micro.python.schema_py_generated", None)
    with pytest.raises(RuntimeMissing) as error:
        serialize(lower(simplify(build(["convolution"], 0))))
    assert "[litert]" in one_line(error)


def test_constants_lie_at_multiples_of_16_bytes(tmp_path: Path) -> None:
    content = serialize(lower(simplify(build(["convolution", "convolution"], 2))))
    model = schema.Model.GetRootAs(content, 0)
    starts = [
        model.Buffers(i)._tab.Vector(model.Buffers(i)._tab.Offset(4))
        for i in range(model.BuffersLength())
        if model.Buffers(i).DataLength()
    ]
    assert starts
    assert {start % 16 for start in starts} == {0}


def test_the_same_graph_is_the_same_file() -> None:
    model = simplify(build(["attention", "convolution", "split_and_join"], 4))
    assert serialize(lower(model)) == serialize(lower(model))


def test_the_pixels_are_numbers_by_dequantize() -> None:
    graph = lower(simplify(build(["convolution"], 0)))
    assert graph.operators[0].kind == "DEQUANTIZE"
    assert graph.inputs[0].dtype == np.uint8
    assert isinstance(graph.inputs[0].scale, LiteScale)
    assert (graph.inputs[0].scale.scale[0], graph.inputs[0].scale.zero[0]) == (1, 0)


def test_a_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    source = tmp_path / "model.onnx"
    write_onnx(source)
    path.write_bytes(serialize(lower(simplify(fix_batch(onnx.load(source), 3)))))
    details = Interpreter(model_path=str(path)).get_input_details()[0]
    assert details["shape_signature"].tolist() == [3, SIZE, SIZE, 3]
    assert open_session("litert", path).run(some_images(3)).shape == (3, 6)


@pytest.mark.parametrize(
    "config",
    [
        QuantizationConfig(FULL, "percentile"),
        QuantizationConfig(FULL, "minmax", corrected=True),
        QuantizationConfig(FULL, "minmax", equalized="weights"),
        QuantizationConfig(FULL, "minmax", exclude=("x1",)),
    ],
    ids=lambda config: config.name,
)
def test_every_step_of_the_search_makes_a_file_that_runs(config: QuantizationConfig, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(path, layers=3)
    model = simplify(onnx.load(path))
    onnx.helper.set_model_props(model, {"classes": "[]"})
    onnx.save(model, path)
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
    config = replace(config, exclude=(layers[1],)) if config.exclude else config
    quantizer = Quantizer(Calibration(path, some_images(24), tmp_path), tmp_path, None, None, CLASSIFICATION)
    session = open_session("onnxruntime", path)
    reference = ReferenceOutputs.of(CLASSIFICATION, session.run_all, some_images(24), None)
    backend = LiteRtInt8(quantizer, reference, AccuracyBounds())
    folder = tmp_path / "made"
    folder.mkdir()
    variant = backend.make(config, folder)
    assert [file.name for file in folder.iterdir()] == ["model.int8.tflite"]
    fidelity = backend.fidelity(variant, folder)
    assert fidelity is not None
    assert fidelity.sqnr_db > 15
    record = variant.quantization
    assert record is not None
    assert record.configuration == config.name
    assert bool(record.equalized) == bool(config.equalized)
    assert (record.bias_correction is not None) == config.corrected
    types = [type_ for kind, type_ in operators(folder / "model.int8.tflite") if kind == "CONV_2D"]
    assert types.count("FLOAT32") == len(config.exclude)
    assert backend.groups()[0][0].scheme is FULL
    assert backend.last(config) is None
