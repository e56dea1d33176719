"""Networks built again from the channels that pruning left, without torch-pruning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.errors import RecipeError, RunError
from edgekit.models.channels import channels_of, prunable
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.store import load_classifier, save_classifier
from edgekit.recipe import Architecture, parse

SMALL = {"name": "resnet10", "width": 0.25, "stem": "strided"}
CHANNELS = {"conv1": 12, "layer1.0.conv1": 4, "layer1.0.conv2": 12, "layer4.0.conv2": 20, "layer4.0.downsample.0": 20}


def pruned(**changes: object) -> Architecture:
    return Architecture.model_validate({**SMALL, "channels": {**CHANNELS, **changes}})


def test_what_follows_from_the_channels_follows() -> None:
    encoder = build_encoder(pruned(), 16).eval()
    layers = dict(encoder.network.named_modules())
    assert encoder.feature_dim == 20
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 20)
    assert layers["layer1.0.conv2"].weight.shape == (12, 4, 3, 3)
    assert layers["layer2.0.conv1"].weight.shape[1] == 12
    for name in ("bn1", "layer1.0.bn2"):
        norm = layers[name]
        assert norm.num_features == 12
        assert {norm.weight.shape, norm.bias.shape, norm.running_mean.shape, norm.running_var.shape} == {(12,)}
    assert channels_of(encoder.network, build_encoder(Architecture.model_validate(SMALL), 16).network) == CHANNELS
    encoder.train()(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_depthwise_convolutions_follow_with_their_groups() -> None:
    whole = build_encoder(Architecture(name="timm:lcnet_050"), 32)
    name, layer = next((name, m) for name, m in prunable(whole.network).items() if name.endswith("conv_stem"))
    encoder = build_encoder(Architecture(name="timm:lcnet_050", channels={name: layer.out_channels - 4}), 32).eval()
    depthwise = next(m for m in encoder.network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == layer.out_channels - 4
    assert depthwise.weight.shape[:2] == (layer.out_channels - 4, 1)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.feature_dim)


def test_a_stored_pruned_network_gives_the_same_outputs_when_it_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier.build(pruned(), 16, ["a", "b"], []).eval()
    nn.init.normal_(model.head.weight)
    save_classifier(tmp_path, model)
    again = load_classifier(tmp_path)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert again.architecture.channels == CHANNELS


def test_a_whole_network_is_described_as_before(tmp_path: Path) -> None:
    save_classifier(tmp_path, Classifier.build(Architecture.model_validate(SMALL), 16, ["a", "b"], []))
    assert "channels" not in json.loads((tmp_path / "model.json").read_text())["architecture"]


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ({"conv9": 4}, "x.channels: the network has no layer conv9 to prune (did you mean conv1"),
        ({"bn1": 4}, "x.channels: the network has no layer bn1 to prune"),
        ({"conv1": 999}, r"x.channels.conv1: 999 channels are more than the 16 of the whole network"),
        ({"layer1.0.conv2": 4}, "these numbers of channels do not fit each other"),
    ],
)
def test_channels_that_do_not_fit_are_one_line(channels: dict[str, int], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_encoder(Architecture.model_validate({**SMALL, "channels": channels}), 16, "x")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_description_cannot_ask_for_more_than_the_whole_network(tmp_path: Path) -> None:
    save_classifier(tmp_path, Classifier.build(pruned(), 16, ["a", "b"], []))
    spec = json.loads((tmp_path / "model.json").read_text())
    spec["architecture"]["channels"]["conv1"] = 1 << 40
    (tmp_path / "model.json").write_text(json.dumps(spec))
    with pytest.raises(RunError, match="more than the 16 of the whole network"):
        load_classifier(tmp_path)


def test_published_weights_are_of_the_whole_network() -> None:
    student = {"name": "timm:lcnet_050", "weights": "pretrained", "channels": {"conv_stem": 4}}
    with pytest.raises(RecipeError, match="published weights are of the whole one"):
        parse({"distill": {"student": student}})
