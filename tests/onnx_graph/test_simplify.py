"""Simplifying a graph: outputs do not change, doing it again changes nothing, and nodes are named after layers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekit.errors import ExportError
from edgekit.onnx_graph import simplify as simplifying
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.prepare import fused
from edgekit.onnx_graph.simplify import add_embedding, fix_batch, simplify
from tests.helpers import exported

NETWORKS = [
    ("resnet10", 32), ("mobilenet_v3_small", 32), ("timm:efficientnet_lite0", 32), ("timm:vit_tiny_patch16_224", 32),
    ("timm:mobileone_s0", 32),
]  # fmt: skip
CLASSES = [f"class {i}" for i in range(10)]


def run(model: ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Run the graph without optimizations, which would hide the effect of simplifying."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: images})


def random_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@cache
def raw(name: str, size: int) -> bytes:
    """The graph as PyTorch's exporter writes it."""
    from edgekit.onnx_graph.prepare import exportable

    model = exportable(exported.untrained(name, size), size)
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    written = io.BytesIO()
    torch.onnx.export(
        model, (torch.zeros(2, size, size, 3, dtype=torch.uint8),), written, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"], dynamic_axes=axes,
    )  # fmt: skip
    return written.getvalue()


def same(logits: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to rounding: for another graph, a runtime may choose another kernel, which sums in another order."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_real_networks_compute_the_same_and_are_done_after_one_pass(name: str, size: int) -> None:
    before = onnx.load_from_string(raw(name, size))
    after = simplify(onnx.load_from_string(raw(name, size)))
    onnx.checker.check_model(after, full_check=True)
    for count in (1, 4):  # neither is a batch that the exporter saw
        images = random_images(count, size)
        same(run(after, images)[0], run(before, images)[0])
    assert simplify(onnx.load_from_string(after.SerializeToString())).SerializeToString() == after.SerializeToString()

    kinds = {node.op_type for node in after.graph.node}
    assert not {"Identity", "Constant", "Dropout", "BatchNormalization"} & kinds
    reads = {i for node in after.graph.node for i in node.input}
    assert all(tensor.name in reads for tensor in after.graph.initializer)
    shaped = {value.name for value in after.graph.value_info}
    values = {name for node in after.graph.node for name in node.output} - {"logits"}
    assert values <= shaped
    assert len(after.graph.node) <= len(before.graph.node)
    # Every weight is called as in the network's state dict.
    weights = {n.input[1] for n in after.graph.node if n.op_type in {"Conv", "Gemm"}}
    assert all(weight.endswith(".weight") for weight in weights)


def test_a_transformers_shape_arithmetic_is_gone() -> None:
    before = onnx.load_from_string(raw("timm:vit_tiny_patch16_224", 32))
    after = simplify(onnx.load_from_string(raw("timm:vit_tiny_patch16_224", 32)))
    arithmetic = {"Shape", "Gather", "Unsqueeze", "Cast", "Sqrt"}
    left = [sum(n.op_type in arithmetic for n in model.graph.node) for model in (before, after)]
    assert left[0] > 100
    assert left[1] < 10  # what is left makes one class token an image


@pytest.mark.parametrize(("name", "size"), [NETWORKS[0], NETWORKS[3]])
def test_a_fixed_batch(name: str, size: int) -> None:
    free = simplify(onnx.load_from_string(raw(name, size)))
    images = random_images(3, size)
    logits = run(free, images)[0]
    fixed = fix_batch(free, 3)
    same(run(fixed, images)[0], logits)
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [3, size, size, 3]
    assert [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim] == [3, 10]
    assert not {"Shape", "Expand"} & {node.op_type for node in fixed.graph.node}
    known = {v.name for v in fixed.graph.value_info if all(d.dim_value for d in v.type.tensor_type.shape.dim)}
    assert {name for node in fixed.graph.node for name in node.output} - {"logits"} <= known


@pytest.mark.parametrize(("name", "size"), [*NETWORKS[:2], NETWORKS[3]])
def test_the_embedding_is_what_the_linear_layer_sees(name: str, size: int, tmp_path: Path) -> None:
    model = exported.untrained(name, size)
    export_onnx(model, tmp_path / "m.onnx", image_size=size, classes=CLASSES, embedding=True)
    images = random_images(3, size)
    written = onnx.load(tmp_path / "m.onnx")
    assert [output.name for output in written.graph.output] == ["logits", "embedding"]
    logits, embedding = run(written, images)
    seen: list[torch.Tensor] = []
    hook = model.model.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    hook.remove()
    np.testing.assert_allclose(embedding, seen[0].numpy(), atol=1e-4 * np.abs(seen[0].numpy()).max())
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["timm:mobileone_s0", "timm:repvgg_a0", "timm:fastvit_t8"])
def test_branches_are_fused_and_stay_equal(name: str, tmp_path: Path) -> None:
    size = 64 if "fastvit" in name else 32
    model = exported.untrained(name, size)
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in model.modules())
    export_onnx(model, tmp_path / "m.onnx", image_size=size, classes=CLASSES)
    written = onnx.load(tmp_path / "m.onnx")
    assert sum(node.op_type == "Conv" for node in written.graph.node) < convolutions
    assert not any(node.op_type == "BatchNormalization" for node in written.graph.node)
    images = random_images(2, size)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(written, images)[0], expected, atol=1e-4 * np.abs(expected).max())
    assert (
        sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == convolutions
    )  # the model itself is left alone
    plain = exported.untrained("resnet10", 32)
    assert fused(plain, 32) is plain


