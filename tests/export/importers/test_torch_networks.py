"""Foreign torch networks: their modes, their auxiliary heads, and their published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from edgekit.errors import ExportError
from edgekit.export.importers.modules import from_timm, from_torchvision, published_digests
from edgekit.export.importers.outputs import as_classifier
from edgekit.export.importers.request import model_request
from edgekit.files import sha256
from tests.helpers.torch_networks import IMAGES, answer


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
