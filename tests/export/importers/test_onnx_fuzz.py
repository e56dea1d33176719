"""Damaged foreign graphs: every exception of onnx or ONNX Runtime becomes a one-line error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

from edgekit.errors import EdgekitError
from edgekit.export.importers.onnx_file import from_onnx
from edgekit.export.importers.request import model_request
from tests.helpers.foreign import MEAN, NORMALIZED, SIZE, STD, classifier, node

KINDS = [
    "Relu",
    "Reshape",
    "Softmax",
    "MatMul",
    "Concat",
    "Split",
    "Transpose",
    "Resize",
    "Gather",
    "Loop",
    "NonZero",
    "Nonsense",
]
Rng = np.random.Generator


def _pick(rng: Rng, things: object) -> object:
    listed = list(things)  # type: ignore[call-overload]
    return listed[rng.integers(len(listed))] if listed else None


def other_operator(model: ModelProto, rng: Rng) -> None:
    _pick(rng, model.graph.node).op_type = str(rng.choice(KINDS))  # type: ignore[union-attr]


def no_node(model: ModelProto, rng: Rng) -> None:
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def other_input(model: ModelProto, rng: Rng) -> None:
    names = [n for each in model.graph.node for n in (*each.input, *each.output)] + ["", "nowhere", "image"]
    chosen = _pick(rng, [n for n in model.graph.node if n.input])
    chosen.input[int(rng.integers(len(chosen.input)))] = str(rng.choice(names))  # type: ignore[union-attr]


def fewer_inputs(model: ModelProto, rng: Rng) -> None:
    chosen = _pick(rng, [n for n in model.graph.node if n.input])
    del chosen.input[int(rng.integers(len(chosen.input))) :]  # type: ignore[union-attr]


def other_attribute(model: ModelProto, rng: Rng) -> None:
    attribute = _pick(rng, [a for n in model.graph.node for a in n.attribute])
    if attribute is not None:
        attribute.i = int(rng.integers(-9, 9))  # type: ignore[attr-defined]
        for i in range(len(attribute.ints)):  # type: ignore[attr-defined]
            attribute.ints[i] = int(rng.integers(-9, 9))  # type: ignore[attr-defined]


def no_attributes(model: ModelProto, rng: Rng) -> None:
    del _pick(rng, [n for n in model.graph.node if n.attribute]).attribute[:]  # type: ignore[union-attr]


def other_weights(model: ModelProto, rng: Rng) -> None:
    tensor = _pick(rng, model.graph.initializer)
    shape = rng.integers(0, 5, rng.integers(0, 4))
    kind = rng.choice(["f4", "f8", "i8", "u1", "?"])
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, kind), tensor.name))  # type: ignore[union-attr]


def no_weights(model: ModelProto, rng: Rng) -> None:
    del model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]


def other_shape(model: ModelProto, rng: Rng) -> None:
    value = _pick(rng, (*model.graph.input, *model.graph.output))
    value.type.tensor_type.shape.dim.add().dim_value = int(rng.integers(-3, 9))  # type: ignore[union-attr]


def other_side(model: ModelProto, rng: Rng) -> None:
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[int(rng.integers(len(sides)))].dim_value = int(rng.choice([-(2**40), -1, 0, 1, 3, 2**40]))


def other_type(model: ModelProto, rng: Rng) -> None:
    value = _pick(rng, (*model.graph.input, *model.graph.output))
    value.type.tensor_type.elem_type = int(rng.integers(0, 24))  # type: ignore[union-attr]


def other_output(model: ModelProto, rng: Rng) -> None:
    names = [n for each in model.graph.node for n in (*each.input, *each.output)] + ["nowhere", ""]
    model.graph.output[0].name = str(rng.choice(names))


def other_opset(model: ModelProto, rng: Rng) -> None:
    model.opset_import[0].version = int(rng.choice([-1, 0, 1, 5, 6, 9, 12, 18, 24, 99]))


def twice(model: ModelProto, rng: Rng) -> None:
    model.graph.node.add().CopyFrom(_pick(rng, model.graph.node))  # type: ignore[arg-type]


CHANGES: list[Callable[[ModelProto, Rng], None]] = [
    other_operator, no_node, other_input, fewer_inputs, other_attribute, no_attributes, other_weights, no_weights, other_shape, other_side,
    other_type, other_output, other_opset, twice,
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[ModelProto]:
    """Graphs that can be exported: a few nodes, opset 18, and graphs written by torch."""
    folder = tmp_path_factory.mktemp("sound")
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.Softmax(1),
    )
    torch.onnx.export(
        net.eval(), (torch.rand(1, 3, SIZE, SIZE),), str(folder / "t.onnx"), dynamo=False, opset_version=17
    )
    ending = node("Softmax", "z", "p", axis=1), node("Reshape", "p flat", "y")
    flat = {"flat": np.array([-1, 5])}
    return [
        classifier(*ending, constants=flat),
        classifier(*ending, constants=flat, opset=18),
        onnx.load(folder / "t.onnx"),
    ]


def outcome(path: Path) -> str:
    """The one-line error of an export; empty if it succeeds. Other exceptions than EdgekitError are raised."""
    try:
        network = from_onnx(model_request(str(path), **NORMALIZED, size=SIZE), None)
        assert network.graph is not None
        network.graph.write(
            path.with_name("ours.onnx"), SIZE, MEAN, STD, "rgb", [f"c{i}" for i in range(network.classes)]
        )
    except EdgekitError as error:
        assert not path.with_name("ours.onnx").exists()
        return str(error)
    path.with_name("ours.onnx").unlink()
    return ""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_graphs_are_exported_or_refused_in_one_line(
    sound: list[ModelProto], tmp_path: Path, change: Callable[[ModelProto, Rng], None]
) -> None:
    lines = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        model = ModelProto()
        model.CopyFrom(sound[seed % len(sound)])
        for _ in range(1 + seed % 2):
            change(model, rng)
        (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
        lines.append(outcome(tmp_path / "theirs.onnx"))
    assert all("\n" not in line for line in lines)
    assert all("theirs.onnx" in line for line in lines if line), lines
    assert any(lines)


@pytest.mark.parametrize("kinds", [("Identity", "Cast"), ("Log", "Log"), ("Log", "Softmax"), ("Dropout", "Identity")])
def test_a_circle_ends(tmp_path: Path, kinds: tuple[str, str]) -> None:
    circle = node(kinds[0], "q", "y"), node(kinds[1], "y", "q", **({"to": 1} if kinds[1] == "Cast" else {}))
    onnx.save(classifier(*circle), tmp_path / "theirs.onnx")
    assert "theirs.onnx" in outcome(tmp_path / "theirs.onnx")
    trains = node("Dropout", "z half a", "y"), node("Identity", "b", "a"), node("Identity", "a", "b")
    onnx.save(classifier(*trains, constants={"half": np.float32(0.5)}), tmp_path / "theirs.onnx")
    assert "theirs.onnx" in outcome(tmp_path / "theirs.onnx")


def test_flipped_and_missing_bytes(sound: list[ModelProto], tmp_path: Path) -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        content = bytearray(sound[seed % len(sound)].SerializeToString())
        if seed % 3:
            for at in rng.integers(0, len(content), rng.integers(1, 5)):
                content[at] ^= 1 << int(rng.integers(8))
        else:
            del content[int(rng.integers(len(content))) :]
        (tmp_path / "theirs.onnx").write_bytes(content)
        line = outcome(tmp_path / "theirs.onnx")
        assert not line or "theirs.onnx" in line