def graph_of(nodes: list, weights: dict[str, np.ndarray], **shapes: list) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes.get("x", ["n", 4]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes.get("y", ["n", 4]))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: graph_of([node("Identity", ["x"], ["i"]), node("Relu", ["i"], ["y"])], {}), ["Relu"]),
        (lambda: graph_of([node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["y"])], {}), ["Relu"]),
        (lambda: graph_of([node("Dropout", ["x"], ["d"]), node("Relu", ["d"], ["y"])], {}), ["Relu"]),
        (lambda: graph_of([node("Cast", ["x"], ["c"], to=TensorProto.FLOAT), node("Relu", ["c"], ["y"])], {}), ["Relu"]),
        (lambda: graph_of([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["unused"])], {"w": np.ones(3, np.float32)}), ["Relu"]),
        (
            lambda: graph_of(
                [node("Mul", ["a", "b"], ["c"]), node("Sqrt", ["c"], ["d"]), node("Add", ["x", "d"], ["y"])],
                {"a": np.full(4, 3, np.float32), "b": np.full(4, 12, np.float32)},
            ),
            ["Add"],
        ),
        # What must stay: the only node between input and output, a quantized weight, and a blank made large on purpose.
        (lambda: graph_of([node("Identity", ["x"], ["y"])], {}), ["Identity"]),
        (
            lambda: graph_of(
                [node("DequantizeLinear", ["q", "s"], ["w"]), node("Add", ["x", "w"], ["y"])],
                {"q": np.arange(4, dtype=np.int8), "s": np.array(0.5, np.float32)},
            ),
            ["DequantizeLinear", "Add"],
        ),
        (
            lambda: graph_of(
                [node("Expand", ["one", "many"], ["e"]), node("ReduceSum", ["e"], ["t"], keepdims=0), node("Add", ["x", "t"], ["y"])],
                {"one": np.ones(1, np.float32), "many": np.array([2048, 2048], np.int64)},
            ),
            ["Add"],
        ),
    ],
)  # fmt: skip
def test_small_graphs(make: Callable[[], ModelProto], left: list[str]) -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    after = simplify(make())
    assert [n.op_type for n in after.graph.node] == left
    same(run(after, x)[0], run(make(), x)[0])


def test_a_batch_norm_of_another_exporter_becomes_part_of_its_convolution() -> None:
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "b": random.standard_normal(5).astype(np.float32),
        **{name: random.uniform(0.5, 2, 5).astype(np.float32) for name in ("scale", "shift", "mean", "var")},
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"], epsilon=1e-3),
    ]
    shapes = {"x": ["n", 3, 6, 6], "y": ["n", 5, 6, 6]}
    x = random.standard_normal((2, 3, 6, 6)).astype(np.float32)
    after = simplify(graph_of(nodes, weights, **shapes))
    assert [n.op_type for n in after.graph.node] == ["Conv"]
    np.testing.assert_allclose(run(after, x)[0], run(graph_of(nodes, weights, **shapes), x)[0], rtol=1e-5, atol=1e-5)
    # Where something else reads the convolution too, it stays.
    shared = [*nodes[:1], node("BatchNormalization", ["c", *list(weights)[2:]], ["n"]), node("Add", ["c", "n"], ["y"])]
    assert [n.op_type for n in simplify(graph_of(shared, weights, **shapes)).graph.node] == [
        "Conv",
        "BatchNormalization",
        "Add",
    ]


def test_what_cannot_be_one_file_is_refused_before_the_exporter_dies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(simplifying, "LARGEST_BYTES", 1000)
    with pytest.raises(ExportError, match="more than the 2 GB"):
        export_onnx(exported.untrained("resnet10", 32), tmp_path / "m.onnx", image_size=32, classes=CLASSES)
    assert not list(tmp_path.iterdir())


def test_no_linear_layer_no_embedding() -> None:
    model = simplify(graph_of([node("Relu", ["x"], ["y"])], {}))
    with pytest.raises(ExportError, match="no embedding"):
        add_embedding(model, "y", "embedding")
