"""ExecuTorch as a target: the graph of ONNX in torch, the program that is lowered of it, INT8 in the accuracy search, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto

from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export.speed import _float_of, with_speed
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, quantize_onnx
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.runtimes import load, open_session
from edgekit.tasks.classification import CLASSIFICATION
from tests.export.test_litert import hard_network
from tests.export.test_litert_fuzz import CLOSE, as_it_says, by_onnxruntime, difference
from tests.helpers import exported
from tests.helpers.litert_networks import ACTIVATIONS, LAYERS, Network, activation, build, convolution, images
from tests.helpers.tiny_bundle import some_images, write_onnx

pytest.importorskip("executorch", reason="it has no wheels for every platform")

from edgekit.export.executorch.int8 import ExecuTorchInt8, _simulated
from edgekit.export.executorch.network import OnnxNetwork
from edgekit.export.executorch.program import write_program


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Both precisions, with the embedding."""
    folder = tmp_path_factory.mktemp("executorch") / "bundle"
    return exported.export(folder, targets=["executorch"], embedding=True, max_drop=2.0)


def in_torch(model: ModelProto, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of a graph of batch 1, image by image."""
    network = OnnxNetwork(model)
    with torch.no_grad():
        found = [network(torch.from_numpy(image[None])) for image in pixels]
    return np.concatenate([outputs[network.outputs.index("logits")].numpy() for outputs in found])


def test_both_precisions_are_verified_in_executorch(bundle: Bundle) -> None:
    found = {variant.id: variant for variant in bundle.manifest.variants}
    assert list(found) == ["executorch-fp32", "executorch-int8"]
    assert {v.status for v in found.values()} == {"verified"}
    assert all(v.executed and v.runtime == "executorch" for v in found.values())
    parity = found["executorch-fp32"].parity
    assert parity is not None
    assert parity.max_abs_diff < 1e-3
    assert parity.embedding_cosine is not None
    assert parity.embedding_cosine > 1 - 1e-6
    whole, quarter = (v.files[0].bytes for v in found.values())
    assert quarter < 0.6 * whole  # of a network so small that the program itself weighs
    for variant in found.values():
        session = load(bundle, variant)
        assert session.batch == 1
        assert session.outputs == ["logits", "embedding"]
        # The cast of the pixels is outside, and nothing else.
        assert (session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]) == (
            "1",
            "1 to_dim_order_copy",
        )
        session.close()
        assert "XNNPACK" not in variant.note


def test_int8_has_the_record_of_the_search(bundle: Bundle) -> None:
    record = exported.quantization(bundle, "executorch-int8")
    assert record.format == "ExecuTorch"
    assert "verified" in {attempt.status for attempt in record.tried}
    assert record.kept_in_float  # the pixels' part and the classifier
    assert not (bundle.path / "qdq.onnx").exists()


def test_int8_is_timed_against_the_float_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    variants, size = bundle.manifest.variants, bundle.manifest.preprocessing.image_size.height
    path = tmp_path / "model.onnx"
    write_onnx(path, size=size)  # which is not converted
    image = np.zeros((1, size, size, 3), np.uint8)
    _, found = with_speed(variants, bundle.path, path, image, bundle.task, seconds=0)
    assert found.speed is not None
    assert found.speed.float_p50_ms > 0
    assert found.speed.verdict is not None
    assert _float_of(found, variants, bundle.path) == bundle.path / "model.fp32.pte"
    assert _float_of(found, [found], bundle.path) is None


def test_two_images_at_a_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--batch 2: ExecuTorch runs batches of 1 alone"):
        exported.export(tmp_path / "bundle", targets=["executorch"], precisions=["fp32"], batch=2)
    assert not (tmp_path / "bundle").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_a_random_network_in_torch_computes_what_onnx_runtime_does(layers: list[str], seed: int) -> None:
    model = simplify(build(layers, seed, 1))
    pixels = images(model, 1)
    if uneven_with_ceil(model):
        with pytest.raises(ExportError, match="uneven padding with ceil_mode"):
            OnnxNetwork(model)
        return
    assert difference(in_torch(model, pixels), by_onnxruntime(model, pixels)) <= CLOSE


def uneven_with_ceil(model: ModelProto) -> bool:
    """Whether an average is taken over windows of which torch counts other pixels than ONNX."""
    for node in model.graph.node:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        pads, kernel = found.get("pads", [0] * 4), found.get("kernel_shape", [])
        uneven = pads[:2] != pads[2:] or any(2 * p > k for p, k in zip(pads[:2], kernel, strict=False))
        if node.op_type == "AveragePool" and found.get("ceil_mode", 0) and uneven:
            return True
    return False


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_in_torch_computes_what_onnx_runtime_does(kind: str) -> None:
    net = Network(np.random.default_rng(0), (7, 9), 1)
    convolution(net)
    activation(net, kind)
    model = simplify(net.model())
    pixels = images(model, 1)
    assert difference(in_torch(model, pixels), by_onnxruntime(model, pixels)) <= CLOSE


@pytest.mark.parametrize("indices", [-1, [2], [[0, -1], [1, 1]]])
def test_indices_of_any_shape_are_gathered(indices: int | list[object]) -> None:
    net = Network(np.random.default_rng(0), (6, 6), 1)
    gathered = net.add("Gather", [net.value, net.number(indices, np.int64)], axis=2)
    rows = int(np.asarray(indices).size)
    net.value = net.add("Reshape", [gathered, net.number([1, 3, rows, 6], np.int64)])
    model = simplify(net.model())
    pixels = images(model, 1)
    assert difference(in_torch(model, pixels), by_onnxruntime(model, pixels)) <= CLOSE


@pytest.mark.slow
def test_a_program_of_many_operators_computes_what_onnx_runtime_does(tmp_path: Path) -> None:
    layers = ["convolution", "squeeze_and_excite", "residual", "pooling", "shuffle", "normalization", "attention"]
    source, path = tmp_path / "model.onnx", tmp_path / "model.pte"
    model = simplify(build([layer for layer in layers if layer in LAYERS], 3))
    onnx.save(model, source)
    write_program(onnx.load(source), source, path, "fp32")
    pixels = images(model, 2)
    session = open_session("executorch", path, threads=1)
    found = np.concatenate([session.run(image[None]) for image in pixels])
    session.close()
    assert difference(found, by_onnxruntime(model, pixels)) <= CLOSE


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Quantizer, ReferenceOutputs]:
    """A quantizer for what MobileNetV3 is made of, and the float outputs."""
    folder = tmp_path_factory.mktemp("hard")
    model, path = hard_network(), folder / "model.onnx"
    onnx.helper.set_model_props(model, {"classes": "[]"})
    onnx.save(model, path)
    pixels = images(model, 40)
    reference = ReferenceOutputs.of(CLASSIFICATION, open_session("onnxruntime", path).run_all, pixels, None)
    return Quantizer(Calibration(path, pixels, folder), folder, None, None, CLASSIFICATION), reference


@pytest.mark.parametrize(
    "config",
    [
        QuantizationConfig(FULL, "percentile"),
        QuantizationConfig(FULL, "minmax", corrected=True),
        QuantizationConfig(FULL, "minmax", equalized="weights"),
        QuantizationConfig(FULL, "minmax", exclude=("second",)),
    ],
    ids=lambda config: config.name,
)
def test_every_step_of_the_search_gives_a_graph_that_torch_computes(
    config: QuantizationConfig, hard: tuple[Quantizer, ReferenceOutputs], tmp_path: Path
) -> None:
    quantizer, reference = hard
    layers = [node.name for node in onnx.load(quantizer.first.model).graph.node if node.op_type == "Conv"]
    config = replace(config, exclude=(layers[1],)) if config.exclude else config
    backend = ExecuTorchInt8(quantizer, reference, AccuracyBounds())
    variant = backend.make(config, tmp_path)
    assert variant.quantization is not None
    assert variant.quantization.configuration == config.name
    network = OnnxNetwork(fix_batch(onnx.load(tmp_path / "qdq.onnx"), 1))
    float_weights = {node.inputs[1] for node in network.nodes if node.op == "Conv"} - network.scales.keys()
    assert len(float_weights) == len(config.exclude)
    assert all(network.known[name].dtype == np.int8 for name in network.scales)
    simulated = _simulated(tmp_path / "qdq.onnx", reference.images, ("logits",))["logits"]
    noise = simulated - reference.outputs["logits"]
    assert (noise**2).sum() < 10**-1.5 * (reference.outputs["logits"] ** 2).sum()
    fidelity = backend.fidelity(variant, tmp_path)
    assert fidelity is not None
    assert fidelity.sqnr_db > 15
    assert backend.last(config) is None


def test_a_candidate_is_run_in_executorch_where_it_is_judged(
    hard: tuple[Quantizer, ReferenceOutputs], tmp_path: Path
) -> None:
    quantizer, reference = hard
    backend = ExecuTorchInt8(quantizer, reference, AccuracyBounds(max_drop=100))
    made = backend.make(QuantizationConfig(FULL, "minmax"), tmp_path)
    assert made.status == "unexecuted"
    judged = backend.verify(made, tmp_path)
    assert (judged.status, judged.executed) == ("verified", True)
    (file,) = judged.files
    session = open_session("executorch", tmp_path / file.path, threads=1)
    found = np.concatenate([session.run(image[None]) for image in reference.images])
    session.close()
    assert session.settings["xnnpack_partitions"] == "1"
    # The graph by which candidates are compared says the same, but for the rounding of a step here and there.
    graph = _simulated(tmp_path / "qdq.onnx", reference.images, ("logits",))["logits"]
    assert ((found - graph) ** 2).sum() < 10**-2 * (graph**2).sum()
    assert backend.groups()[0][0].scheme is FULL  # on a CPU where other runtimes' products saturate, too


def test_uneven_padding_leaves_a_layer_in_int8(tmp_path: Path) -> None:
    net = Network(np.random.default_rng(2), (12, 12))
    for kind, layer in (("Conv", net.weight(8, 3, 3, 3)), ("MaxPool", ""), ("Conv", net.weight(8, 8, 3, 3))):
        inputs = [net.value, layer] if layer else [net.value]
        net.value = net.add(kind, inputs, kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[1, 1])
        net.value = net.add("Relu", [net.value]) if layer else net.value
        net.shape = (8, 12, 12) if net.shape[0] == 3 else (8, net.shape[1] - 1, net.shape[2] - 1)
    model, source, path = simplify(net.model()), tmp_path / "model.onnx", tmp_path / "model.pte"
    onnx.save(model, source)
    quantize_onnx(Calibration(source, images(model, 40), tmp_path), tmp_path / "qdq.onnx", FULL, method="minmax")
    write_program(onnx.load(tmp_path / "qdq.onnx"), source, path, "int8")
    pixels = images(model, 8, seed=1)
    session = open_session("executorch", path, threads=1)
    found = np.concatenate([session.run(image[None]) for image in pixels])
    session.close()
    assert (session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]) == ("1", "1 to_dim_order_copy")
    expected = by_onnxruntime(model, pixels)
    assert ((found - expected) ** 2).sum() < 10**-2 * (expected**2).sum()


def quantized(model: ModelProto, folder: Path) -> tuple[Path, Path]:
    """The float ONNX of a network, and its graph with Q/DQ nodes, with ranges over other images than it is then run on."""
    source, path = folder / "model.onnx", folder / "qdq.onnx"
    onnx.save(model, source)
    quantize_onnx(Calibration(source, images(model, 40, seed=1), folder), path, FULL, method="minmax")
    return source, path


SUMMANDS = {
    "of a channel, with both signs": ((1, 8, 1, 1), -1.0, 2.0),
    "of a pixel, a row of a matrix": ((12,), 0.5, 2.0),
    "of all, negative": ((1, 8, 12, 12), -3.0, -0.5),
    "one number": ((), 0.9, 1.1),
}


@pytest.mark.parametrize("name", SUMMANDS)
def test_a_constant_summand_in_integers_is_added(name: str, tmp_path: Path) -> None:
    shape, low, high = SUMMANDS[name]

    def network(share: float) -> ModelProto:
        """A sum that a convolution feeds, which becomes INT8, its mean, and a linear layer, which stays in float."""
        net = Network(np.random.default_rng(5), (12, 12))
        net.value = net.add("Conv", [net.value, net.weight(8, 3, 3, 3)], kernel_shape=[3, 3], pads=[1] * 4)
        net.shape = (8, 12, 12)
        net.value = net.add("Add", [net.number(share * net.rng.uniform(low, high, shape)), net.value])
        return simplify(net.model())

    model = network(1.0)
    source, path = quantized(model, tmp_path)
    graph = onnx.load(path).graph
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    by_output = {node.output[0]: node for node in graph.node}
    (add,) = (node for node in graph.node if node.op_type == "Add")
    summand, convolved = (by_output[value] for value in add.input)
    assert known[summand.input[0]].dtype == np.uint8  # it is what this test is about
    (after,) = (node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == add.output[0])

    write_program(onnx.load(path), source, tmp_path / "model.pte", "int8")
    pixels = images(model, 8)
    session = open_session("executorch", tmp_path / "model.pte", threads=1)
    found = np.concatenate([session.run(image[None]) for image in pixels])
    session.close()
    assert (session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]) == ("1", "1 to_dim_order_copy")

    # Kernels may round the convolution's sum to the other neighbor, and then that of the sum and of the mean behind it: a step of each.
    (mean,) = (node for node in graph.node if node.op_type == "GlobalAveragePool")
    behind = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == mean.output[0]]
    steps = sum(float(known[node.input[1]]) for node in (convolved, after, *behind))
    (head,) = (node for node in graph.node if node.op_type == "Gemm")
    allowed = steps * np.abs(known[head.input[1]]).sum(1) + 1e-4
    expected = as_it_says(path, pixels)
    assert (np.abs(found - expected) <= allowed).all()
    # Without the summand, or with twice of it, it would be another answer.
    for share in (0.0, 2.0):
        assert (np.abs(by_onnxruntime(network(share), pixels) - expected) > 2 * allowed).any()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_a_random_network_in_integers_in_torch_computes_what_its_graph_says(layers: list[str], seed: int) -> None:
    model = simplify(build(["convolution", *layers, "convolution"], seed))
    pixels = images(model, 2)
    with TemporaryDirectory() as folder:
        try:
            _, path = quantized(model, Path(folder))
        except ExportError as error:
            if "no layer that can be quantized" not in str(error):
                raise
            return
        if uneven_with_ceil(model):
            with pytest.raises(ExportError, match="uneven padding with ceil_mode"):
                OnnxNetwork(fix_batch(onnx.load(path), 1))
            return
        ours, graph = _simulated(path, pixels, ("logits",))["logits"], as_it_says(path, pixels)
    # A sum at the border of two steps may be rounded to the other one, which a later layer makes larger: no more than INT8 itself does.
    assert np.isfinite(ours).all()
    assert difference(ours, graph) <= 0.02 + difference(graph, by_onnxruntime(model, pixels))


def test_an_operator_that_is_not_there_is_named() -> None:
    net = Network(np.random.default_rng(1), (6, 6), 1)
    net.value = net.add("Sign", [net.value])
    with pytest.raises(ExportError) as error:
        OnnxNetwork(simplify(net.model()))
    assert "the operator Sign (node" in str(error.value)
    assert "--target executorch" in error.value.hint
    assert "\n" not in str(error.value)


def test_what_an_operator_cannot_do_is_named() -> None:
    net = Network(np.random.default_rng(1), (6, 6), 1)
    net.value = net.add("MaxPool", [net.value], kernel_shape=[2, 2], outputs=2)[0]
    with pytest.raises(ExportError, match=r"the operator MaxPool \(node .*\) cannot be written: its indices"):
        OnnxNetwork(simplify(net.model()))


def test_a_graph_that_came_as_onnx_is_enough(tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "model.pte"
    write_onnx(source)
    write_program(simplify(onnx.load(source)), source, path, "fp32")
    pixels = some_images(3)
    session = open_session("executorch", path, threads=1)
    found = np.concatenate([session.run(image[None]) for image in pixels])
    session.close()
    assert difference(found, open_session("onnxruntime", source).run(pixels)) <= CLOSE
