"""Families of networks end to end: one step of SimCLR, the disk and back, and as students the exported graph."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.store import load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.models.strided import pick_before_convolving
from edgekit.onnx_graph.build import export_onnx
from edgekit.recipe import Architecture
from edgekit.recipe.methods import ProjectionConfig, SimCLRConfig
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.method import Views

FAMILIES = [
    (Architecture(name="resnet10", width=0.125), 16, 64),
    (Architecture(name="resnet14", width=0.125, selective_kernels=True), 16, 256),
    (Architecture(name="resnet14", width=0.125, selective_kernels=True, stem="imagenet"), 33, 256),
    (Architecture(name="mobilenet_v3_small"), 32, 1024),
    (Architecture(name="timm:vit_tiny_patch16_224", patch_size=8), 16, 192),
    (Architecture(name="timm:test_convnext"), 32, 64),
    (Architecture(name="timm:efficientnet_lite0"), 32, 1280),
]
IDS = ["resnet", "selective kernels", "resnet-d stem", "mobilenet", "vit", "convnext", "efficientnet-lite"]


@pytest.mark.parametrize(("architecture", "size", "features"), FAMILIES, ids=IDS)
def test_a_family_goes_through_pretraining_the_disk_and_the_export(
    architecture: Architecture, size: int, features: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = SimCLRConfig(encoder=architecture, projection=ProjectionConfig(layers=2, output=8))
    method = build_method(config, size, 10)
    assert method.model.encoder.feature_dim == features
    before = {name: parameter.detach().clone() for name, parameter in method.model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(4, 3, size, size, generator=generator) for _ in range(2)]
    # Adam's first step is of one size whatever the gradient. SGD's is not: four images of one pixel in the last BatchNorm give
    # EfficientNet gradients of 1e3, and a network in which half a unit in the last place of a weight moves a logit by up to 26 %.
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    method(Views(views, torch.arange(4), generator)).value.backward()
    optimizer.step()
    moved = [name for name, parameter in method.model.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) > len(before) / 3, "hardly anything was trained"

    save_pretrained(tmp_path / "pretrained", method.model)
    images = torch.rand(2, 3, size, size)
    pretrained = load_pretrained(tmp_path / "pretrained")
    torch.testing.assert_close(pretrained(images), method.model.eval()(images))

    student = Classifier(pretrained.architecture, size, ["a", "b", "c"], pretrained.encoder)
    nn.init.normal_(student.head.weight)
    save_classifier(tmp_path / "student", student)
    model = PixelClassifier(load_classifier(tmp_path / "student"), 0.5, 0.25).eval()
    export_onnx(model, tmp_path / "student.onnx", image_size=size, classes=student.classes)
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    (logits,) = session.run(None, {"image": pixels.numpy()})
    with torch.no_grad():
        expected = student.eval().double()(normalize(pixels, 0.5, 0.25).double())
        rounding = (model(pixels) - expected).abs().max() / expected.abs().max()
    # Either kind of float32 kernel is at most 1e-6 off here; a graph that computes something else is off by far more than 1e-4.
    assert rounding < 1e-4, "the network is too ill-conditioned to compare anything with"
    torch.testing.assert_close(
        torch.from_numpy(logits).double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0
    )


@pytest.mark.parametrize("shape", [(4, 3, 9, 8), (125, 8, 16, 16), (7, 32, 8, 8)])
def test_strided_convolutions_of_one_pixel_compute_the_same_and_train(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(shape[1], 16, 1, stride=2, bias=False)
    images = torch.randn(*shape).to(memory_format=torch.channels_last)
    expected = convolution(images)
    plain = torch.nn.functional.conv2d(images.contiguous(), convolution.weight, stride=2)  # not channels-last: safe
    plain.square().sum().backward()
    gradient, convolution.weight.grad = convolution.weight.grad, None
    pick_before_convolving(convolution)
    torch.testing.assert_close(convolution(images), expected)  # another kernel, which may add up in another order
    for _ in range(30):
        convolution.weight.grad = None
        convolution(images).square().sum().backward()
    torch.testing.assert_close(convolution.weight.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize(
    "name", ["timm:mobileone_s0", "timm:repvgg_a0", "timm:efficientnet_lite0", "mobilenet_v3_small"]
)
def test_students_for_int8_learn_on_small_images(name: str) -> None:
    torch.manual_seed(0)
    student = Classifier.build(Architecture(name=name), 32, ["a", "b"], [])
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    images, labels = torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last), torch.arange(8) % 2
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(student(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.9 * losses[0]
