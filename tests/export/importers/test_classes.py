"""Names of classes: every common file format is read, and labels are mapped to the right logits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.data.source import numbered, numbered_apart
from edgekit.errors import EdgekitError
from edgekit.export.importers.classes import read_classes
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.request import model_request
from edgekit.export.importers.source import ModelSource
from edgekit.models.class_order import hits, natural

LEVELS = 12
Run = Callable[..., tuple[int, str, str]]


def written(folder: Path, content: object, name: str = "names.json") -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\nowl\n",
        "\ufeffcat\r\ndog\r\nowl\r\n\r\n",
        ["cat", "dog", "owl"],
        {"0": "cat", "1": "dog", "2": "owl"},
        {"2": "owl", "0": "cat", "1": "dog"},
        {"cat": 0, "owl": 2, "dog": 1},
        {"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}, "architectures": ["X"]},
        {"class_to_idx": {"owl": 2, "cat": 0, "dog": 1}},
        {"names": ["cat", "dog", "owl"]},
        "0,cat\n1,dog\n2,owl\n",
        "index,name\n0,cat\n2,owl\n1,dog\n",
        "0\tcat\n1\tdog\n2\towl",
        "0: cat\n1: dog\n2: owl",
    ],
)  # fmt: skip
def test_every_common_file_of_names(content: object, tmp_path: Path) -> None:
    found = read_classes(written(tmp_path, content))
    assert (found.names, found.notes) == (["cat", "dog", "owl"], [])


def test_names_may_hold_commas_and_be_numbers(tmp_path: Path) -> None:
    assert read_classes(written(tmp_path, "tench, Tinca tinca\ngoldfish, Carassius auratus\n")).names == [
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
    ]
    assert read_classes(written(tmp_path, "3\n1\n2\n")).names == ["3", "1", "2"]
    assert read_classes(written(tmp_path, [0, 1, 2])).names == ["0", "1", "2"]


@pytest.mark.parametrize(
    "content",
    [
        {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]},
        [["n01440764", "tench"], ["n01443537", "goldfish"]],
        "n01440764 tench\nn01443537 goldfish\n",
    ],
)
def test_synsets_name_folders_too(content: object, tmp_path: Path) -> None:
    found = read_classes(written(tmp_path, content))
    assert found.names == ["tench", "goldfish"]
    assert found.places(["goldfish"]) == ([1], [])
    assert found.places(["n01440764", "n01443537"]) == ([0, 1], [])
    places = found.places(["1", "0"])
    assert places is not None
    assert (places[0], len(places[1])) == ([1, 0], 1)
    assert found.places(["n01440764", "goldfish"]) is None
    assert found.places(["2"]) is None
    assert found.places(["01"]) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"0": "cat", "2": "dog"}, "names 2 classes, but none has the index 1"),
        ({"1": "cat", "2": "dog"}, "none has the index 0"),
        ({"cat": 0, "dog": 0}, "none has the index 1 and two have the same"),
        ("1,cat\n2,dog\n", "none has the index 0"),
        ({"0": "cat", "1": None}, "null is not the name of a class"),
        ({"0": "cat", "1": " "}, "is not the name of a class"),
        ({"animals": {"0": "cat"}}, "not a list of names or names by index"),
        ({"cat": True, "dog": False}, "not a list of names or names by index"),
        ('{"0": "cat"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("", "names 0 classes"),
        ({"0": "cat"}, "names 1 class"),
        ({}, "names 0 classes"),
        ("cat\n\ndog\n", "line 2 is empty"),
    ],
)
def test_what_leaves_a_class_without_a_name_is_one_line(content: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=says) as caught:
        read_classes(written(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.hint


def test_a_name_that_comes_twice_is_numbered_and_said(tmp_path: Path) -> None:
    found = read_classes(written(tmp_path, "crane\nmaillot\ncrane\nmaillot\ncrane (2)\ncrane\n"))
    assert found.names == ["crane", "maillot", "crane (3)", "maillot (2)", "crane (2)", "crane (4)"]
    (note,) = found.notes
    assert "names crane, maillot more than once" in note
    assert numbered_apart(["a", "b"]) == (["a", "b"], [])


def test_training_numbers_them_alike_whichever_labels_occur(tmp_path: Path) -> None:
    path = written(tmp_path, "crane\nmaillot\ncrane\nowl\n", "names.txt")
    classes, labels = numbered([2, 3, 3], path, "images")
    assert (classes, labels.tolist()) == (["crane (2)", "owl"], [0, 1, 1])
    assert read_classes(path).names[2:] == classes


def test_natural_order_goes_by_the_numbers_in_names() -> None:
    names = [f"class_{i}" for i in range(LEVELS)]
    assert natural(sorted(names)) == names
    assert natural(["b10a", "b2", "b", "10", "9", "b10", "B2"]) == ["9", "10", "B2", "b", "b2", "b10", "b10a"]
    synsets = [f"n{i:08d}" for i in random.Random(0).sample(range(10**7), 50)]
    assert natural(synsets) == sorted(synsets)


def test_chance_does_not_decide_between_two_orders() -> None:
    orders = ([str(i) for i in range(LEVELS)], sorted(str(i) for i in range(LEVELS)))
    true = [str(i % LEVELS) for i in range(480)]
    position = np.array([orders[0].index(name) for name in true])
    assert hits(orders, position, true) == (480, 80, True)
    # 0 and 1 stand first in both orders: images of theirs alone tell nothing.
    assert hits(orders, position[:2], true[:2]) == (2, 2, False)
    assert hits(orders, np.zeros(480, np.int64), true)[2] is False


def levels(folder: Path, order: list[int], names: list[str]) -> Path:
    """A network of twelve classes whose logit `order[i]` is the largest for brightness i, and its images, brightness i in folder names[i]."""
    gray = (np.arange(LEVELS) + 0.5) / LEVELS
    weights = np.zeros((3, LEVELS), np.float32)
    weights[:, order] = 2 * gray * 20 / 3
    bias = np.zeros(LEVELS, np.float32)
    bias[order] = -(gray**2) * 20
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", LEVELS])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "levels.onnx"
    )
    for i, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(4):
            pixels = np.full((8, 8, 3), round(255 * gray[i]) + k, np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{k}.png")
    return folder / "levels.onnx"


def opened(model: Path, **how: object) -> ModelSource:
    images = str(model.parent / "images")
    return import_model(
        model_request(str(model), calibrate=images, evaluate=images, mean="0", std="1", **how), model.parent
    )


def accuracy(source: ModelSource) -> float:
    assert source.trained is not None
    assert source.evaluation is not None
    images, labels = source.evaluation
    return float((source.trained(images)["logits"].argmax(1) == labels).mean())


NUMBERS = [str(i) for i in range(LEVELS)]
PREFIXED = [f"class_{i}" for i in range(LEVELS)]


@pytest.mark.parametrize("names", [NUMBERS, PREFIXED], ids=["numbers", "prefixed"])
@pytest.mark.parametrize("by", ["number", "letter"])
def test_numbered_folders_are_taken_in_the_order_that_the_network_answers_in(
    names: list[str], by: str, tmp_path: Path
) -> None:
    wanted = names if by == "number" else sorted(names)
    source = opened(levels(tmp_path, [wanted.index(name) for name in names], names))
    assert source.classes == wanted
    assert accuracy(source) == 1.0
    (note,) = [n for n in source.notes if "can be ordered" in n]
    assert f"they are ordered by {by}" in note
    assert "right on 48 of 48 images; the other order on 8" in note


@pytest.mark.parametrize(("names", "by"), [(NUMBERS, "number"), (PREFIXED, "letter")])
def test_where_the_images_do_not_tell_numbers_go_by_value_and_names_by_letter(
    names: list[str], by: str, tmp_path: Path
) -> None:
    model = levels(tmp_path, list(range(LEVELS)), names)
    graph = onnx.load(model)
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, LEVELS), np.float32), "w"))
    onnx.save(graph, model)
    source = opened(model)
    assert source.classes == (names if by == "number" else sorted(names))
    assert any(f"ordered by {by}" in n and "do not decide between the two" in n for n in source.notes)


def test_folders_without_numbers_are_as_they_were(tmp_path: Path) -> None:
    names = sorted(f"{chr(97 + i)}-kind" for i in range(LEVELS))
    source = opened(levels(tmp_path, list(range(LEVELS)), names))
    assert (source.classes, accuracy(source)) == (names, 1.0)
    assert not any("ordered" in n for n in source.notes)


def test_numbered_folders_are_places_in_a_file_of_names(tmp_path: Path) -> None:
    model = levels(tmp_path, list(range(LEVELS)), NUMBERS)
    (tmp_path / "images" / "3").rename(tmp_path / "elsewhere")
    names = {str(i): f"level {chr(97 + i)}" for i in range(LEVELS)}
    source = opened(model, classes=written(tmp_path, names))
    assert source.classes == list(names.values())
    assert accuracy(source) == 1.0
    assert any("are taken as the indices of the classes" in n for n in source.notes)


def test_a_models_own_names_come_before_the_folders(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("test_resnet", num_classes=3)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    content = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "pretrained_cfg": config,
        "label_names": ["owl", "cat", "dog"],
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    for i, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(tmp_path / "images" / name / "0.png")
    source = opened(tmp_path / "model.safetensors")
    assert source.classes == ["owl", "cat", "dog"]  # sorted, as the folders are, would swap the labels
    assert source.evaluation is not None
    assert source.evaluation[1].tolist() == [1, 2, 0]
    (tmp_path / "images" / "dog").rename(tmp_path / "images" / "hound")
    with pytest.raises(
        EdgekitError,
        match=r"1 of its folders are not among the classes of its description: hound \(give the names of the model's classes",
    ):
        opened(tmp_path / "model.safetensors")


def test_the_order_is_said_on_the_command_line_and_in_the_bundle(edgekit: Run, tmp_path: Path) -> None:
    model = levels(tmp_path, list(range(LEVELS)), NUMBERS)
    images = tmp_path / "images"
    code, out, err = edgekit(
        "export", model, "--calibrate", images, "--evaluate", images, "--mean", "0", "--std", "1", "--target", "onnx", "--precision",
        "fp32", "--output", tmp_path / "bundle", "--json",
    )  # fmt: skip
    assert code == 0, err
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.classes == NUMBERS
    assert manifest.accuracy is not None
    assert manifest.accuracy.top1 == 1.0
    assert any("ordered by number" in n for n in json.loads(out)["notes"])
    assert any("ordered by number" in n for n in manifest.provenance["notes"])
