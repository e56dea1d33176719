"""Models that edgekit did not train: each kind, from the command line or a file to a graph with the model's outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.onnx_file import from_onnx
from edgekit.export.importers.request import model_request
from edgekit.export.importers.source import ModelSource
from edgekit.models.pixels import PixelClassifier
from edgekit.models.store import save_classifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.runtimes import open_session
from tests.helpers import exported

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZED = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
Run = Callable[..., tuple[int, str, str]]

FACTORY = """
from tests.helpers import exported
from edgekit.models.classifier import Classifier

def network():
    data = exported.RECIPE.data
    return Classifier.build(exported.RECIPE.distill.student, data.image_size, [str(i) for i in range(10)], [])
"""


class Plain(nn.Module):
    """A convolution with zero padding, a nontrivial BatchNorm, and a classifier of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.gelu(self.norm(self.convolution(images)))
        return self.classifier(features.mean((2, 3)))


@pytest.fixture(scope="module")
def plain() -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Plain()
        with torch.no_grad():
            network.train()(torch.randn(8, 3, 16, 16) * 2 + 1)
    return network.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that the network was not trained on, a folder for each."""
    folder, test = tmp_path_factory.mktemp("photos"), exported.splits().test
    assert test.labels is not None
    for i in range(0, len(test), 2):
        (folder / str(test.labels[i])).mkdir(exist_ok=True)
        Image.fromarray(test.images[i]).save(folder / str(test.labels[i]) / f"{i}.png")
    return folder


def pixels(count: int = 4, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    session = open_session("onnxruntime", path, threads=1)
    logits = session.run(images)
    session.close()
    return logits


def said(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """The outputs of a network for images normalized by the definition."""
    normalized = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        return network(torch.tensor(normalized, dtype=torch.float32).permute(0, 3, 1, 2)).numpy()


def test_a_factory_with_weights_reaches_the_accuracy_that_it_has(
    edgekit: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_network.py").write_text(FACTORY)
    save_classifier(tmp_path, exported.classifier())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    code, out, err = edgekit(
        "export", "my_network:network", "--weights", "model.safetensors", "--calibrate", photos, "--evaluate", photos, "--size", 16,
        "--mean", 0.5, "--std", 0.25, "--target", "onnx", "--calibration-images", 40, "--json",
    )  # fmt: skip
    assert code == 0, err
    content = json.loads(out)
    bundle = Bundle.open(tmp_path / content["bundle"])
    manifest = bundle.manifest
    assert manifest.classes == [str(i) for i in range(10)]
    assert manifest.accuracy is not None
    assert manifest.accuracy.top1 > 0.9
    assert {v.id: v.status for v in manifest.variants} == {"onnx-fp32": "verified", "onnx-int8": "verified"}
    assert manifest.provenance["random_weights"] is False
    assert "fill the whole network" in manifest.provenance["weights_report"]
    assert len(manifest.provenance["source_sha256"]) == 64
    images, golden = bundle.golden()
    with torch.no_grad():
        np.testing.assert_allclose(golden, exported.pixels()(torch.from_numpy(images)).numpy(), atol=1e-5)


def test_without_weights_they_are_random_and_the_notes_say_so(
    edgekit: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = edgekit(
        "export", "timm:mobilenetv3_small_050", "--calibrate", photos, "--size", 64, "--target", "onnx", "--precision", "fp32",
        "--calibration-images", 20,
    )  # fmt: skip
    assert code == 0, err
    assert "RANDOM" in err
    assert "RANDOM" in out
    bundle = Bundle.open(tmp_path / "export" / "mobilenetv3_small_050")
    manifest, variant = bundle.manifest, bundle.variant("onnx-fp32")
    assert manifest.provenance["random_weights"] is True
    assert manifest.accuracy is None
    assert variant.accuracy is None
    assert variant.agreement is not None
    assert (variant.drop_is, variant.status) == ("expected", "verified")
    assert manifest.classes[:2] == ["class_0", "class_1"]
    assert len(manifest.classes) == 1000
    # timm's own configuration: bicubic, crop_pct 0.875, ImageNet's statistics.
    p = manifest.preprocessing
    assert (p.image_size, p.resize_to, p.interpolation) == (64, 73, "bicubic")
    assert manifest.provenance["normalization"] == {"mean": list(MEAN), "std": list(STD)}


def test_normalization_by_channel_is_exact_at_a_zero_padded_border(plain: Plain, tmp_path: Path) -> None:
    export_onnx(PixelClassifier(plain, MEAN, STD), tmp_path / "model.onnx", image_size=16, classes=list("abcde"))
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", pixels()), said(plain, pixels()), atol=1e-5)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("Expand") == 2  # spread over the image: a broadcast over three channels is slow where INT8 runs


def rewritten(path: Path, output: Path, **how: object) -> np.ndarray:
    """The logits of a foreign file's rewritten graph, which must be right for every batch size."""
    network = from_onnx(model_request(str(path), **{**NORMALIZED, **how}), None)
    assert network.graph is not None
    assert network.pixels.size is not None
    network.graph.write(output, network.pixels.size, MEAN, STD, "rgb", [f"c{i}" for i in range(network.classes)])
    images = pixels(4, network.pixels.size.height)
    one_by_one = np.concatenate([answers(output, images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(one_by_one, answers(output, images), atol=1e-5)
    return one_by_one


@pytest.mark.parametrize(("opset", "free", "outside"), [(18, False, False), (23, True, True)])
def test_what_the_new_exporter_of_torch_writes(
    plain: Plain, tmp_path: Path, opset: int, free: bool, outside: bool,
    require_module: Callable[[str, str], None],
) -> None:  # fmt: skip
    require_module("onnxscript", "torch's newer exporter writes opset 18 and above with it")
    batch = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if free else {}
    torch.onnx.export(
        plain, (torch.randn(2 if free else 1, 3, 16, 16),), str(tmp_path / "theirs.onnx"), dynamo=True, opset_version=opset,
        input_names=["their input"], output_names=["scores"], external_data=outside, verbose=False, **batch,
    )  # fmt: skip
    logits = rewritten(tmp_path / "theirs.onnx", tmp_path / "ours.onnx")
    np.testing.assert_allclose(logits, said(plain, pixels()), atol=1e-5)
    graph = onnx.load(tmp_path / "ours.onnx", load_external_data=False)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert [v.name for v in (*graph.graph.input, *graph.graph.output)] == ["image", "logits"]
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}


def test_what_the_old_exporter_writes_with_a_softmax_and_nothing_folded(plain: Plain, tmp_path: Path) -> None:
    torch.onnx.export(
        nn.Sequential(plain, nn.Softmax(1)), (torch.randn(1, 3, 16, 16),), str(tmp_path / "theirs.onnx"), dynamo=False,
        opset_version=13, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )  # fmt: skip
    assert "BatchNormalization" in {node.op_type for node in onnx.load(tmp_path / "theirs.onnx").graph.node}
    np.testing.assert_allclose(
        rewritten(tmp_path / "theirs.onnx", tmp_path / "ours.onnx"), said(plain, pixels()), atol=1e-5
    )
    (note,) = from_onnx(model_request(str(tmp_path / "theirs.onnx"), **NORMALIZED), None).notes
    assert "Softmax is left out" in note


def write_graph(path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT, inner: str = "inner") -> None:
    """A graph built with onnx's helpers: NHWC if its last axis is 3, with weights among its inputs as in IR version 3."""
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], [inner], axes=axes, keepdims=0),
        helper.make_node("MatMul", [inner, "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("w", 1, [3, 4])],
        [helper.make_tensor_value_info("y", 1, [shape[0], 4])], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7), path)


