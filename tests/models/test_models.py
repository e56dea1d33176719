"""Encoders by name, stems and widths, heads, and models on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import RecipeError, RunError
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.heads import ProjectionHead, kept_layers
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.resnet import ResNet
from edgekit.models.selective import SelectiveKernels
from edgekit.models.store import Pretrained, load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.recipe import Architecture


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("resnet18", 32, 512),
        ("torchvision:resnet18", 64, 512),
        ("timm:resnet18", 32, 512),
        ("mobilenet_v3_small", 32, 1024),
        ("squeezenet1_1", 64, 512),
        ("timm:vit_tiny_patch16_224", 32, 192),
        ("torchvision:vit_b_16", 32, 768),
        ("shufflenet_v2_x0_5", 64, 1024),
    ],
)
def test_networks_of_both_libraries_give_one_vector_an_image(name: str, size: int, features: int) -> None:
    encoder = build_encoder(Architecture(name=name), size).eval()
    assert encoder.feature_dim == features
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, features)


def test_resnet18_has_torchvisions_size_at_width_one() -> None:
    import torchvision

    ours = build_encoder(Architecture(name="resnet18", stem="imagenet"), 224)
    theirs = torchvision.models.resnet18(weights=None)
    assert parameters(ours) == parameters(theirs) - parameters(theirs.fc)


@pytest.mark.parametrize(("width", "features"), [(0.25, 128), (0.5, 256), (2.0, 1024)])
def test_the_width_multiplies_every_stage(width: float, features: int) -> None:
    encoder = build_encoder(Architecture(name="resnet18", width=width), 32)
    assert encoder.feature_dim == features
    assert encoder.network.conv1.out_channels == round(64 * width)


def test_the_stem_follows_the_image_size() -> None:
    def stem(size: int, choice: str = "auto") -> tuple[int, int, bool]:
        network = build_encoder(Architecture(name="resnet18", width=0.25, stem=choice), size).network  # type: ignore[arg-type]
        return network.conv1.kernel_size[0], network.conv1.stride[0], isinstance(network.maxpool, nn.Identity)

    assert stem(32) == stem(64) == (3, 1, True)
    assert stem(96) == stem(224) == (7, 2, False)
    assert stem(32, "strided") == (3, 2, True)
    assert stem(224, "cifar") == (3, 1, True)


@pytest.mark.parametrize(
    ("architecture", "size", "message"),
    [
        (Architecture(name="resnet81"), 32, r"unknown network 'resnet81' \(did you mean .*resnet18"),
        (Architecture(name="keras:resnet18"), 32, "unknown library 'keras'"),
        (Architecture(name="mobilenet_v3_small"), 16, r"16 px is too small .* total stride is 32"),
        (Architecture(name="resnet18", stem="imagenet"), 16, r"16 px is too small .* total stride is 32"),
        (Architecture(name="mobilenet_v3_small", width=0.5), 32, "no width multiplier"),
        (Architecture(name="mobilenet_v3_small", stem="cifar"), 32, "no such stem"),
        (
            Architecture(name="torchvision:vit_b_16"),
            40,
            r"40 px is not a multiple of the 16-px patches .* \(use 32 or 48 px",
        ),
        (Architecture(name="timm:vit_tiny_patch16_224"), 40, r"40 px is not a multiple of the 16-px patches"),
        (
            Architecture(name="timm:vit_tiny_patch16_224"),
            8,
            r"8 px is not a multiple of the 16-px patches .* \(use 16 px",
        ),
        (
            Architecture(name="timm:vit_tiny_patch16_224", patch_size=5),
            32,
            r"not a multiple of the 5-px patches .* \(use 30 or 35",
        ),
        (
            Architecture(name="mobilenet_v3_small", patch_size=4),
            32,
            "encoder.patch_size is 4, but mobilenet_v3_small takes no patch",
        ),
        (Architecture(name="timm:convnext_atto", patch_size=4), 32, "takes no patch size"),
        (Architecture(name="resnet18", patch_size=4), 32, "takes no patch size"),
        (
            Architecture(name="resnet18", selective_kernels=True),
            32,
            r"resnet18 has no bottleneck blocks .* \(use .*resnet50",
        ),
        (Architecture(name="mobilenet_v3_small", selective_kernels=True), 32, "has no such option .* timm:skresnet18"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(architecture: Architecture, size: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_encoder(architecture, size, "pretrain.encoder")


@pytest.mark.parametrize(
    ("name", "width", "selective", "millions"),
    [
        ("resnet50", 1, False, 24), ("resnet50", 1, True, 35), ("resnet50", 2, False, 94), ("resnet50", 2, True, 140),
        ("resnet101", 2, True, 257), ("resnet152", 1, True, 89), ("resnet152", 3, True, 795),
    ],
)  # fmt: skip
def test_the_encoders_have_the_sizes_of_simclr_v2s_table_1(
    name: str, width: int, selective: bool, millions: int
) -> None:
    with torch.device("meta"):
        network = ResNet(name, width, "imagenet", selective)
    assert round(parameters(network) / 1e6) == millions


def naive_selective_kernels(module: SelectiveKernels, maps: np.ndarray) -> np.ndarray:
    """Google's sk_conv2d after the streams, image by image and channel by channel."""
    with torch.no_grad():
        streams = module.relu(module.bn(module.streams(torch.from_numpy(maps)))).double().numpy()
    channels = streams.shape[1] // 2
    mixed = np.zeros((len(maps), channels, *streams.shape[2:]))
    squeeze, norm, mix = module.squeeze[0].weight[:, :, 0, 0], module.squeeze[1], module.mix.weight[:, :, 0, 0]
    for i, image in enumerate(streams):
        content = [(image[c] + image[channels + c]).mean() for c in range(channels)]
        middle = squeeze.detach().double().numpy() @ np.array(content)
        mean, variance = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
        middle = np.maximum(0, (middle - mean) / np.sqrt(variance + norm.eps))
        logits = mix.detach().double().numpy() @ middle
        for c in range(channels):
            a, b = np.exp(logits[c]), np.exp(logits[channels + c])
            mixed[i, c] = (a * image[c] + b * image[channels + c]) / (a + b)
    return mixed


