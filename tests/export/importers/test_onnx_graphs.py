"""Foreign graphs with difficult names, batch axes, opsets or modes: valid ones work, others give a one-line error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.errors import ExportError
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.simplify import simplify
from edgekit.runtimes import open_session
from tests.helpers.foreign import (
    FLOAT,
    MEAN,
    SIZE,
    STD,
    classifier,
    images,
    logits_by_definition,
    node,
    opened,
    rewritten,
)
from tests.helpers.packages import version_of

OURS = [
    "image",
    "logits",
    "embedding",
    "pixels",
    "pixels_nchw",
    "pixel_scale",
    "pixel_shift",
    "pixels_scaled",
    "pixel_order",
    "image_shape",
]


# --- names


def renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    for n in model.graph.node:
        for names in (n.input, n.output):
            for i, name in enumerate(names):
                names[i] = new if name == old else name
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new if value.name == old else value.name
    return model


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("old", ["m", "w", "z", "x", "y"])
def test_values_and_weights_of_any_name(tmp_path: Path, name: str, old: str) -> None:
    """An inner tensor, a weight, the logits, the input and the output, each named like a value that edgekit adds."""
    model = renamed(classifier(node("Softmax", "z", "y", axis=1)), old, name)
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)
    graph = onnx.load(tmp_path / "ours.onnx").graph
    assert [v.name for v in (*graph.input, *graph.output)] == ["image", "logits"]


def test_nodes_called_as_edgekits_own_values(tmp_path: Path) -> None:
    model = classifier(node("Identity", "z", "y"))
    for i, name in enumerate(["image", "image_shape", "embedding"]):
        model.graph.node[i].name = name
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_branches_that_read_renamed_values_follow(tmp_path: Path) -> None:
    """A constant branch is folded; before that it reads `pixels` from the outer graph."""

    def side(kind: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info("image", FLOAT, None)
        return helper.make_graph([node(kind, "pixels", "image")], kind, [], [value])

    choice = helper.make_node(
        "If", ["yes"], ["y"], name="choose", then_branch=side("Identity"), else_branch=side("Neg")
    )
    model = renamed(classifier(choice, constants={"yes": np.array(True)}), "z", "pixels")
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_a_layer_called_embedding_leaves_room_for_the_output(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.image, self.logits = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits(self.image(self.embedding(x.mean((2, 3))).relu()).relu())

    net = PixelClassifier(Net().eval(), 0.5, 0.5)
    export_onnx(net, tmp_path / "model.onnx", image_size=SIZE, classes=["a", "b"], embedding=True)
    session = open_session("onnxruntime", tmp_path / "model.onnx", threads=1)
    given = session.run_all(images())
    session.close()
    with torch.no_grad():
        x = torch.from_numpy(images() / 127.5 - 1).float().permute(0, 3, 1, 2)
        seen = net.model.image(net.model.embedding(x.mean((2, 3))).relu()).relu()
        np.testing.assert_allclose(given["embedding"], seen.numpy(), atol=1e-5)
        np.testing.assert_allclose(given["logits"], net.model.logits(seen).numpy(), atol=1e-5)


# --- the batch


class View(nn.Module):
    """Reshapes with a fixed batch size, and a class token concatenated with the patches of each image."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.convolution, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(4 if joined else 4 * 16, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        if not self.joined:
            return self.head(y.view(x.size(0), -1))
        y = torch.cat([self.token.expand(x.size(0), -1, -1), y.flatten(2).transpose(1, 2)], 1)
        return self.head(torch.softmax(y @ y.transpose(1, 2), -1) @ y)[:, 0]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("batch", "dynamo"), [(1, False), (2, False), (8, False), (8, True)])
def test_a_batch_fixed_by_tracing_is_freed(
    tmp_path: Path, joined: bool, batch: int, dynamo: bool, require_module: Callable[[str, str], None]
) -> None:
    if dynamo:
        require_module("onnxscript", "torch's newer exporter writes opset 18 and above with it")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = View(joined).eval()
    how = (
        {"dynamo": True, "opset_version": 18, "external_data": False}
        if dynamo
        else {"dynamo": False, "opset_version": 17}
    )
    torch.onnx.export(net, (torch.rand(batch, 3, SIZE, SIZE),), str(tmp_path / "traced.onnx"), verbose=False, **how)
    logits = rewritten(onnx.load(tmp_path / "traced.onnx"), tmp_path)
    x = torch.from_numpy((images() / 255 - np.array(MEAN)) / np.array(STD)).float().permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        np.testing.assert_allclose(logits, net(x).numpy(), atol=1e-4)


