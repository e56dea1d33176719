"""The last nodes of a foreign graph after the logits: recognized by nodes, recognized by numbers, or refused with one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto
from PIL import Image
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export.importers.answers import Reading, sum_to_one, to_logits
from edgekit.export.importers.outputs import as_classifier
from tests.helpers.foreign import (
    CLASSES,
    answers,
    classifier,
    images,
    logits_by_definition,
    node,
    opened,
    rewritten,
    softmax,
)

Run = Callable[..., tuple[int, str, str]]

SOFTMAX = node("Softmax", "z", "p", axis=1)
ONE, ZERO, TINY = np.float32(1), np.float32(0), np.float32(1e-7)
CONSTANTS = {
    "zero": ZERO, "one": ONE, "hundred": np.float32(100), "tiny": TINY, "below": np.float32(1 - 1e-7), "none": np.array([0]),
    "flat": np.array([-1, CLASSES]), "axis": np.array([2]), "axis1": np.array([1]), "order": np.arange(CLASSES),
    "half": np.float32(0.5), "ends": np.array([1000]),
}  # fmt: skip
# What follows the logits z, so that y are probabilities of the same classes.
SAME = {
    "softmax": [node("Softmax", "z", "y", axis=1)],
    "last axis": [node("Softmax", "z", "y", axis=-1)],
    "reshape": [SOFTMAX, node("Reshape", "p flat", "y")],
    "identity": [SOFTMAX, node("Identity", "p", "y")],
    "dropout": [SOFTMAX, node("Dropout", "p half", "y mask")],
    "flatten": [SOFTMAX, node("Flatten", "p", "y", axis=1)],
    "clip": [SOFTMAX, node("Clip", "p zero one", "y")],
    "clip as Keras": [SOFTMAX, node("Clip", "p tiny below", "y")],
    "cast": [SOFTMAX, node("Cast", "p", "d", to=onnx.TensorProto.DOUBLE), node("Cast", "d", "y", to=onnx.TensorProto.FLOAT)],
    "times one": [SOFTMAX, node("Mul", "p one", "y")],
    "one times": [SOFTMAX, node("Mul", "one p", "y")],
    "percent": [SOFTMAX, node("Mul", "p hundred", "y")],
    "unsqueeze and squeeze": [SOFTMAX, node("Unsqueeze", "p axis", "u"), node("Squeeze", "u axis", "y")],
    "four axes": [node("Unsqueeze", "z axis", "z3"), node("Softmax", "z3", "p", axis=1), node("Squeeze", "p axis", "y")],
    "transposed twice": [SOFTMAX, node("Transpose", "p", "t", perm=[1, 0]), node("Transpose", "t", "y", perm=[1, 0])],
    "slice of all": [SOFTMAX, node("Slice", "p none ends axis1", "y")],
    "gather of all": [SOFTMAX, node("Gather", "p order", "y", axis=1)],
    "decomposed": [node("Exp", "z", "e"), node("ReduceSum", "e axis1", "s"), node("Div", "e s", "y")],
    "decomposed, stable": [
        node("ReduceMax", "z", "top", axes=[1]), node("Sub", "z top", "d"), node("Exp", "d", "e"), node("ReduceSum", "e axis1", "s"),
        node("Div", "e s", "y"),
    ],
    "log": [node("LogSoftmax", "z", "y", axis=1)],
    "log of softmax": [SOFTMAX, node("Log", "p", "y")],
    "more than clipped": [SOFTMAX, node("Sqrt", "p", "q"), node("Mul", "q q", "y")],  # no way back: by the numbers
    "normalized scores": [node("Sigmoid", "z", "s"), node("ReduceSum", "s axis1", "t"), node("Div", "s t", "y")],
}  # fmt: skip


@pytest.mark.parametrize("ending", SAME)
@pytest.mark.parametrize("batch", ["n", 1])
def test_probabilities_become_the_logits_behind_them(tmp_path: Path, ending: str, batch: int | str) -> None:
    logits = rewritten(classifier(*SAME[ending], constants=CONSTANTS, batch=batch), tmp_path)
    z = logits_by_definition(images())
    if ending == "normalized scores":
        scores = 1 / (1 + np.exp(-z))
        expected = scores / scores.sum(1, keepdims=True)
    else:
        expected = softmax(z)
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    assert not sum_to_one(logits)  # never probabilities once more
    assert opened(classifier(*SAME[ending], constants=CONSTANTS, batch=batch), tmp_path).notes


def test_logits_are_those_that_the_softmax_saw_scaled_by_its_temperature(tmp_path: Path) -> None:
    ending = node("Mul", "z half", "t"), node("Softmax", "t", "y", axis=1)
    logits = rewritten(classifier(*ending, constants=CONSTANTS), tmp_path)
    np.testing.assert_allclose(logits, logits_by_definition(images()) / 2, atol=1e-4)
    graph = onnx.load(tmp_path / "ours.onnx").graph
    assert {n.op_type for n in graph.node}.isdisjoint({"Softmax", "Log", "Clip"})


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21])
def test_a_softmax_at_any_opset(tmp_path: Path, opset: int) -> None:
    model = classifier(node("Softmax", "z", "y", axis=1), opset=opset)
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


@pytest.mark.parametrize("kind", [onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16])
@pytest.mark.parametrize("probabilities", [False, True])
def test_outputs_of_another_float_type(tmp_path: Path, kind: int, probabilities: bool) -> None:
    first = [SOFTMAX, node("Cast", "p", "y", to=kind)] if probabilities else [node("Cast", "z", "y", to=kind)]
    model = classifier(*first)
    model.graph.output[0].type.tensor_type.elem_type = kind
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)


def test_classes_selected_and_reordered_after_the_softmax(tmp_path: Path) -> None:
    order = np.array([4, 2, 1])
    model = classifier(SOFTMAX, node("Gather", "p some", "y", axis=1), constants={"some": order})
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images())[:, order], atol=1e-4)


def test_logits_stay_what_they_are(tmp_path: Path) -> None:
    """A Softmax inside, logits between 0 and 1 for small images, and a Softmax over the images do not count as a final Softmax."""
    z = logits_by_definition(images())
    np.testing.assert_allclose(rewritten(classifier(node("Identity", "z", "y")), tmp_path), z, atol=1e-4)
    inside = SOFTMAX, node("Mul", "z p", "y")
    np.testing.assert_allclose(rewritten(classifier(*inside), tmp_path), z * softmax(z), atol=1e-4)
    assert opened(classifier(*inside), tmp_path).notes == []


@pytest.mark.parametrize(
    "ending",
    [
        [node("Sigmoid", "z", "y")],
        [node("Sigmoid", "z", "p"), node("Clip", "p zero one", "y")],
        [node("Sigmoid", "z", "p"), node("Reshape", "p flat", "y")],
        [node("Sigmoid", "z", "p"), node("Cast", "p", "d", to=onnx.TensorProto.DOUBLE), node("Cast", "d", "y", to=onnx.TensorProto.FLOAT)],
    ],
)  # fmt: skip
def test_independent_sigmoids_are_refused(tmp_path: Path, ending: list[NodeProto]) -> None:
    with pytest.raises(ExportError, match=r"is a Sigmoid of 5 numbers, one per class: this is a multi-label network"):
        opened(classifier(*ending, constants=CONSTANTS), tmp_path)


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_a_softmax_is_refused_where_an_image_may_have_several_classes(tmp_path: Path, kind: str) -> None:
    model = classifier(node(kind, "z", "y", axis=1))
    with pytest.raises(ExportError, match="its classes exclude each other, but --task multilabel"):
        opened(model, tmp_path, several=True)
    assert opened(model, tmp_path).classes == CLASSES
    assert opened(classifier(node("Identity", "z", "y")), tmp_path, several=True).classes == CLASSES


def test_sigmoids_beside_their_logits_are_refused_unless_the_user_says_which(tmp_path: Path) -> None:
    model = classifier(node("Sigmoid", "z", "y"), outputs=("z", "y"))
    with pytest.raises(ExportError, match="multi-label"):
        opened(model, tmp_path)
    assert opened(model, tmp_path, output_name="z").classes == CLASSES


@pytest.mark.parametrize(
    ("ending", "note"),
    [
        ([node("Identity", "z", "y")], "logit of the second"),
        ([node("Sigmoid", "z", "y")], "logit of the second"),
        ([node("Sigmoid", "z", "p"), node("Clip", "p tiny below", "y")], "logit of the second"),
        ([node("Sigmoid", "z", "p"), node("Squeeze", "p axis1", "y")], "logit of the second"),
        ([node("Sigmoid", "z", "p"), node("Mul", "p half", "q"), node("Add", "q q", "y")], "logit of the second"),
    ],
)
def test_one_number_is_two_classes(tmp_path: Path, ending: list[NodeProto], note: str) -> None:
    model = classifier(*ending, classes=1, constants=CONSTANTS)
    logits = rewritten(model, tmp_path)
    z = logits_by_definition(images(), 1)
    assert logits.shape == (4, 2)
    if ending[-1].op_type == "Add":  # no way back, and nothing says that it is a probability
        np.testing.assert_allclose(logits[:, 1:], 1 / (1 + np.exp(-z)), atol=1e-5)
    else:
        np.testing.assert_allclose(softmax(logits)[:, 1:], 1 / (1 + np.exp(-z)), atol=1e-5)
    assert note in opened(model, tmp_path).notes[0]


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_of_logits_and_probabilities_the_logits_are_taken(tmp_path: Path, batch: int | str) -> None:
    model = classifier(
        node("Softmax", "z", "y", axis=1), node("ArgMax", "z", "k", axis=1), node("ReduceMax", "y", "top", axes=[1]),
        outputs=("y", "k", "top", "z"), batch=batch,
    )  # fmt: skip
    np.testing.assert_allclose(rewritten(model, tmp_path), logits_by_definition(images()), atol=1e-4)
    assert opened(model, tmp_path).provenance["output"] == "z"


def test_several_heads_are_listed_and_chosen_by_name(edgekit: Run, tmp_path: Path) -> None:
    other = {"v": np.ones((3, 4), np.float32)}
    model = classifier(node("MatMul", "m v", "y"), outputs=("z", "y"), constants=other)  # neither says its shape
    with pytest.raises(ExportError) as caught:
        opened(model, tmp_path)
    assert "has the outputs z undefined (6, 5), y float (6, 4); which one holds the logits is ambiguous" in str(
        caught.value
    )
    assert "--output-name NAME" in caught.value.hint
    np.testing.assert_allclose(rewritten(model, tmp_path, output_name="z"), logits_by_definition(images()), atol=1e-4)
    with pytest.raises(ExportError, match="--output-name q: is not a float output; the outputs are z"):
        opened(model, tmp_path, output_name="q")
    (tmp_path / "photos").mkdir()
    Image.fromarray(images()[0]).save(tmp_path / "photos" / "a.png")
    code, _, err = edgekit("export", "timm:resnet10t", "--calibrate", tmp_path / "photos", "--output-name", "y")
    assert (code, err.count("\n")) == (2, 1)
    assert "--output-name: timm:resnet10t is not an ONNX file" in err


def test_a_map_of_classes_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"its output y is \(6, 3, 8, 8\) for 6 images, not logits"):
        opened(classifier(node("Identity", "x", "y")), tmp_path)


def test_a_softmax_of_a_batch_of_its_own_is_refused(tmp_path: Path) -> None:
    """A Softmax over the images instead of the classes: the output for an image depends on the others."""
    with pytest.raises(ExportError, match="depends on the other images of the batch"):
        opened(classifier(node("Softmax", "z", "y", axis=0)), tmp_path)


def test_the_bundle_of_a_network_that_ends_in_probabilities_predicts_them(edgekit: Run, tmp_path: Path) -> None:
    """The command line from end to end: `predict` shows the file's own output."""
    model = classifier(*SAME["clip"], constants=CONSTANTS)
    onnx.save(model, tmp_path / "theirs.onnx")
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(images(24)):
        Image.fromarray(image // 4 * (1 + i % 4)).save(tmp_path / "photos" / f"{i}.png")
    code, out, err = edgekit(
        "export", tmp_path / "theirs.onnx", "--calibrate", tmp_path / "photos", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225",
        "--output", tmp_path / "bundle", "--target", "onnx", "--precision", "fp32", "--json",
    )  # fmt: skip
    assert code == 0, err
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.provenance["output_is"] == "Softmax"
    pixels, golden = bundle.golden()
    np.testing.assert_allclose(softmax(golden), softmax(logits_by_definition(pixels)), atol=1e-5)
    code, out, err = edgekit("predict", tmp_path / "bundle", tmp_path / "photos" / "0.png", "--json")
    assert code == 0, err
    said = json.loads(out.splitlines()[0])
    expected = softmax(logits_by_definition(np.array(Image.open(tmp_path / "photos" / "0.png"))[None]))
    assert said["classes"][0]["probability"] == pytest.approx(expected.max(), abs=1e-3)


class Ends(nn.Module):
    """A torch network with a final operation."""

    def __init__(self, classes: int, ending: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.head, self.ending = nn.Linear(3, classes), ending

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ending(self.head(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("classes", "ending", "reading"),
    [
        (4, lambda z: z, "logits"),
        (4, lambda z: torch.softmax(z, 1), "probabilities"),
        (4, lambda z: torch.softmax(z, 1).clamp(0, 1).reshape(-1, 4), "probabilities"),
        (4, lambda z: torch.log_softmax(z, 1), "logits"),
        (1, lambda z: z, "one logit"),
        (1, torch.sigmoid, "one probability"),
        (1, lambda z: torch.sigmoid(z).double().float().squeeze(1).unsqueeze(1), "one probability"),
    ],
)
def test_networks_of_torch_are_read_as_graphs_are(
    classes: int, ending: Callable[[torch.Tensor], torch.Tensor], reading: Reading
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Ends(classes, ending).eval()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = network(x).numpy()
        found, count, _ = as_classifier(network, 8, "it")
        logits = found(x).numpy()
    assert count == logits.shape[1] == max(classes, 2)
    np.testing.assert_allclose(softmax(logits), softmax(to_logits(own, reading)), atol=1e-6)
    if reading == "probabilities":
        np.testing.assert_allclose(softmax(logits), own, atol=1e-6)


def test_a_torch_network_of_one_logit_is_exported_as_two_classes(
    edgekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_logit.py").write_text(
        "from torch import nn\n\ndef network():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1), nn.Sigmoid())\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(images(8)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "names.txt").write_text("bad\ngood\n")
    code, _, err = edgekit(
        "export", "one_logit:network", "--calibrate", "photos", "--size", 8, "--mean", 0, "--std", 1, "--target", "onnx", "--precision",
        "fp32", "--classes", "names.txt", "--output", "bundle",
    )  # fmt: skip
    assert code == 0, err
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.classes == ["bad", "good"]
    assert any("its last Sigmoid is left out" in note for note in bundle.manifest.provenance["notes"])
    pixels, golden = bundle.golden()
    assert golden.shape[1] == 2
    np.testing.assert_allclose(answers(tmp_path / "bundle" / "model.onnx", pixels), golden, atol=1e-4)
    (tmp_path / "names.txt").write_text("bad\ngood\nugly\n")
    code, _, err = edgekit(
        "export", "one_logit:network", "--calibrate", "photos", "--size", 8, "--mean", 0, "--std", 1, "--classes", "names.txt",
    )  # fmt: skip
    assert code == 2
    assert "has 2 classes, but --classes names.txt names 3" in err
