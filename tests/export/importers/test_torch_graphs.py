"""Foreign torch networks: fused branches, attention and pooling, exported as a float ONNX that agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import ExportError
from edgekit.export.importers.outputs import as_classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.prepare import fused
from tests.helpers.torch_networks import agrees, pixels


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