@pytest.mark.parametrize("side", [-1, 0])
def test_a_batch_of_minus_one_is_free(tmp_path: Path, side: int) -> None:
    model = classifier(node("Identity", "z", "y"))
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        if not shape.dim:
            shape.dim.extend([onnx.TensorShapeProto.Dimension(), onnx.TensorShapeProto.Dimension(dim_value=5)])
        shape.dim[0].Clear()
        shape.dim[0].dim_value = side
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_a_batch_that_is_free_in_name_alone(tmp_path: Path) -> None:
    """The input declares a free batch axis, but a Reshape inside fixes one image."""
    model = classifier(node("Reshape", "z one", "y"), constants={"one": np.array([1, 5])})
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_a_batch_that_cannot_be_freed_is_one_line(tmp_path: Path) -> None:
    """A different row is added to each image, so the value for a third one is unknown."""
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)
    network = opened(classifier(node("Add", "z rows", "y"), batch=2, constants={"rows": rows}), tmp_path)
    assert network.graph is not None
    with pytest.raises(ExportError, match="its batch axis, fixed to 2, cannot be freed") as caught:
        network.graph.write(tmp_path / "ours.onnx", SIZE, MEAN, STD, "rgb", list("abcde"))
    assert "dynamic_axes" in caught.value.hint
    assert not (tmp_path / "ours.onnx").exists()


# --- in training mode


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("what", ["norm", "dropout", "both"])
def test_a_network_in_training_mode_says_so(tmp_path: Path, what: str, free: bool) -> None:
    parts = {"norm": [nn.BatchNorm2d(4)], "dropout": [nn.Dropout(0.5)], "both": [nn.BatchNorm2d(4), nn.Dropout(0.5)]}[
        what
    ]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).train()
    torch.onnx.export(
        net, (torch.rand(2, 3, SIZE, SIZE),), str(tmp_path / "train.onnx"), dynamo=False, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.TRAINING, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}} if free else None,
    )  # fmt: skip
    with pytest.raises(
        ExportError, match=r"the network is in training mode \(found .*\): call .eval\(\) before exporting"
    ):
        opened(onnx.load(tmp_path / "train.onnx"), tmp_path)


def test_statistics_of_the_batch_written_out_are_training_too(tmp_path: Path) -> None:
    """A BatchNorm in training mode, decomposed by an exporter: only the outputs show it, not the operators."""
    parts = node("ReduceMean", "z", "mean", axes=[0]), node("Sub", "z mean", "y")
    with pytest.raises(ExportError, match="the other images of the batch: part of it is in training mode"):
        opened(classifier(*parts), tmp_path)
    with pytest.raises(ExportError, match="the other images of the batch: part of it is in training mode"):
        opened(classifier(*parts, batch=4), tmp_path)
    parts = node("ReduceL2", "z", "all"), node("Mul", "z all", "y")
    with pytest.raises(ExportError, match="the other images of the batch: part of it is in training mode"):
        opened(classifier(*parts), tmp_path)


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"draws random numbers \(RandomNormalLike, node RandomNormalLike_r\)"):
        opened(classifier(node("RandomNormalLike", "z", "r"), node("Add", "z r", "y")), tmp_path)


# --- constants


def test_constants_that_nobody_reads_do_not_stop_the_others(tmp_path: Path) -> None:
    """What chunk and scaled dot-product attention leave in opset 17: a chain of constants that nothing reads."""
    dead = node("Mul", "one one", "two"), node("Mul", "two two", "three")
    model = classifier(*dead, node("Identity", "z", "y"), constants={"one": np.float32(1)})
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)
    del model.graph.node[-1]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", FLOAT, ["n", 5]))
    assert [n.op_type for n in simplify(model).graph.node] == ["ReduceMean", "MatMul"]


