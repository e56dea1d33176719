"""Foreign torch networks on the command line, and what cannot be exported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.modules import from_timm
from edgekit.export.importers.request import model_request
from tests.helpers.torch_networks import pixels

Run = Callable[..., tuple[int, str, str]]
FACTORIES = """
import threading
import torch
from torch import nn

class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 2)
    def forward(self, images):
        features = self.body(images)
        return {"logits": self.head(features) * 20, "features": features}

def several():
    return Tuple()

def softmax():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2), nn.Softmax(1))

def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 1))

def labels():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2), nn.Sigmoid())

class Odd(nn.Module):
    def forward(self, images):
        return torch.special.i0e(images).mean((2, 3))

def odd():
    return Odd()

class Untraceable(nn.Module):
    def forward(self, images):
        if torch.jit.is_tracing():
            raise LookupError("not like this")
        return images.mean((2, 3))

def untraceable():
    return Untraceable()

class Locked(Tuple):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

def locked():
    return Locked()

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))

def meta():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2)).to("meta")

def script():
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))

def trace():
    return torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), torch.zeros(2, 3, 16, 16))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_networks.py").write_text(FACTORIES)
    for i in range(12):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(12, 16)[i]).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


COMMAND = ("--calibrate", "photos", "--size", "16", "--mean", "0.5", "--std", "0.25", "--target", "onnx", "--precision", "fp32")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("several", "its output logits is exported"),
        ("softmax", "its last Softmax is left out"),
        ("one", "0 and z"),
        ("lazy", "verified"),
        ("script", "verified"),
        ("trace", "verified"),
    ],
)
def test_answers_of_every_form_on_the_command_line(edgekit: Run, here: Path, name: str, says: str) -> None:
    code, out, err = edgekit("export", f"my_networks:{name}", *COMMAND, "--evaluate", "photos")
    assert code == 0, err
    assert says in " ".join(out.split())
    assert "verified" in out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("labels", "ends in a Sigmoid"),
        ("odd", "cannot be exported as ONNX opset 17: Exporting the operator 'aten::special_i0e'"),
        ("locked", "the network cannot be copied: TypeError: cannot pickle"),
        ("meta", "meta: cannot be moved to the CPU"),
        ("untraceable", "cannot be exported as ONNX opset 17: LookupError: not like this"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(edgekit: Run, here: Path, name: str, says: str) -> None:
    code, out, err = edgekit("export", f"my_networks:{name}", *COMMAND)
    assert (code, out) == (2, "")
    assert says in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not (here / "export").exists() or not list((here / "export").iterdir())


def test_a_checkpoints_average_is_taken_said_and_chosen(edgekit: Run, here: Path) -> None:
    raw, ema = (timm.create_model("test_resnet", num_classes=2).state_dict() for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": ema, "epoch": 3}, "both.pth")
    command = ("export", "timm:test_resnet", *COMMAND[:3], "32", *COMMAND[-4:], "--weights", "both.pth")
    code, out, err = edgekit(*command)
    assert code == 0, err
    assert "they are an average of the weights over training (EMA)" in " ".join(out.split())
    provenance = Bundle.open(here / "export" / "test_resnet").manifest.provenance
    assert (provenance["weights_key"], provenance["weights_averaged"]) == ("state_dict_ema", True)
    code, out, err = edgekit(*command, "--weights-key", "state_dict")
    assert code == 0, err
    assert "EMA" not in out
    assert Bundle.open(here / "export" / "test_resnet").manifest.provenance["weights_key"] == "state_dict"
    for arguments, says in (
        ((*command, "--weights-key", "state"), "holds no weights named state"),
        ((*command[:-2], "--weights-key", "state"), "--weights-key state: no file of weights was given"),
    ):
        code, _, err = edgekit(*arguments)
        assert code == 2
        assert says in err.strip().splitlines()[-1]


def test_a_torchscript_file_is_called_what_it_is(edgekit: Run, here: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save("model.pt")
    for arguments in (("model.pt",), ("timm:test_resnet", "--weights", "model.pt")):
        code, _, err = edgekit("export", *arguments, *COMMAND)
        assert code == 2
        assert "is a TorchScript archive" in err.strip().splitlines()[-1]
        assert "damaged" not in err


def test_networks_without_a_classifier_are_refused(here: Path) -> None:
    with pytest.raises(EdgekitError, match="timm:vit_small_patch14_dinov2: timm builds it without a classifier"):
        from_timm(model_request("timm:vit_small_patch14_dinov2", size=28), None)


def test_whatever_the_library_raises_is_one_line(here: Path) -> None:
    for name, size in (("timm:bat_resnext26ts", 64), ("torchvision:inception_v3", 32), ("timm:crossvit_tiny_240", 17)):
        with pytest.raises(EdgekitError) as caught:
            import_model(model_request(name, calibrate="photos", size=size), here)
        assert "\n" not in str(caught.value)
        assert "--size" in str(caught.value)