@pytest.mark.parametrize("shape", [["n", 3, 16, 16], ["n", 16, 16, 3], [2, 3, "h", "w"]])
def test_layouts_and_free_sizes(tmp_path: Path, shape: list[int | str]) -> None:
    write_graph(tmp_path / "theirs.onnx", shape, inner="logits")  # its own `logits` is another tensor
    weights = np.random.default_rng(0).normal(size=(3, 4))
    means = ((pixels() / 255.0 - np.array(MEAN)) / np.array(STD)).mean((1, 2))
    logits = rewritten(tmp_path / "theirs.onnx", tmp_path / "ours.onnx", size=16)
    np.testing.assert_allclose(logits, means @ weights, atol=1e-5)


def test_a_graph_that_takes_pixels_already_is_left_to_normalize_them(photos: Path, tmp_path: Path) -> None:
    write_graph(tmp_path / "theirs.onnx", ["n", 16, 16, 3], TensorProto.UINT8)
    source = import_model(model_request(str(tmp_path / "theirs.onnx"), calibrate=str(photos)), tmp_path)
    assert isinstance(source.model, Path)
    weights = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(answers(source.model, pixels()), pixels().mean((1, 2)) @ weights, rtol=1e-5)
    assert source.trained is not None
    np.testing.assert_allclose(source.trained(pixels())["logits"], pixels().mean((1, 2)) @ weights, rtol=1e-5)


