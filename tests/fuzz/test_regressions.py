"""What the fuzzer found in models that are forged, with digests that are right: each once ended in a traceback."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import BundleError, RecipeError
from edgekit.models.weights import load_weights
from edgekit.runtimes.predictor import Predictor
from tests.helpers.tiny_bundle import make_bundle, some_images

Change = Callable[[onnx.ModelProto], object]


def forged(folder: Path, name: str, content: bytes) -> Bundle:
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    for variant in manifest["variants"]:
        for file in variant["files"]:
            if file["path"] == name:
                file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


def classify(bundle: Bundle, variant: str) -> None:
    predictor = Predictor(bundle, variant, threads=1)
    try:
        predictor.predict_pixels(some_images(1))
    finally:
        predictor.close()


def batch_of(size: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size

    return change


def of_other_channels(model: onnx.ModelProto) -> None:
    """The second convolution takes the first one's input, which has 3 channels and not 8."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    convolutions[1].input[0] = convolutions[0].input[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (batch_of(2**40), "batch size is 1099511627776"),
        (batch_of(2**31), "batch size is 2147483648"),
        (of_other_channels, "onnxruntime cannot run the model"),
    ],
)
def test_a_graph_that_loads_and_cannot_be_run(change: Change, reason: str, tmp_path: Path) -> None:
    make_bundle(tmp_path, openvino=False)
    model = onnx.load(tmp_path / "model.onnx")
    change(model)
    bundle = forged(tmp_path, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleError) as refused:
        classify(bundle, "onnx-fp32")
    said = str(refused.value)
    assert reason in said or "cannot load" in said  # a release of the runtime may see it when it loads the graph
    assert said.isprintable()


@pytest.mark.parametrize("kind", ["quantized", "sparse", "meta"])
def test_weights_that_are_no_plain_tensors(kind: str, tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    weights = dict(network.state_dict())
    weights["weight"] = {
        "quantized": lambda: torch.quantize_per_tensor(weights["weight"], 0.1, 0, torch.qint8),
        "sparse": weights["weight"].to_sparse,
        "meta": lambda: torch.empty(2, 3, device="meta"),
    }[kind]()
    torch.save(weights, tmp_path / "weights.pth")
    before = network.weight.clone()
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path / "weights.pth"))) as refused:
        load_weights(network, str(tmp_path / "weights.pth"), "--weights", "mine")
    assert str(refused.value).isprintable()
    assert torch.equal(network.weight, before)


def test_a_name_that_is_no_utf8_in_a_graph_of_openvino(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    xml = (tmp_path / "model.xml").read_bytes()
    for pattern in (rb'(<layer [^>]*name=")', rb'(element_type=")', rb'(<net name=")', rb'(version=")'):
        changed = re.sub(pattern, lambda found: found[1] + b"\xfe\xff", xml, count=1)
        assert changed != xml
        bundle = forged(tmp_path, "model.xml", changed)
        with suppress(BundleError):  # any other exception fails the test; a name of no importance changes nothing
            classify(bundle, "openvino-fp16")
