"""The float ONNX: the form of the graph, and that rewriting a network for it does not change its outputs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from edgekit.errors import ExportError
from edgekit.models.heads import kept_layers
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import check, export_onnx
from edgekit.onnx_graph.prepare import exportable
from edgekit.runtimes import open_session
from tests.helpers import exported

SIZE = 16


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(exported.pixels(), path, image_size=SIZE, classes=exported.splits().classes)
    return path


def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_graph_is_what_the_bundle_promises(written: Path) -> None:
    model = onnx.load(written, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,), (output,) = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    assert [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim] == ["batch", SIZE, SIZE, 3]
    assert (output.name, output.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim] == ["batch", 10]
    assert {p.key: p.value for p in model.metadata_props}["edgekit"]
    assert json.loads({p.key: p.value for p in model.metadata_props}["classes"]) == exported.splits().classes
    assert list(written.parent.iterdir()) == [written]  # no external data


def test_the_cast_comes_first_and_nothing_of_training_is_left(written: Path) -> None:
    nodes = onnx.load(written).graph.node
    assert nodes[0].op_type == "Cast"
    assert nodes[0].input[0] == "image"
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["Cast"] == 1
    assert not {"BatchNormalization", "Dropout", "Identity", "Constant", "GlobalAveragePool"} & set(kinds)
    names = [node.name for node in nodes]
    assert all(names)
    assert len(set(names)) == len(names)
    assert {"layer1.0.conv1", "layer1.0.Add", "head"} <= set(names)  # a person finds the layer in the network


@pytest.mark.parametrize("count", [1, 3, 17])
def test_any_batch_gives_what_the_network_gives(written: Path, count: int) -> None:
    images = exported.splits().test.images[:count]
    session = open_session("onnxruntime", written, threads=1)
    np.testing.assert_allclose(session.run(images), logits(exported.pixels(), images.copy()), atol=2e-5)


def test_the_model_is_left_as_it_was(written: Path, tmp_path: Path) -> None:
    model = exported.untrained("resnet10", 32).train()
    before = repr(model)
    export_onnx(model, tmp_path / "m.onnx", image_size=32, classes=["a"])
    assert repr(model) == before
    assert model.training


def test_kept_layers_lose_their_batch_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kept = kept_layers(12, [8, 8])
    for module in kept.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    encoder = nn.Sequential(nn.Conv2d(3, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = PixelClassifier(nn.Sequential(encoder, kept, nn.Linear(8, 4)), 0.5, 0.25).eval()
    export_onnx(model, tmp_path / "m.onnx", image_size=8, classes=list("abcd"))
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node)
    assert kinds["Gemm"] == 3
    assert not kinds["BatchNormalization"]
    images = random_images(4, 8)
    got = open_session("onnxruntime", tmp_path / "m.onnx").run(images)
    np.testing.assert_allclose(got, logits(model, images), atol=1e-5)


@pytest.mark.parametrize("output_size", [1, (1, 1), 2, 5, (3, 7), (None, 2)])
def test_adaptive_pooling_is_replaced_by_its_equal(output_size: object) -> None:
    model = PixelClassifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(output_size)), 0.5, 0.25)
    images = random_images(2, 9)
    rewritten = exportable(model, 9)
    assert not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in rewritten.modules())
    np.testing.assert_allclose(logits(rewritten, images), logits(model, images), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("torchvision:resnet18", 64),
        ("mobilenet_v3_small", 64),
        ("timm:efficientnet_lite0", 64),
        ("timm:tf_efficientnet_lite0", 63),
        ("timm:vit_tiny_patch16_224", 64),
        ("squeezenet1_1", 64),
    ],
)
def test_architectures(name: str, size: int, tmp_path: Path) -> None:
    model = exported.untrained(name, size)
    export_onnx(model, tmp_path / "m.onnx", image_size=size, classes=[f"class {i}" for i in range(10)])
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    if "vit" not in name:  # transformers reshape by the batch that they are given
        assert not {"Shape", "Range", "Pad", "BatchNormalization"} & kinds
    for count in (1, 3):
        images = random_images(count, size, seed=count)
        trained = logits(model, images)
        assert np.ptp(trained) > 0.1  # the comparison below means something
        got = open_session("onnxruntime", tmp_path / "m.onnx", threads=1).run(images)
        np.testing.assert_allclose(got, trained, atol=1e-3 * np.abs(trained).max())


def test_what_onnx_has_no_word_for_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(image.float()[..., 0]).real

    with pytest.raises(ExportError, match="opset 17"):
        export_onnx(Odd(), tmp_path / "m.onnx", image_size=4, classes=["a"])
    assert capfd.readouterr().out == ""  # the exporter prints the whole graph


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1)), "opsets"),
        (lambda m: setattr(m.opset_import[0], "version", 18), "opsets|not valid"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "not free|not valid"),
        (lambda m: m.graph.node.append(onnx.helper.make_node("Dropout", ["logits"], ["more"], name="d")), "Dropout"),
    ],
)
def test_a_graph_that_breaks_the_promise_is_refused(written: Path, spoil, says: str) -> None:
    model = onnx.load(written)
    spoil(model)
    with pytest.raises(ExportError, match=says):
        check(model)
