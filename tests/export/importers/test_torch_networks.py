"""Foreign torch networks: fused branches, attention, and outputs of every form, exported as a float ONNX that agrees."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, ExportError
from edgekit.export.importers.import_model import import_model
from edgekit.export.importers.modules import from_timm, from_torchvision, published_digests
from edgekit.export.importers.outputs import as_classifier
from edgekit.export.importers.request import model_request
from edgekit.files import sha256
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.prepare import fused
from edgekit.runtimes import open_session

Run = Callable[..., tuple[int, str, str]]


def pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def trained(network: nn.Module) -> nn.Module:
    """Norms and layer scales that differ between channels, as after training: a new network would hide a wrong fusion."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                lows = {"running_mean": -0.2, "running_var": 0.5, "weight": 0.5, "bias": -0.2}
                for name, low in lows.items():
                    tensor = getattr(module, name)
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
        for name, parameter in network.named_parameters():
            if "gamma" in name or "layer_scale" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.2)
    return network.eval()


def agrees(network: nn.Module, size: int, path: Path) -> None:
    """The ONNX, fused and exported as in the pipeline, gives the network's outputs for every batch size."""
    model, images = PixelClassifier(network, 0.5, 0.25).eval(), pixels(3, size)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    export_onnx(fused(model, size), path, image_size=size, classes=[str(i) for i in range(expected.shape[1])])
    session = open_session("onnxruntime", path, threads=1)
    found = np.concatenate([session.run(images[:1]), session.run(images[1:])])
    session.close()
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


FUSING = [
    ("fastvit_t8", 64), ("mobileone_s0", 32), ("repvgg_a0", 32), ("repvit_m0_9", 64), ("repghostnet_050", 32), ("ghostnetv3_050", 64),
    ("levit_128s", 224), ("efficientvit_m0", 224), ("tiny_vit_5m_224", 224), ("shvit_s1", 64), ("iformer_t", 64),
    ("efficientvim_m1", 64), ("lcnetv2_base", 64), ("test_byobnet", 32),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(*case, marks=() if case[0] in {"fastvit_t8", "repghostnet_050"} else pytest.mark.extra)
        for case in FUSING
    ],
)
def test_networks_that_fuse_are_fused_once_and_answer_as_before(name: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = trained(timm.create_model(name, num_classes=5))
    model = PixelClassifier(network, 0.5, 0.25).eval()
    once = fused(model, size)
    if name != "test_byobnet":
        assert sum(1 for _ in once.modules()) < sum(1 for _ in model.modules())
        assert once is not model
    twice = fused(once, size)
    with torch.no_grad():
        images = torch.from_numpy(pixels(2, size))
        expected = model(images)
        for other in (once, twice):
            assert (other(images) - expected).abs().max() <= 1e-3 * expected.abs().max()
    agrees(network, size, tmp_path / "model.onnx")


class Branches(nn.Module):
    """Two parallel convolutions, and a fusion that is correct, forgets one of them, or fails."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
        self.whole: nn.Conv2d | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.how == "raises":
            raise LookupError("no such branch")
        if self.whole is not None:
            return self.whole(images)
        return self.first(images) + self.second(images)

    def reparameterize(self) -> None:
        first, second = self.first, self.second
        del self.first
        if self.how == "fails":
            raise AttributeError("no such branch")
        self.whole = nn.Conv2d(3, 5, 3)
        with torch.no_grad():
            for one, two, whole in zip(first.parameters(), second.parameters(), self.whole.parameters(), strict=True):
                whole.copy_(one + two if self.how == "right" else one)


@pytest.mark.parametrize("how", ["right", "wrong", "fails"])
def test_a_fusion_that_computes_something_else_is_not_taken(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Branches(how), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model = PixelClassifier(network, 0.5, 0.25).eval()
    assert (fused(model, 16) is model) == (how != "right")
    agrees(network, 16, tmp_path / "model.onnx")


class Encoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.encoder(self.patches(images).flatten(2).transpose(1, 2))
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("fast", [True, False])
def test_attention_leaves_its_fast_path_for_the_export_and_returns_to_it(fast: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=5)
    nn.init.normal_(vision.heads.head.weight)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        for network in (Encoded().eval(), vision.eval()):
            agrees(network, 16, tmp_path / "model.onnx")
            as_classifier(network, 16, "mine")
            with pytest.raises(ExportError, match="no such branch"):
                export_onnx(Branches("raises"), tmp_path / "none.onnx", image_size=8, classes=["a", "b"])
            assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Pooled(nn.Module):
    """Pooling by the function and by the module, to sizes that do not divide the map's size."""

    def __init__(self, size: object) -> None:
        super().__init__()
        self.convolution, self.size, self.head = nn.Conv2d(3, 8, 3), size, nn.LazyLinear(5)
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return self.head(
            torch.cat([functional.adaptive_avg_pool2d(maps, self.size).flatten(1), self.pool(maps).flatten(1)], 1)
        )


@pytest.mark.parametrize("size", [1, 7, (3, 5), (None, 4), 20])
def test_pooling_by_the_function_is_exported_as_by_the_module(size: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Pooled(size).eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, 16, 16))
    original = functional.adaptive_avg_pool2d
    agrees(network, 16, tmp_path / "model.onnx")
    assert functional.adaptive_avg_pool2d is original


