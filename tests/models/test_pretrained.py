"""Published weights: names and tags, the libraries' own caches, no network, the network's own normalization, positions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision.models as zoo
from huggingface_hub import constants

from edgekit.errors import RecipeError
from edgekit.models import pretrained
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.positions import interpolated
from edgekit.models.pretrained import Published, fetch, published, three
from edgekit.models.store import Pretrained, load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.models.weights import load_weights
from edgekit.recipe import Architecture

GIVEN = (0.5, 0.25)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLOSED = "http://127.0.0.1:1"  # a port that nothing listens on


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; whatever is asked of the network fails."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    for name in pretrained._PROXIES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def put(hub: Path, repository: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Put weights into the cache of the hub, as its library lays them out."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def test_timms_weights_come_from_the_hubs_cache_with_their_normalization_and_without_the_network(hub: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_resnet", num_classes=1000)
    own = published("timm", "test_resnet", "x")
    put(hub, own.repository, source.state_dict())
    encoder = build_encoder(
        Architecture(name="timm:test_resnet.r160_in1k", weights="pretrained"), 64, "x", GIVEN
    ).eval()
    assert encoder.loaded is not None
    assert encoder.loaded.file == own.name == "timm:test_resnet.r160_in1k"
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    source.reset_classifier(0)
    with torch.no_grad():
        expected = source.eval()(normalize(pixels, own.mean, own.std))
        assert torch.allclose(encoder(normalize(pixels, *GIVEN)), expected, atol=1e-5)


def test_torchvisions_weights_come_from_torch_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    source = zoo.squeezenet1_1()
    own = published("torchvision", "squeezenet1_1", "x")
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(source.state_dict(), tmp_path / "hub/checkpoints" / own.url.rpartition("/")[2])
    encoder = build_encoder(Architecture(name="torchvision:squeezenet1_1", weights="pretrained"), 64, "x", GIVEN)
    assert encoder.own == (own.mean, own.std) == IMAGENET
    assert torch.equal(encoder.network.features[0].weight, source.features[0].weight)


def test_edgekits_resnets_take_torchvisions_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    source = zoo.resnet18()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    url = published("torchvision", "resnet18", "x").url
    torch.save(source.state_dict(), tmp_path / "hub/checkpoints" / url.rpartition("/")[2])
    encoder = build_encoder(Architecture(name="resnet18", stem="imagenet", weights="pretrained"), 32, "x", GIVEN)
    assert torch.equal(encoder.network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"name": "timm:resnet18.a1_in2k"},
            r"x\.name: timm has no weights 'resnet18\.a1_in2k' \(did you mean resnet18\.a1_in1k",
        ),
        ({"name": "timm:resnet81.a1_in1k"}, r"x\.name: unknown network 'resnet81\.a1_in1k' \(did you mean"),
        ({"name": "torchvision:resnet18x"}, r"unknown network 'resnet18x' \(did you mean resnet18"),
        ({"name": "resnet18", "width": 0.5, "stem": "imagenet"}, "nobody publishes weights for resnet18 of this width"),
        ({"name": "resnet18"}, r"for the ImageNet stem \(set x\.stem to imagenet"),
        (
            {"name": "timm:vit_tiny_patch16_224"},
            r"images of 224 px.*here it gets 64 px \(use 224 px, or set x\.interpolate_positions",
        ),
        (
            {"name": "timm:resnet18.a1_in1k"},
            r"x\.weights: timm:resnet18\.a1_in1k is not in the cache, and 127\.0\.0\.1 cannot be reached",
        ),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(hub: Path, keys: dict[str, object], message: str) -> None:
    architecture = Architecture.model_validate({"weights": "pretrained", **keys})
    with pytest.raises(RecipeError, match=message) as caught:
        build_encoder(architecture, 64, "x", GIVEN)
    assert "\n" not in str(caught.value)


def test_offline_nothing_is_asked(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "_connect", lambda *a: pytest.fail("asked the network"))
    with pytest.raises(RecipeError, match=r"is not in the cache .*hub, and HF_HUB_OFFLINE is set"):
        fetch(published("timm", "resnet18.a1_in1k", "x"), "x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RecipeError, match="HF_HUB_OFFLINE is set"):
        fetch(published("torchvision", "resnet18", "x"), "x")


def test_a_url_without_a_connection_is_given_up_at_once(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(RecipeError, match=r"cannot be reached .*\(connect to the Internet once, or give the path"):
        fetch(Published("timm:x", 0.5, 0.5, 224, url=f"{CLOSED}/x-0123abcd.pth"), "x")
    assert not slept, "no retries"


def test_equal_statistics_become_one_number() -> None:
    assert three((0.5, 0.5, 0.5)) == 0.5
    assert three(IMAGENET[0]) == IMAGENET[0]


def test_a_network_with_its_own_normalization_is_stored_and_exported_with_it(tmp_path: Path) -> None:
    """Its images are converted while it trains; the exported graph has its own mean and std, and nothing else."""
    torch.manual_seed(0)
    architecture = Architecture(name="resnet10", width=0.125, mean=IMAGENET[0], std=IMAGENET[1])
    model = Classifier.build(architecture, 16, ["a", "b"], [], normalization=GIVEN).eval()
    torch.nn.init.normal_(model.head.weight)
    save_classifier(tmp_path, model)
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    again, exported = load_classifier(tmp_path), load_classifier(tmp_path)
    with torch.no_grad():
        trained = again(normalize(pixels, *GIVEN))
        assert torch.equal(trained, model(normalize(pixels, *GIVEN)))
        own = exported.encoder.without_conversion()
        assert own == IMAGENET
        assert torch.allclose(PixelClassifier(exported, *own)(pixels), trained, atol=1e-5)
        assert not torch.allclose(PixelClassifier(exported, *GIVEN)(pixels), trained, atol=1e-2)


def test_the_normalization_stays_with_the_encoder_of_a_pretraining(tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = Architecture(name="resnet10", width=0.125, mean=0.4, std=0.2)
    encoder = build_encoder(architecture, 16, "x", GIVEN)
    save_pretrained(tmp_path, Pretrained(architecture, 16, encoder, ProjectionHead(encoder.feature_dim, 8, 4, 2)))
    again = load_pretrained(tmp_path)
    assert (again.encoder.own, again.encoder.given) == ((0.4, 0.2), GIVEN)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.encoder(images), encoder.eval()(images))


def test_an_encoder_that_converts_must_know_what_it_gets() -> None:
    with pytest.raises(ValueError, match="normalization is needed"):
        build_encoder(Architecture(name="resnet10", width=0.125, mean=0.4, std=0.2), 16, "x")


def vit(library: str, image_size: int) -> tuple[torch.nn.Module, torch.nn.Parameter, int]:
    """A small ViT, its positional embedding, and the side of its grid."""
    if library == "timm":
        network = timm.create_model("test_vit", img_size=image_size, num_classes=0)
        return network, network.pos_embed, image_size // 16
    network = zoo.VisionTransformer(image_size, 32, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    return network, network.encoder.pos_embedding, image_size // 32


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_positions_of_a_file_are_interpolated_only_on_request(library: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (source, positions, old), (network, got, new) = vit(library, 64), vit(library, 96)
    torch.nn.init.normal_(positions)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    path = str(tmp_path / "vit.pth")
    with pytest.raises(RecipeError, match=r"another number of patches.*or x\.interpolate_positions to true"):
        load_weights(network, path, "x")
    load_weights(network, path, "x", adapt=interpolated)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    assert torch.equal(got[:, :1], positions[:, :1]), "the class token's is kept"
    assert torch.allclose(got[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, new * new, -1), atol=1e-6)


def test_the_recipes_key_asks_for_the_interpolation(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", img_size=64).state_dict(), tmp_path / "vit.pth")
    keys = {"name": "timm:test_vit", "weights": str(tmp_path / "vit.pth")}
    with pytest.raises(RecipeError, match="another number of patches"):
        build_encoder(Architecture.model_validate(keys), 96, "x")
    build_encoder(Architecture.model_validate({**keys, "interpolate_positions": True}), 96, "x")


def test_a_tag_alone_is_refused_and_so_is_a_key_of_no_file() -> None:
    from edgekit import recipe

    with pytest.raises(RecipeError, match=r"whose tag a1_in1k names published weights: add weights: pretrained"):
        recipe.parse({"distill": {"student": {"name": "timm:resnet18.a1_in1k"}}})
    with pytest.raises(RecipeError, match="weights_key is ema, but weights names no file"):
        recipe.parse(
            {"pretrain": {"encoder": {"name": "timm:resnet18", "weights": "pretrained", "weights_key": "ema"}}}
        )
    with pytest.raises(RecipeError, match="mean and std belong together"):
        recipe.parse({"pretrain": {"encoder": {"mean": 0.5}}})
