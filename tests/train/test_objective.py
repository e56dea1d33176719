"""What classifiers learn: the losses of multi-label classification against naive NumPy ones, and a classification's as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch.nn import functional as F

from edgekit.recipe import Multilabel, parse
from edgekit.train.distill.losses import binary_distillation
from edgekit.train.evaluate.probes import knn_shares, linear_logits
from edgekit.train.objective import AnyClasses, OneClass, asymmetric, objective_of, of_test

LOGITS = arrays(np.float64, (5, 3), elements=st.floats(-12, 12))
TRUTH = arrays(np.int64, (5, 3), elements=st.integers(0, 1))
BCE, ASYMMETRIC = AnyClasses(Multilabel()), AnyClasses(Multilabel(loss="asymmetric"))


def naive_bce(z: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    p = 1 / (1 + np.exp(-z))
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1).mean())


@given(LOGITS, TRUTH, st.sampled_from([0.0, 0.1]))
def test_binary_cross_entropy_is_that_of_numpy(z: NDArray[np.float64], y: NDArray[np.int64], smoothing: float) -> None:
    target = y * (1 - smoothing) + smoothing / 2
    assert float(BCE.loss(torch.from_numpy(z), torch.from_numpy(y).double(), smoothing)) == pytest.approx(
        naive_bce(z, target), rel=1e-6, abs=1e-9
    )


@given(LOGITS, TRUTH, st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.05]))
def test_the_asymmetric_loss_is_that_of_the_paper(
    z: NDArray[np.float64], y: NDArray[np.int64], negative: float, positive: float, clip: float
) -> None:
    p = 1 / (1 + np.exp(-z))
    shifted = np.maximum(p - clip, 0)
    each = y * (1 - p) ** positive * np.log(p) + (1 - y) * shifted**negative * np.log(1 - shifted)
    found = asymmetric(torch.from_numpy(z), torch.from_numpy(y).double(), negative, positive, clip)
    assert float(found) == pytest.approx(-each.sum(1).mean(), rel=1e-5, abs=1e-8)


@given(LOGITS, TRUTH)
def test_without_focus_and_clip_the_asymmetric_loss_is_the_cross_entropy(
    z: NDArray[np.float64], y: NDArray[np.int64]
) -> None:
    found = asymmetric(torch.from_numpy(z), torch.from_numpy(y).double(), 0.0, 0.0, 0.0)
    assert float(found) == pytest.approx(naive_bce(z, y), rel=1e-6, abs=1e-9)


def test_losses_and_gradients_are_finite_for_certain_networks() -> None:
    for objective in (BCE, ASYMMETRIC):
        z = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
        loss = objective.loss(z, torch.tensor([[1, 0], [1, 0]]))
        loss.backward()
        assert loss.isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()


@given(LOGITS, LOGITS, st.sampled_from([0.5, 1.0, 3.0]))
def test_distillation_is_the_cross_entropy_of_each_class(
    student: NDArray[np.float64], teacher: NDArray[np.float64], temperature: float
) -> None:
    target = 1 / (1 + np.exp(-teacher / temperature))
    z = student / temperature
    naive = float((np.logaddexp(0, z) - target * z).sum(1).mean()) * temperature**2
    found = binary_distillation(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(found) == pytest.approx(naive, rel=1e-6, abs=1e-9)
    same = torch.from_numpy(teacher).requires_grad_()
    binary_distillation(same, torch.from_numpy(teacher), temperature).backward()
    assert same.grad is not None
    assert float(same.grad.abs().max()) < 1e-9, "a student that answers like its teacher learns nothing"


@given(LOGITS, LOGITS, st.sampled_from([1.0, 2.0]))
def test_an_ensemble_has_the_mean_of_the_probabilities(
    one: NDArray[np.float64], other: NDArray[np.float64], temperature: float
) -> None:
    together = BCE.ensemble([torch.from_numpy(one), torch.from_numpy(other)], temperature)
    mean = (1 / (1 + np.exp(-one / temperature)) + 1 / (1 + np.exp(-other / temperature))) / 2
    assert np.allclose(torch.sigmoid(together / temperature).numpy(), mean, atol=1e-9)
    assert torch.equal(BCE.ensemble([torch.from_numpy(one)], temperature), torch.from_numpy(one))


def test_a_new_network_begins_with_the_shares_of_the_classes() -> None:
    head = torch.nn.Linear(4, 3)
    BCE.prepare(head, torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]))
    assert torch.allclose(head.bias.sigmoid(), torch.tensor([0.25, 0.01, 0.99]))
    before = head.bias.clone()
    OneClass().prepare(head, torch.tensor([0, 1]))
    assert torch.equal(head.bias, before)
    ASYMMETRIC.prepare(head, torch.ones(4, 3, dtype=torch.int64))
    assert torch.equal(head.bias, before)
    BCE.prepare(head, torch.zeros(0, 3, dtype=torch.int64))
    assert torch.equal(head.bias, torch.zeros(3))


def test_scores_of_a_batch() -> None:
    logits, labels = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 1], [0, 1]])
    assert float(BCE.training_score(logits, labels)) == pytest.approx(2 * 2 / (3 + 3))
    assert float(BCE.training_score(-logits.abs(), labels * 0)) == 1
    assert float(BCE.agreement(logits, -logits)) == 0
    assert BCE.quality(logits, labels) == pytest.approx((1 / 2 + 1) / 2), "AP: both images have the same first logit"
    assert OneClass().quality(logits, torch.tensor([0, 1])) == 0.5


def test_a_classification_learns_as_before() -> None:
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(OneClass().loss(z, y, 0.1), F.cross_entropy(z, y, label_smoothing=0.1))
    recipe = parse({})
    assert isinstance(objective_of(recipe), OneClass)
    assert isinstance(objective_of(parse({"task": "recognition"})), OneClass)
    several = parse({"task": "multilabel", "data": {"labeled": "labels.csv"}, "multilabel": {"loss": "asymmetric"}})
    objective = objective_of(several)
    assert isinstance(objective, AnyClasses)
    assert objective.config.loss == "asymmetric"
    assert of_test({"test_top1": 0.5}) == 0.5
    assert of_test({"test_map": 0.25, "metric": "map"}) == 0.25


def test_the_probes_of_images_with_several_classes_score_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator)
    labels = torch.stack([features[:, 0] > 0, features[:, 1] + features[:, 2] > 0, features[:, 0] > 99], dim=1).long()
    logits = linear_logits(features[:40], labels[:40], features[40:])
    assert ((logits >= 0).long() == labels[40:]).float().mean() > 0.8
    assert (logits[:, 2] < -5).all(), "a class that no image has"
    shares = knn_shares(features, labels, features, 1, 0.1)
    assert torch.equal(shares.round().long(), labels), "the nearest image of each is itself"
    weights = (
        torch.nn.functional.normalize(features, dim=1) @ torch.nn.functional.normalize(features, dim=1).T / 0.1
    ).exp()
    naive = (weights / weights.sum(1, keepdim=True)) @ labels.float()
    assert torch.allclose(knn_shares(features, labels, features, 60, 0.1), naive, atol=1e-5)