Pair = namedtuple("Pair", ["features", "scores"])


@dataclass
class Described:
    """An output like that of Hugging Face's models."""

    logits: Tensor
    hidden: Tensor


class Plain(nn.Module):
    """Images to five different scores and eight features, and an output made from both."""

    def __init__(self, end: Callable[[Tensor, Tensor], object], classes: int = 5) -> None:
        super().__init__()
        self.convolution, self.classifier, self.end = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, classes), end

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = functional.gelu(self.convolution(images)).mean((2, 3))
        return 20 * self.classifier(features), features

    def forward(self, images: Tensor) -> object:
        return self.end(*self.scores(images))


def plain(end: Callable[[Tensor, Tensor], object], classes: int = 5) -> Plain:
    torch.manual_seed(0)
    return Plain(end, classes).eval()


def answer(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "end",
    [
        lambda s, f: s,
        lambda s, f: (s,),
        lambda s, f: [s],
        lambda s, f: {"out": s},
        lambda s, f: {"logits": s, "features": f},
        Described,
        lambda s, f: SimpleNamespace(logits=s, loss=None, other=f),
        lambda s, f: Pair(f, s),  # told apart by the number of names
        lambda s, f: (s, f.reshape(-1, 2, 2, 2)),
        lambda s, f: {"a": [f.sum(), s]},
        lambda s, f: s[:, :, None, None],
        lambda s, f: s.double(),
    ],
    ids=["itself", "tuple", "list", "dict", "logits", "dataclass", "namespace", "namedtuple", "map", "nested", "1x1", "double"],
)  # fmt: skip
def test_one_output_of_several_is_taken_where_it_is_clear_which(
    end: Callable[[Tensor, Tensor], object], tmp_path: Path
) -> None:
    network = plain(end)
    found, count, notes = as_classifier(network, 16, "mine", 5)
    assert count == 5
    torch.testing.assert_close(answer(found, IMAGES), network.scores(IMAGES)[0].detach(), check_dtype=False)
    parts = end(*network.scores(IMAGES))
    several = not isinstance(parts, Tensor) and not (hasattr(parts, "__len__") and len(parts) == 1 and "a" not in parts)
    assert any("is exported, out of" in note for note in notes) == several
    agrees(found, 16, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("end", "classes", "says"),
    [
        (lambda s, f: (s, s), 5, r"gives 0 \(4, 5\), 1 \(4, 5\) for 4 images, not logits \(4, 5\) in only one output"),
        (lambda s, f: (s, f), None, r"gives 0 \(4, 5\), 1 \(4, 8\) for 4 images, not logits \(4, classes\) in only one output"),
        (lambda s, f: (s, f), 3, r"in only one output"),
        (lambda s, f: f.reshape(-1, 2, 2, 2), 5, r"gives \(4, 2, 2, 2\) for 4 images"),
        (lambda s, f: s.sum(0), 5, r"gives \(5,\) for 4 images"),
        (lambda s, f: s.argmax(1), 5, r"gives \(4,\) for 4 images"),
        (lambda s, f: None, 5, r"gives a NoneType"),
        (lambda s, f: {"boxes": [{"x": 1}]}, 5, r"gives a dict"),
        (lambda s, f: s.sigmoid(), 5, r"ends in a Sigmoid over 5 classes, so it is a multi-label network"),
        (lambda s, f: s.sigmoid()[:, :, None, None].flatten(1).to(torch.float32), 5, r"ends in a Sigmoid"),
        (lambda s, f: functional.dropout(s, 0.5), 5, r"different outputs for the same images: part of it is in training mode"),
        (lambda s, f: functional.batch_norm(s, None, None, training=True), 5, r"beside other images|fails on images"),
        (lambda s, f: s / (s.abs().max() + 1), 5, r"depends on the other images of the batch"),
        (lambda s, f: s @ torch.zeros(3, 3), 5, r"fails on images of 16 px: RuntimeError.*\(give the image size"),
        (lambda s, f: s.nonexistent, 5, r"fails on images of 16 px: AttributeError"),
    ],
)  # fmt: skip
def test_answers_that_are_no_logits_are_one_line(
    end: Callable[[Tensor, Tensor], object], classes: int | None, says: str
) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        as_classifier(plain(end), 16, "mine", classes)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_softmax_cannot_say_that_an_image_has_several_classes() -> None:
    """Its logits are no logits of single classes: each class would be answered from a sigmoid that nobody trained."""
    for network in (nn.Sequential(plain(lambda s, f: s), nn.Softmax(1)), plain(lambda s, f: s.softmax(1))):
        with pytest.raises(ExportError, match="its classes exclude each other, but --task multilabel"):
            as_classifier(network, 16, "mine", 5, several=True)
    assert as_classifier(plain(lambda s, f: s), 16, "mine", 5, several=True)[1] == 5


