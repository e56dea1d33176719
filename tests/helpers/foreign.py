"""Small ONNX graphs as other exporters write them, for the tests of their rewriting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.export.importers.onnx_file import from_onnx
from edgekit.export.importers.request import Network, model_request
from edgekit.runtimes import open_session
from edgekit.sizes import ImageSize, SizeLike

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZED = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
FLOAT = TensorProto.FLOAT
SIZE, CLASSES = 8, 5


def images(count: int = 4, size: SizeLike = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *ImageSize.of(size), 3), dtype=np.uint8)


def weights(classes: int = CLASSES) -> np.ndarray:
    return (6 * np.random.default_rng(1).standard_normal((3, classes))).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=f"{kind}_{outputs.split(maxsplit=1)[0]}", **attributes
    )


def classifier(
    *ending: NodeProto, outputs: Sequence[str] = ("y",), batch: int | str = "n", classes: int = CLASSES, opset: int = 17,
    constants: dict[str, np.ndarray] | None = None, shape: Sequence[object] | None = None,
) -> ModelProto:  # fmt: skip
    """z = mean(x) @ w, and what `ending` makes of it."""
    # Opset 18 moved the axes from an attribute to an input.
    mean = (
        node("ReduceMean", "x", "m", axes=[2, 3], keepdims=0)
        if opset < 18
        else node("ReduceMean", "x axes", "m", keepdims=0)
    )
    tensors = {"w": weights(classes), **({} if opset < 18 else {"axes": np.array([2, 3])}), **(constants or {})}
    made = helper.make_graph(
        [mean, node("MatMul", "m w", "z"), *ending], "g", [helper.make_tensor_value_info("x", FLOAT, shape or [batch, 3, SIZE, SIZE])],
        [onnx.ValueInfoProto(name=o) if o != "y" else helper.make_tensor_value_info(o, FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 18 else 10)


def logits_by_definition(pixels: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """z of `classifier`, in float64."""
    return ((pixels / 255 - np.array(MEAN)) / np.array(STD)).mean((1, 2)) @ weights(classes).astype(np.float64)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = open_session("onnxruntime", path, threads=1)
    try:
        return session.run(pixels)
    finally:
        session.close()


def opened(model: ModelProto, folder: Path, **how: Any) -> Network:
    onnx.save(model, folder / "theirs.onnx")
    return from_onnx(model_request(str(folder / "theirs.onnx"), **{**NORMALIZED, **how}), None)


def rewritten(model: ModelProto, folder: Path, pixels: np.ndarray | None = None, **how: Any) -> np.ndarray:
    """The logits of a rewritten graph, which must be the same whatever the batch and those of the reference."""
    network = opened(model, folder, **how)
    assert network.graph is not None
    assert network.pixels.size is not None
    pixels = images(size=network.pixels.size) if pixels is None else pixels
    ours = folder / "ours.onnx"
    network.graph.write(ours, network.pixels.size, MEAN, STD, "rgb", [f"c{i}" for i in range(network.classes)])
    together = answers(ours, pixels)
    np.testing.assert_allclose(np.concatenate([answers(ours, p[None]) for p in pixels]), together, atol=1e-4)
    np.testing.assert_allclose(network.graph.run(MEAN, STD, "rgb")(pixels), together, atol=1e-4)
    return together
