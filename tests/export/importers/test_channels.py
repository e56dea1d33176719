"""Networks trained on BGR, statistics for pixels in 0 to 255, and warnings about meaningless outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export.importers.onnx_file import from_onnx
from edgekit.export.importers.request import model_request
from edgekit.export.importers.statistics import in_unit_range
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.runtimes import open_session
from tests.helpers.foreign import MEAN, STD, answers, classifier, images, node, weights

Run = Callable[..., tuple[int, str, str]]
BLUE_FIRST = {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}


class FirstOrLast(nn.Module):
    """Predicts 0 if its first input channel is the brightest, 1 for the second, 2 for the third; with a convolution, or without one."""

    def __init__(self, convolution: bool = True) -> None:
        super().__init__()
        self.convolution: nn.Module = nn.Identity()
        if convolution:
            self.convolution = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            with torch.no_grad():
                self.convolution.weight.zero_()
                for i in range(3):
                    self.convolution.weight[i, i] = 1 / 9
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(8 * torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


class Patches(FirstOrLast):
    """The same for the four pixels of a patch, as at the start of YOLO's networks: no convolution reads the image itself."""

    def __init__(self) -> None:
        super().__init__(convolution=False)
        self.convolution = nn.Conv2d(12, 3, 1, bias=False)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.eye(3).repeat(1, 4)[..., None, None] / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1))


def network() -> nn.Module:
    """A factory for the command line."""
    return FirstOrLast().eval()


def patches() -> nn.Module:
    """Likewise."""
    return Patches().eval()


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Twelve noisy images for each of blue, green and red, in a folder of that name."""
    rng = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        (tmp_path / "colors" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 90, (8, 8, 3))
            pixels[..., channel] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "colors" / name / f"{i}.png")
    return tmp_path / "colors"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        FirstOrLast().eval(), (torch.rand(1, 3, 8, 8),), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["onnx", "network", "patches"])
def test_a_bgr_network_sees_blue_first_in_every_runtime(
    edgekit: Run, colors: Path, theirs: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to ONNX Runtime and OpenVINO, float and INT8: folders blue, green, red are classes 0, 1, 2."""
    monkeypatch.chdir(tmp_path)
    model = theirs if kind == "onnx" else f"test_export_channels:{kind}"
    (tmp_path / "test_export_channels.py").write_bytes(Path(__file__).read_bytes())
    code, out, err = edgekit(
        "export", model, "--calibrate", colors, "--evaluate", colors, "--size", 8, "--channels", "bgr", "--mean", "104,117,123", "--std", "58",
        "--target", "onnx", "--target", "openvino", "--output", "bundle", "--json",
    )  # fmt: skip
    assert code == 0, err
    content = json.loads(out)
    assert content["accuracy"]["top1"] == 1.0
    assert {v["id"]: v["accuracy"]["top1"] for v in content["variants"]} == dict.fromkeys(
        ["onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"], 1.0
    )
    provenance = Bundle.open(tmp_path / "bundle").manifest.provenance
    assert provenance["channels"] == "bgr"
    assert any("channels in BGR order" in note for note in content["notes"])
    assert any("divided by 255" in note for note in content["notes"])
    np.testing.assert_allclose(provenance["normalization"]["mean"], np.array([104, 117, 123]) / 255)
    for path in (tmp_path / "bundle").glob("*.onnx"):
        nodes = list(onnx.load(path).graph.node)
        turned = [n for n in nodes if n.op_type == "Gather"]
        assert bool(turned) is (kind == "patches")  # else the weights of the convolution are turned instead
        qdq_names = {name for n in nodes if n.op_type.endswith("QuantizeLinear") for name in (*n.input, *n.output)}
        assert not qdq_names & {
            name for n in turned for name in (*n.input, *n.output)
        }  # what comes before the first layer stays in float
    code, out, err = edgekit(
        "export", model, "--calibrate", colors, "--evaluate", colors, "--size", 8, "--mean", "104,117,123", "--std", "58", "--target", "onnx",
        "--precision", "fp32", "--output", "rgb", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["accuracy"]["top1"] == pytest.approx(1 / 3)  # red and blue swapped: what the option is for


@pytest.mark.parametrize("convolution", [True, False])
def test_turned_weights_compute_what_the_turned_image_does(tmp_path: Path, convolution: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5)) if convolution else nn.Softplus()
        net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5 if convolution else 3, 4)).eval()
    model = PixelClassifier(net, **BLUE_FIRST, channels="bgr")
    export_onnx(model, tmp_path / "model.onnx", image_size=8, classes=list("abcd"))
    x = (images()[..., ::-1] / 255 - np.array(BLUE_FIRST["mean"])) / np.array(BLUE_FIRST["std"])
    with torch.no_grad():
        expected = net(torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(model(torch.from_numpy(images())).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", images()), expected, atol=1e-5)
    kinds = [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node]
    assert ("Gather" in kinds) is not convolution
    openvino = open_session("openvino", tmp_path / "model.onnx", threads=1)
    np.testing.assert_allclose(openvino.run(images()), expected, atol=1e-4)
    openvino.close()


def test_a_graph_of_pixels_takes_bgr_too(tmp_path: Path) -> None:
    """uint8 input: the graph normalizes itself, and its channels are reversed before that."""
    model = classifier(node("Identity", "z", "y"))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node[0].input[0] = "float"
    model.graph.node.insert(0, node("Cast", "x", "float", to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "theirs.onnx")
    network = from_onnx(model_request(str(tmp_path / "theirs.onnx")), None)
    assert network.graph is not None
    network.graph.write(tmp_path / "ours.onnx", 8, 0.0, 1.0, "bgr", list("abcde"))
    expected = images()[..., ::-1].mean((1, 2)) @ weights().astype(np.float64)
    np.testing.assert_allclose(answers(tmp_path / "ours.onnx", images()), expected, rtol=1e-4)
    np.testing.assert_allclose(network.graph.run(0.0, 1.0, "bgr")(images()), expected, rtol=1e-4)
    openvino = open_session("openvino", tmp_path / "ours.onnx", threads=1)
    np.testing.assert_allclose(openvino.run(images()), expected, rtol=1e-4)
    openvino.close()


def test_the_channels_of_rgb_networks_stay(tmp_path: Path) -> None:
    plain, explicit = PixelClassifier(FirstOrLast(), MEAN, STD), PixelClassifier(FirstOrLast(), MEAN, STD, "rgb")
    with torch.no_grad():
        assert torch.equal(plain(torch.from_numpy(images())), explicit(torch.from_numpy(images())))


# --- mean and std


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None),
        (0.0, 1.0, None),
        (0.0, 1 / 255, None),
        (0.5, 0.5, None),
        (-1.0, 1.0, None),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        (127.5, 127.5, (0.5, 0.5)),
        (127.5, 128.0, (0.5, 128 / 255)),
        ((104.0, 117.0, 123.0), 1.0, ((104 / 255, 117 / 255, 123 / 255), 1 / 255)),  # Caffe
        (0.0, 255.0, (0.0, 1.0)),
        (0.0, 256.0, (0.0, 256 / 255)),
        ((103.94, 116.78, 123.68), (58.8, 58.8, 58.8), ((103.94 / 255, 116.78 / 255, 123.68 / 255), (58.8 / 255,) * 3)),
    ],
)
def test_statistics_in_either_range(mean: object, std: object, expected: tuple[object, object] | None) -> None:
    unit = in_unit_range(mean, std, "it")  # type: ignore[arg-type]
    if expected is None:
        assert unit == (mean, std, False)
        return
    np.testing.assert_allclose(unit[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(unit[1], expected[1], rtol=1e-6)
    assert unit[2]


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        (123.675, 0.229, "one is for pixels in [0, 1], the other for pixels in 0 to 255"),
        (0.485, 58.395, "one is for pixels in [0, 1], the other for pixels in 0 to 255"),
        ((123.0, 116.0, 103.0), (58.0, 57.0, 0.225), "one is for pixels in [0, 1], the other"),
        (-123.675, 1.0, "does not fit pixels in [0, 1] or in 0 to 255"),
        (32768.0, 32768.0, "does not fit pixels in [0, 1] or in 0 to 255"),
    ],
)
def test_statistics_that_do_not_belong_together(mean: object, std: object, says: str) -> None:
    with pytest.raises(ExportError) as caught:
        in_unit_range(mean, std, "it")  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["onnx", "factory"])