@pytest.mark.parametrize(
    ("network", "module"),
    [
        (lambda: nn.Sequential(plain(lambda s, f: s), nn.Softmax(1)), True),
        (lambda: nn.Sequential(plain(lambda s, f: s), nn.Sequential(nn.Dropout(0.5), nn.Softmax(dim=-1))), True),
        (lambda: plain(lambda s, f: s.softmax(1)), False),
        (lambda: plain(lambda s, f: s.exp() / s.exp().sum(1, keepdim=True)), False),
        (lambda: plain(lambda s, f: {"probabilities": s.softmax(1)}), False),
    ],
)
def test_probabilities_become_logits_once(network: Callable[[], nn.Module], module: bool, tmp_path: Path) -> None:
    before = answer(network().eval(), IMAGES)
    before = before["probabilities"] if isinstance(before, dict) else before
    found, count, notes = as_classifier(network(), 16, "mine")
    logits = answer(found, IMAGES)
    assert count == 5
    assert float(logits.min()) < -1
    torch.testing.assert_close(logits.softmax(1), before)
    assert ("its last Softmax is left out" if module else "logarithms are the logits") in notes[-1]
    if module:
        torch.testing.assert_close(logits, plain(lambda s, f: s).scores(IMAGES)[0].detach())
    agrees(found, 16, tmp_path / "model.onnx")


def test_probabilities_of_zero_have_finite_logits(tmp_path: Path) -> None:
    found, _, _ = as_classifier(plain(lambda s, f: (s * 1000).softmax(1)), 16, "mine")
    logits = answer(found, IMAGES)
    assert logits.isfinite().all()
    assert (logits.softmax(1).max(1).values > 0.99).any()


def test_a_softmax_inside_stays_and_log_probabilities_are_logits() -> None:
    network = plain(lambda s, f: s.log_softmax(1))
    found, _, notes = as_classifier(network, 16, "mine")
    assert found is network
    assert notes == []

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate = plain(lambda s, f: s), nn.Softmax(1)

        def forward(self, images: Tensor) -> Tensor:
            scores = self.body(images)
            return scores * self.gate(scores)

    gated = Gate().eval()
    expected = answer(gated, IMAGES)
    found, _, notes = as_classifier(gated, 16, "mine")
    assert notes == []
    torch.testing.assert_close(answer(found, IMAGES), expected)
    both = nn.Sequential(gated, nn.Softmax(1)).eval()
    torch.testing.assert_close(answer(as_classifier(both, 16, "mine")[0], IMAGES), expected)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: plain(lambda s, f: s, 1), None),
        (lambda: plain(lambda s, f: s[:, 0], 1), None),
        (lambda: nn.Sequential(plain(lambda s, f: s, 1), nn.Sigmoid()), "its last Sigmoid is left out"),
        (lambda: plain(lambda s, f: s.sigmoid().squeeze(1), 1), "log-odds are the logits"),
    ],
)
def test_one_logit_is_two_classes(network: Callable[[], nn.Module], says: str | None, tmp_path: Path) -> None:
    single = plain(lambda s, f: s, 1).scores(IMAGES)[0].detach()
    found, count, notes = as_classifier(network(), 16, "mine", 2)
    assert count == 2
    logits = answer(found, IMAGES)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], single.sigmoid())
    torch.testing.assert_close(logits[:, 1:] - logits[:, :1], single, atol=1e-3, rtol=1e-3)
    assert "its single logit z becomes two, 0 and z" in notes[-1]
    assert says is None or says in notes[0]
    agrees(found, 16, tmp_path / "model.onnx")


