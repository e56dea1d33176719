"""Q/DQ graphs of networks with attention: its layers are in INT8, the sums and products between tokens are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto

from edgekit.export.executorch.network import OnnxNetwork
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, UNSIGNED, Scheme, between_tokens, quantize_onnx
from edgekit.runtimes.onnxruntime import session_options
from tests.helpers.litert_networks import Network, build, convolution, images, residual


def quantized(model: ModelProto, folder: Path, scheme: Scheme = FULL) -> ModelProto:
    onnx.save(model, folder / "model.onnx")
    quantize_onnx(Calibration(folder / "model.onnx", images(model, 4), folder), folder / "int8.onnx", scheme)
    return onnx.load(folder / "int8.onnx")


def in_int8(model: ModelProto, op: str) -> list[str]:
    """The nodes of an operator that stand between integers: what they read was dequantized, and what they give is quantized."""
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    read = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    return [
        n.name
        for n in model.graph.node
        if n.op_type == op and all(made.get(name) == "DequantizeLinear" for name in n.input[:2]) and n.output[0] in read
    ]


def test_attention_has_only_its_layers_in_int8(tmp_path: Path) -> None:
    model = simplify(build(["convolution", "residual", "attention"], 1))
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [n.name for n in model.graph.node if n.op_type == "MatMul" and not weights & set(n.input)]
    layers = [n.name for n in model.graph.node if n.op_type == "MatMul" and weights & set(n.input)]
    assert len(products) == len(layers) == 2
    assert set(products) <= set(between_tokens(model))
    found = quantized(model, tmp_path)
    assert not set(in_int8(found, "MatMul")) & set(products)
    made = {name: node.op_type for node in found.graph.node for name in node.output}
    read = {n.name: [made.get(name) for name in n.input[:2]] for n in found.graph.node if n.op_type == "MatMul"}
    assert all(read[name] == ["DequantizeLinear"] * 2 for name in layers)
    biases = [n.name for n in found.graph.node if n.op_type == "Add" and weights & set(n.input)]
    assert biases
    assert set(biases) <= set(between_tokens(model))


def test_the_sum_of_a_convolution_and_its_input_stays_in_int8(tmp_path: Path) -> None:
    """Of a network that has attention elsewhere, too: its residual sums are those of a network without."""
    for layers in (["residual"], ["residual", "attention"]):
        net = Network(np.random.default_rng(3), (8, 8))
        convolution(net)
        before = net.value
        net.value = net.add("Conv", [before, net.weight(net.shape[0], net.shape[0], 1, 1)], kernel_shape=[1, 1])
        net.value = net.add("Add", [net.value, before])
        name = net.nodes[-1].name
        for layer in layers:
            build_layer(net, layer)
        found = quantized(simplify(net.model()), tmp_path)
        assert name in in_int8(found, "Add")


def build_layer(net: Network, name: str) -> None:
    from tests.helpers.litert_networks import attention

    {"residual": residual, "attention": attention}[name](net)


def test_a_network_without_attention_is_as_it_was() -> None:
    assert between_tokens(simplify(build(["convolution", "residual", "squeeze_and_excite"], 0))) == []


@pytest.mark.parametrize("scheme", [FULL, UNSIGNED], ids=lambda scheme: scheme.name)
def test_executorch_reads_a_constant_that_has_a_scale_of_activations(scheme: Scheme, tmp_path: Path) -> None:
    """A summand of its own for each place, as a position embedding is: ONNX Runtime gives it uint8 and a zero point."""
    net = Network(np.random.default_rng(0), (8, 8))
    convolution(net)
    net.value = net.add("Conv", [net.value, net.weight(net.shape[0], net.shape[0], 1, 1)], kernel_shape=[1, 1])
    net.value = net.add("Add", [net.value, net.weight(1, *net.shape)])
    convolution(net)
    model = quantized(simplify(net.model()), tmp_path, scheme)
    constants = {t.name: t for t in model.graph.initializer}
    summands = [
        n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
        and constants[n.input[0]].data_type == onnx.TensorProto.UINT8
    ]  # fmt: skip
    assert summands
    pixels = images(model, 1)
    expected = ort.InferenceSession(model.SerializeToString(), _exact()).run(None, {"image": pixels})[0]
    with torch.no_grad():
        (found,) = OnnxNetwork(fix_batch(model, 1)).eval()(torch.from_numpy(pixels))
    assert np.abs(found.numpy() - expected).max() <= 0.1 * np.ptp(expected)


def _exact() -> ort.SessionOptions:
    """Every node as it stands, so that no CPU's integers saturate."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