def test_statistics_of_both_ranges_give_the_same_network(
    edgekit: Run, colors: Path, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_export_channels.py").write_bytes(Path(__file__).read_bytes())
    model = theirs if kind == "onnx" else "test_export_channels:network"
    logits = []
    for mean, std in (("0.485,0.456,0.406", "0.229,0.224,0.225"), ("123.675,116.28,103.53", "58.395,57.12,57.375")):
        code, _, err = edgekit(
            "export", model, "--calibrate", colors, "--size", 8, "--mean", mean, "--std", std, "--target", "onnx", "--precision", "fp32",
            "--output", f"bundle-{len(logits)}",
        )  # fmt: skip
        assert code == 0, err
        logits.append(answers(tmp_path / f"bundle-{len(logits)}" / "model.onnx", images()))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


# --- answers that say nothing


def test_one_class_for_every_image_is_warned_of(edgekit: Run, colors: Path, theirs: Path, tmp_path: Path) -> None:
    """Dark images for a network for bright ones: a ReLU sets everything to zero, and every image is class 0."""
    code, out, err = edgekit(
        "export", theirs, "--calibrate", colors, "--evaluate", colors, "--mean", "1", "--std", "1", "--target", "onnx", "--precision", "fp32",
        "--output", tmp_path / "bundle",
    )  # fmt: skip
    assert code == 0, err
    assert "WARNING: the trained model itself gives one class, blue, for all 36 test images" in " ".join(out.split())
    notes = Bundle.open(tmp_path / "bundle").manifest.provenance["notes"]
    assert sum(note.startswith("WARNING: the trained model itself gives one class") for note in notes) == 1
    code, out, _ = edgekit(
        "export", theirs, "--calibrate", colors, "--evaluate", colors, "--mean", "0.5", "--std", "1", "--target", "onnx", "--precision", "fp32",
        "--output", tmp_path / "good",
    )  # fmt: skip
    assert code == 0
    assert "WARNING" not in out
