"""Foreign torch networks: outputs of every form become logits."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import ExportError
from edgekit.export.importers.outputs import as_classifier
from tests.helpers.torch_networks import IMAGES, agrees, answer

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