def test_logits_that_look_like_probabilities_are_noted() -> None:
    _, _, notes = as_classifier(plain(lambda s, f: s.clamp(0, 1)), 16, "mine")
    assert "are between 0 and 1 and are taken as logits" in notes[-1]


def test_a_network_in_training_mode_or_half_precision_is_switched() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768), nn.Linear(768, 5)).half().train()
    found, count, notes = as_classifier(network, 16, "mine")
    assert (count, notes, found.training) == (5, [], False)
    assert answer(found, IMAGES).dtype == torch.float32


def test_heads_that_help_training_alone_are_left_out_and_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False, num_classes=4).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    opened = from_torchvision(model_request("torchvision:googlenet", weights=str(tmp_path / "w.pth"), size=64), None)
    assert "aux1 (" in opened.notes[0]
    assert "aux2 (" in opened.notes[0]
    assert opened.module is not None
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(answer(opened.module, images), answer(whole, images))


def test_timm_leaves_auxiliary_heads_out_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("inception_v3", aux_logits=True, num_classes=4).eval()
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "w.pth")
    opened = from_timm(model_request("timm:inception_v3", weights=str(tmp_path / "w.pth"), size=96), None)
    assert "AuxLogits (" in opened.notes[0]


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_distilled_networks_keep_both_heads(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=4).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    opened = from_timm(model_request(f"timm:{name}", weights=str(tmp_path / "w.pth")), None)
    assert opened.module is not None
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(answer(opened.module, images), answer(whole, images))
    assert "not used" not in opened.notes[0]


def test_the_pixels_of_published_inception_weights_are_transformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision builds them with transform_input=True, which the weights do not record: the file is recognized by its digest."""
    torch.manual_seed(0)
    whole = torchvision.models.googlenet(
        weights=None, aux_logits=False, transform_input=True, init_weights=False, num_classes=4
    ).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    how = model_request("torchvision:googlenet", weights=str(tmp_path / "w.pth"), size=64)
    images = torch.randn(2, 3, 64, 64)
    opened = from_torchvision(how, None)
    assert opened.module is not None
    assert not torch.allclose(answer(opened.module, images), answer(whole, images))
    assert any("transform_input" in note for note in opened.notes)
    monkeypatch.setattr(
        "edgekit.export.importers.modules.published_digests", lambda name: {sha256(tmp_path / "w.pth")[:8]}
    )
    opened = from_torchvision(how, None)
    assert opened.module is not None
    torch.testing.assert_close(answer(opened.module, images), answer(whole, images))


def test_published_digests_are_those_in_torchvisions_addresses() -> None:
    assert published_digests("googlenet") == {"1378be20"}
    assert published_digests("inception_v3") == {"0cc3c7bd"}


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


def test_an_ill_conditioned_network_is_not_taken_for_one_in_training_mode() -> None:
    """If float32 rounding alone changes the output for an image, float64 decides."""

    class IllConditioned(nn.Module):
        """Adds a rounding error that grows with the number of images: in float32 only, not in float64."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.head(x.mean((2, 3)))
            large = float(2**20 * len(x))
            return (z + large) - large

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = IllConditioned()
    found, count, _ = as_classifier(network, 16, "mine")
    assert (found, count) == (network, 5)
    training = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), IllConditioned())
    with pytest.raises(ExportError, match="the other images of the batch: part of it is in training mode"):
        as_classifier(training, 16, "mine")


def test_a_network_without_a_classifier_of_its_own_takes_that_of_the_weights(tmp_path: Path) -> None:
    """timm publishes EVA-02's small networks without a classifier, so their last layer does not give the number of classes."""
    network = timm.create_model("eva02_tiny_patch14_224", num_classes=3, img_size=28)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = from_timm(model_request("timm:eva02_tiny_patch14_224", size=28, weights=str(tmp_path / "w.pth")), 3)
    assert found.module is not None
    assert found.module(torch.zeros(1, 3, 28, 28)).shape == (1, 3)
    with pytest.raises(ExportError, match="has 3 classes, but --evaluate names 4"):
        from_timm(model_request("timm:eva02_tiny_patch14_224", size=28, weights=str(tmp_path / "w.pth")), 4)