def open_(model: object, photos: Path, tmp_path: Path, **how: object) -> ModelSource:
    return import_model(model_request(str(model), calibrate=str(photos), calibration_images=10, **how), tmp_path)


def test_safetensors_say_what_they_are_of(photos: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path, exported.classifier())
    with pytest.raises(EdgekitError, match="its normalization is unknown"):
        open_(tmp_path / "model.safetensors", photos, tmp_path)
    source = open_(tmp_path / "model.safetensors", photos, tmp_path, mean="0.5", std="0.25")
    assert source.classes == exported.splits().classes
    assert isinstance(source.model, nn.Module)
    with torch.no_grad():
        assert torch.equal(source.model(torch.from_numpy(pixels())), exported.pixels()(torch.from_numpy(pixels())))
    run = exported.write_run(tmp_path / "run")  # in a run the recipe says it
    assert open_(run.stage_path("distill") / "model.safetensors", photos, tmp_path).preprocessing.image_size == 16
    (tmp_path / "model.json").unlink()
    with pytest.raises(EdgekitError, match="no file beside it describes the network"):
        open_(tmp_path / "model.safetensors", photos, tmp_path)


def test_timms_description_beside_safetensors_names_network_classes_and_pixels(photos: Path, tmp_path: Path) -> None:
    import timm

    network = timm.create_model("mobilenetv3_small_050", num_classes=3)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    described = {
        "input_size": [3, 32, 32],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    content = {
        "architecture": "mobilenetv3_small_050",
        "num_classes": 3,
        "pretrained_cfg": described,
        "label_names": ["a", "b", "c"],
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    source = open_(tmp_path / "model.safetensors", photos, tmp_path)
    assert (source.classes, source.random, source.preprocessing.image_size) == (["a", "b", "c"], False, 32)
    assert source.provenance["normalization"] == {"mean": 0.5, "std": 0.5}  # three equal numbers are one
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(pixels(2, 32) / 127.5 - 1).float().permute(0, 3, 1, 2))
        assert isinstance(source.model, nn.Module)
        torch.testing.assert_close(source.model(torch.from_numpy(pixels(2, 32))), expected, atol=1e-4, rtol=1e-4)


def test_labels_of_a_folder_follow_the_models_own_order(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps([str(9 - i) for i in range(10)]))
    save_classifier(tmp_path, exported.classifier())
    classes = {"classes": str(tmp_path / "names.json"), "mean": "0.5", "std": "0.25"}
    source = open_(tmp_path / "model.safetensors", photos, tmp_path, evaluate=str(photos), **classes)
    assert source.evaluation is not None
    assert source.classes[0] == "9"
    by_name = [source.classes[label] for label in source.evaluation[1]]
    assert by_name == sorted(by_name)  # as the folders are listed


def test_the_list_says_what_this_machine_can_do(edgekit: Run) -> None:
    code, out, _ = edgekit("export", "--list", "--json")
    rows = {(row["target"], row["precision"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["onnx", "fp32"]["not_built"] == rows["onnx", "int8"]["not_run"] == ""
    assert rows["openvino", "fp16"]["default"]
    assert not rows["openvino", "fp32"]["default"]
    assert {target for target, _ in rows} == {"onnx", "openvino", "trt", "trt-rtx", "litert", "micro", "executorch"}
    code, out, _ = edgekit("export", "--list")
    assert code == 0
    assert "the engine is built on the device" in out
