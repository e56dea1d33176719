"""Initial weights: every common style of tensor names, and a clear one-line error for every file that does not fit."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.files import sha256
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.resnet import ResNet
from edgekit.recipe import Architecture

SMALL = Architecture(name="resnet10", width=0.125)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A state dict with values that no new network has."""
    torch.manual_seed(1)
    weights = {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in network.state_dict().items()}
    return {name: t.contiguous() for name, t in weights.items()}


@pytest.fixture
def small() -> dict[str, Tensor]:
    return weights_of(ResNet("resnet10", 0.125, "cifar"))


def saved(folder: Path, content: Any, name: str = "w.pth") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def build(path: str, architecture: Architecture = SMALL, size: int = 16) -> Encoder:
    return build_encoder(architecture.model_copy(update={"weights": path}), size, "pretrain.encoder")


def holds(encoder: Encoder, weights: dict[str, Tensor]) -> bool:
    own = encoder.network.state_dict()
    return all(torch.equal(own[name], weights[name]) for name in own)


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def moco(weights: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint of MoCo's code: query encoder with its head, key encoder, queue."""
    other = {name: torch.zeros_like(t) for name, t in weights.items()}
    head = {"module.encoder_q.fc.0.weight": torch.rand(4, 64), "module.encoder_q.fc.2.weight": torch.rand(4, 4)}
    queue = {"module.queue": torch.rand(4, 8), "module.queue_ptr": torch.zeros(1)}
    tensors = under("module.encoder_k.", other) | under("module.encoder_q.", weights) | head | queue
    return {"epoch": 3, "arch": "resnet18", "state_dict": tensors, "optimizer": {"state": {}, "param_groups": []}}


def cut(weights: dict[str, Tensor], children: dict[str, str]) -> dict[str, Tensor]:
    """Names as in `nn.Sequential(*list(resnet.children())[:-1])`."""
    return {children[n.partition(".")[0]] + "." + n.partition(".")[2]: t for n, t in weights.items()}


CUT = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
CIFAR_CUT = {"conv1": "0", "bn1": "1", "layer1": "2", "layer2": "3", "layer3": "4", "layer4": "5"}
HEAD = {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}


@pytest.mark.parametrize(
    ("style", "prefix", "unused"),
    [
        (lambda w: w, "", {}),
        (lambda w: w | HEAD, "", {"fc": 2}),
        (lambda w: {"state_dict": under("module.", w | HEAD)}, "module.", {"module.fc": 2}),
        (lambda w: {"model": w, "args": argparse.Namespace(lr=0.1), "epoch": 1}, "", {}),
        (lambda w: under("encoder.network.", w) | under("head.layers.", HEAD), "encoder.network.", {"head": 2}),
        (moco, "module.encoder_q.", {"module.encoder_q.fc": 2, "module.encoder_k": 72, "module.queue": 1, "module.queue_ptr": 1}),
        (lambda w: {"state_dict": under("backbone.", w) | under("momentum_backbone.", w) | under("projector.", HEAD)},
         "backbone.", {"momentum_backbone": 72, "projector": 2}),
        (lambda w: {"state_dict": under("backbone.", cut(w, CUT)) | under("projection_head.", HEAD)}, "backbone.", {"projection_head": 2}),
        (lambda w: under("backbone.", {n.replace("downsample", "shortcut"): t for n, t in cut(w, CIFAR_CUT).items()}), "backbone.", {}),
        (lambda w: {n: t for n, t in w.items() if "num_batches" not in n}, "", {}),
        (lambda w: {n: t.half() if t.is_floating_point() else t for n, t in w.items()}, "", {}),
    ],
    ids=["plain", "torchvision", "ddp", "timm", "edgekit", "moco", "solo-learn", "lightly", "lightly-cifar", "old", "half"],
)  # fmt: skip
def test_each_key_style_fills_the_network(
    style: Any,
    prefix: str,
    unused: dict[str, int],
    small: dict[str, Tensor],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    weights = {n: t.half().float() if t.is_floating_point() else t for n, t in small.items()}
    path = saved(tmp_path, style(weights))
    encoder = build(path)
    assert holds(encoder, weights)
    loaded = encoder.loaded
    assert loaded is not None
    assert (loaded.prefix, loaded.unused, loaded.sha256) == (prefix, unused, sha256(Path(path)))
    assert loaded.tensors == len(weights) - (12 if "old" in request.node.name else 0)
    assert all(name in str(loaded) for name in unused)


def test_safetensors_are_recognized_by_their_content(small: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(small, tmp_path / "weights.bin")
    assert holds(build(str(tmp_path / "weights.bin")), small)


def test_a_torchvision_resnet_and_its_timm_sibling_fit_ours(tmp_path: Path) -> None:
    for library in (torchvision.models.resnet18(weights=None), timm.create_model("resnet18")):
        weights = weights_of(library)
        encoder = build(saved(tmp_path, weights), Architecture(name="resnet18"), 96)
        library.load_state_dict(weights)
        library.fc = nn.Identity()
        images = torch.rand(2, 3, 96, 96)
        torch.testing.assert_close(encoder.eval()(images), library.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "size"), [("torchvision:mobilenet_v3_small", 32), ("timm:vit_tiny_patch16_224", 32)])
def test_networks_of_the_libraries_take_their_own_checkpoints(name: str, size: int, tmp_path: Path) -> None:
    library, _, model = name.partition(":")
    whole = timm.create_model(model, img_size=size) if library == "timm" else torchvision.models.get_model(model)
    encoder = build(saved(tmp_path, weights_of(whole)), Architecture(name=name), size)
    assert holds(encoder, weights_of(whole))
    assert encoder.loaded is not None
    assert sum(encoder.loaded.unused.values()) == 2, "weight and bias of the classifier"


class _Code:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


def test_code_in_a_pickle_never_runs(small: dict[str, Tensor], tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Code(witness)))
    for path in (saved(tmp_path, {"state_dict": small, "hook": _Code(witness)}), str(tmp_path / "plain.pkl")):
        with pytest.raises(RecipeError, match=r"pretrain\.encoder\.weights: .*") as caught:
            build(path)
        assert "\n" not in str(caught.value)
    assert not witness.exists()
    with pytest.raises(
        RecipeError, match=r"holds more than weights \((posix|nt)\.system\).*never loaded.*save only its weights"
    ):
        build(saved(tmp_path, {"state_dict": small, "hook": _Code(witness)}))


def without(weights: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda w: without(w, "bn1.weight", "bn1.bias"), r"2 missing: bn1\.weight, bn1\.bias \(check that pretrain\.encoder\.name"),
        (lambda w: w | {"layer5.0.weight": torch.rand(1)}, r"1 unexpected: layer5\.0\.weight"),
        (lambda w: w | {"bn1.weight": torch.rand(9)}, r"1 of its tensors have another shape: bn1\.weight \(9,\) instead of \(8,\)"),
        (lambda w: w | {"bn1.weight": torch.full((8,), torch.nan)}, r"NaN or infinite values, in bn1\.weight"),
        (lambda w: w | {"conv1.weight": torch.rand(8, 3, 7, 7)},
         r"has a stem of 7x7 pixels, but the network has one of 3x3 .*encoder\.stem to imagenet .*an ImageNet ResNet"),
        (lambda w: weights_of(ResNet("resnet10", 0.25, "cifar")), r"\d+ of its tensors have another shape: .*, … .*with its width"),
        (lambda w: weights_of(torchvision.models.squeezenet1_1()), r"none of its tensors has a name of this network: the file has features"),
        (lambda w: {"epoch": 3, "loss": 0.1}, r"holds no state dict; found epoch, loss"),
        (lambda w: [1, 2], r"holds no state dict; found a list"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "stem", "width", "other network", "no tensors", "list"],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(content: Any, message: str, small: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"pretrain\.encoder\.weights: .*{message}") as caught:
        build(saved(tmp_path, content(small)))
    assert "\n" not in str(caught.value)


def test_a_cifar_checkpoint_for_an_imagenet_stem_says_so(small: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stem of 3x3 pixels.*7x7.*set pretrain\.encoder\.stem to cifar, or strided"):
        build(saved(tmp_path, small), SMALL, 96)


def test_another_image_size_of_a_vit_says_so(tmp_path: Path) -> None:
    weights = weights_of(timm.create_model("vit_tiny_patch16_224", img_size=48))
    with pytest.raises(RecipeError, match=r"pos_embed \(1, 10, 192\) instead of \(1, 5, 192\).*positional embedding"):
        build(saved(tmp_path, weights), Architecture(name="timm:vit_tiny_patch16_224"), 32)


def test_damaged_and_missing_files_are_one_line(small: dict[str, Tensor], tmp_path: Path) -> None:
    whole = Path(saved(tmp_path, small)).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    stored = safetensors.torch.save(small)
    (tmp_path / "half.safetensors").write_bytes(stored[: len(stored) // 2])
    (tmp_path / "text.pth").write_text("not weights at all")
    (tmp_path / "empty.pth").touch()
    for name in ("half.pth", "half.safetensors", "text.pth", "empty.pth"):
        with pytest.raises(RecipeError, match=rf"{name}: damaged, or not a file of weights") as caught:
            build(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="no such file"):
        build(str(tmp_path / "none.pth"))
    with pytest.raises(RecipeError, match="cannot be read"):
        build(str(tmp_path))