def test_attention_that_torch_writes_at_opset_17(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.patches(x).flatten(2).transpose(1, 2)).chunk(3, -1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Attention().eval()
    export_onnx(PixelClassifier(net, 0.5, 0.5), tmp_path / "ours.onnx", image_size=SIZE, classes=list("abcde"))
    x = torch.from_numpy(images() / 127.5 - 1).float().permute(0, 3, 1, 2)
    torch.onnx.export(net, (x[:2],), str(tmp_path / "theirs.onnx"), dynamo=False, opset_version=17)
    with torch.no_grad():
        session = open_session("onnxruntime", tmp_path / "ours.onnx", threads=1)
        np.testing.assert_allclose(session.run(images()), net(x).numpy(), atol=1e-5)
        session.close()
    assert rewritten(onnx.load(tmp_path / "theirs.onnx"), tmp_path).shape == (4, 5)


# --- opsets


def newer(*nodes: onnx.NodeProto, opset: int, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """`classifier` with some nodes from x to r before it."""
    model = classifier(node("Identity", "z", "y"), opset=opset, constants=constants)
    model.graph.node[0].input[0] = "r"
    for i, n in enumerate(nodes):
        model.graph.node.insert(i, n)
    return model


CHANGED = {
    "Pad with axes": (18, [node("Pad", "x pads none axes2", "r")], {"pads": np.array([1, 2]), "axes2": np.array([3])}),
    "Pad with negative axes": (21, [node("Pad", "x pads none axes2", "r")], {"pads": np.array([1, 0, 2, 3]), "axes2": np.array([-1, -2])}),
    "Resize with axes": (18, [node("Resize", "x none scales", "r", axes=[2, 3])], {"scales": np.array([2, 2], np.float32)}),
    "Resize to sizes": (19, [node("Resize", "x none none2 sizes", "r", axes=[3], mode="linear")], {"sizes": np.array([12])}),
    "uneven Split": (18, [node("Split", "x", "a b", axis=2, num_outputs=2), node("Concat", "b a", "r", axis=3)], {}),
    "Split": (20, [node("Split", "x", "a b", axis=2, num_outputs=2), node("Add", "a b", "r")], {}),
    "Gelu": (20, [node("Gelu", "x", "r", approximate="tanh")], {}),
    "Mish": (18, [node("Mish", "x", "r")], {}),
    "GroupNormalization": (
        21, [node("GroupNormalization", "x scale bias", "r", num_groups=1)],
        {"scale": np.array([1, 2, 3], np.float32), "bias": np.array([0, 1, 2], np.float32)},
    ),
    "RMSNormalization": (23, [node("RMSNormalization", "x gain", "r")], {"gain": np.linspace(1, 2, SIZE).astype(np.float32)}),
    "Attention": (23, [node("Attention", "x x x", "r")], {}),
    "Swish": (24, [node("Swish", "x", "r")], {}),
    "ReduceMax": (20, [node("ReduceMax", "x axes2", "r", keepdims=1)], {"axes2": np.array([2])}),
    "ReduceL2": (18, [node("ReduceL2", "x axes2", "s"), node("Mul", "x s", "r")], {"axes2": np.array([1, -1])}),
    "Cast": (19, [node("Cast", "x", "h", to=TensorProto.FLOAT16, saturate=1), node("Cast", "h", "r", to=FLOAT)], {}),
    "AveragePool": (19, [node("AveragePool", "x", "r", kernel_shape=[2, 2], dilations=[1, 1], ceil_mode=1, strides=[3, 3])], {}),
    "GridSample": (20, [node("GridSample", "x grid", "r", mode="linear")], {"grid": np.linspace(-1, 1, 32).reshape(1, 4, 4, 2).astype("f4")}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGED)
def test_what_changed_since_opset_17_is_put_in_its_words(tmp_path: Path, change: str) -> None:
    """Compare with ONNX Runtime on the original file, with `rewritten`."""
    import onnxruntime as ort

    opset, nodes, constants = CHANGED[change]
    if opset > 23 and version_of("onnxruntime") < (1, 24):
        pytest.skip(f"this ONNX Runtime does not run opset {opset}, so that there is nothing to compare with")
    copies = []
    for n in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(n)
        for i, name in enumerate(copied.input):
            copied.input[i] = "" if name.startswith("none") else name
        copies.append(copied)
    batch: int | str = 1 if change == "GridSample" else "n"
    model = newer(*copies, opset=opset, constants=constants)
    if batch == 1:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        network = opened(model, tmp_path)
        assert network.graph is not None
        with pytest.raises(ExportError, match="cannot be freed"):  # its grid is of one image
            network.graph.write(tmp_path / "ours.onnx", SIZE, MEAN, STD, "rgb", list("abcde"))
        return
    logits = rewritten(model, tmp_path)
    x = ((images() / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32).transpose(0, 3, 1, 2)
    expected = ort.InferenceSession(str(tmp_path / "theirs.onnx"), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert [(o.domain, o.version) for o in onnx.load(tmp_path / "ours.onnx").opset_import] == [("", 17)]


def test_what_opset_17_has_no_word_for_is_named_with_its_node(tmp_path: Path) -> None:
    resize = node("Resize", "x none scales", "r", antialias=1, mode="linear")
    resize.input[1] = ""
    model = newer(resize, opset=18, constants={"scales": np.array([1, 1, 0.5, 0.5], np.float32)})
    network = opened(model, tmp_path)
    assert network.graph is not None
    with pytest.raises(ExportError, match=r"Resize \(node Resize_r\): opset 17 does not support its antialias"):
        network.graph.write(tmp_path / "ours.onnx", SIZE, MEAN, STD, "rgb", list("abcde"))


def test_functions_of_the_model_itself_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    model = classifier(helper.make_node("Twice", ["z"], ["y"], name="twice", domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)
    np.testing.assert_allclose(rewritten(model, tmp_path), 2 * logits_by_definition(images()), atol=1e-4)


def test_outputs_without_a_shape_or_type(tmp_path: Path) -> None:
    model = classifier(node("Identity", "z", "y"))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_weights_that_are_a_sparse_constant_or_a_list(tmp_path: Path) -> None:
    model = classifier(node("Mul", "z two", "y"))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["two"], name="two", value_floats=[2.0] * 5))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    np.testing.assert_allclose(rewritten(model, tmp_path), 2 * logits_by_definition(images()), atol=1e-4)