def test_selective_kernels_mix_two_streams_as_the_formula_says() -> None:
    torch.manual_seed(0)
    module = SelectiveKernels(3, 5, stride=2)
    nn.init.normal_(module.mix.weight)
    module.train()(torch.randn(8, 3, 9, 9))  # running statistics that are not 0 and 1
    maps = torch.randn(2, 3, 8, 8)
    expected = naive_selective_kernels(module.eval(), maps.numpy())
    torch.testing.assert_close(module(maps).double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_selective_kernels_bring_resnet_ds_stem_and_shortcuts() -> None:
    selective = Architecture(name="resnet50", width=0.125, selective_kernels=True)
    large, small = (build_encoder(selective, size).network for size in (96, 32))
    assert [m.stride for m in large.conv1 if isinstance(m, nn.Conv2d)] == [(2, 2), (1, 1), (1, 1)]
    assert isinstance(small.conv1, nn.Conv2d), "Google's code leaves the CIFAR stem as it is"
    strided = [m for m in large.modules() if isinstance(m, nn.AvgPool2d)]
    assert len(strided) == 3, "one for each stage with a stride"
    assert not any(m.stride == (2, 2) and m.kernel_size == (1, 1) for m in large.modules() if isinstance(m, nn.Conv2d))


def test_the_projection_head_is_simclr_v2s() -> None:
    head = ProjectionHead(32, 64, 16, layers=3)
    assert [m.out_features for m in head.modules() if isinstance(m, nn.Linear)] == [64, 64, 16]
    assert all(m.bias is None for m in head.modules() if isinstance(m, nn.Linear))
    assert not isinstance(head.layers[-1], nn.Sequential), "no normalization or ReLU after the last layer"
    assert head(torch.rand(4, 32)).shape == (4, 16)


@pytest.mark.parametrize(("keep", "widths"), [(0, []), (1, [64]), (2, [64, 64])])
def test_kept_layers_are_the_heads_own(keep: int, widths: list[int]) -> None:
    head = ProjectionHead(32, 64, 16, layers=3).eval()
    kept = head.keep(keep)
    assert kept.widths() == widths
    features = torch.rand(4, 32)
    expected = features
    for layer in head.layers[:keep]:
        expected = layer(expected)
    assert torch.equal(kept(features), expected)
    fresh = kept_layers(32, widths)
    fresh.load_state_dict(kept.state_dict(), strict=True)


def test_never_all_layers_are_kept() -> None:
    with pytest.raises(ValueError, match="cannot keep 3 of 3"):
        ProjectionHead(32, 64, 16, layers=3).keep(3)


def test_pixels_are_normalized_as_the_formula_says() -> None:
    pixels = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    expected = (pixels.double() / 255 - 0.4) / 0.3
    torch.testing.assert_close(normalize(pixels, 0.4, 0.3).permute(0, 2, 3, 1).double(), expected, atol=1e-6, rtol=0)


def small(classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    model = Classifier.build(Architecture(name="resnet10", width=0.125), 16, [f"c{i}" for i in range(classes)], [24])
    nn.init.normal_(model.head.weight)
    return model.eval()


def test_a_classifier_comes_back_from_disk_with_the_same_logits(tmp_path: Path) -> None:
    model = small()
    assert sorted(save_classifier(tmp_path, model)) == ["model.json", "model.safetensors"]
    loaded = load_classifier(tmp_path)
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(PixelClassifier(loaded, 0.5, 0.25)(pixels), PixelClassifier(model, 0.5, 0.25)(pixels))
    assert loaded.classes == model.classes
    assert not loaded.training


def test_a_pretrained_encoder_comes_back_from_disk(tmp_path: Path) -> None:
    architecture = Architecture(name="resnet10", width=0.125)
    encoder = build_encoder(architecture, 16)
    model = Pretrained(architecture, 16, encoder, ProjectionHead(encoder.feature_dim, 24, 8, 2)).eval()
    save_pretrained(tmp_path, model)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_pretrained(tmp_path)(images), model(images))


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path, small())
    with pytest.raises(RunError, match="holds a classifier, not a pretrained"):
        load_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(RunError, match=r"model\.safetensors: damaged"):
        load_classifier(tmp_path)
    weights.write_bytes(whole)
    spec = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**spec, "classes": ["a", "b"]}))
    with pytest.raises(RunError, match="not the weights of this model"):
        load_classifier(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(RunError, match=r"model\.json: damaged"):
        load_classifier(tmp_path)
    weights.unlink()
    (tmp_path / "model.json").write_text(json.dumps(spec))
    with pytest.raises(RunError, match="cannot be read"):
        load_classifier(tmp_path)
