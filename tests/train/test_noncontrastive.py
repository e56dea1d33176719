"""BYOL, SimSiam and guided stop-gradient: losses against naive versions and LightlySSL, and every rule of their papers."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor, nn

from edgekit import recipe as recipes
from edgekit.models.heads import PredictionHead, ProjectionHead
from edgekit.models.store import load_pretrained, save_pretrained
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.byol import BYOL, target_momentum
from edgekit.train.pretrain.guided import closest, derangement, guidance
from edgekit.train.pretrain.method import Views
from edgekit.train.pretrain.siamese import Siamese, negative_cosine

SIAMESE = ("byol", "simsiam", "byol+gsg", "simsiam+gsg")
ENCODER = {"name": "resnet10", "width": 0.125, "stem": "strided"}


def configured(method: str, **changes: object) -> Any:
    """A method's part of a recipe that says little else: the method's defaults with changes."""
    return recipes.parse({"pretrain": {"method": method, "encoder": ENCODER, **changes}}).pretrain


def build(method: str, *, predictor: bool = True, **changes: object) -> Siamese:
    small = {"layers": 2, "hidden": 24, "output": 16}
    config = configured(method, **{"projection": small, "predictor": {"enabled": predictor, "hidden": 8}, **changes})
    torch.manual_seed(0)
    built = build_method(config, 16, 64).train()
    assert isinstance(built, Siamese)
    return built


def views(count: int = 8, seed: int = 1) -> Views:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(count, 3, 16, 16, generator=generator) for _ in range(2)]
    return Views(images, torch.arange(count), generator)


def crops(count: int, dimension: int, seed: int) -> np.ndarray:
    """Predictions p1, p2 and projections z1, z2 whose norms differ, (4, n, d) float32."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(4, count, dimension)) * rng.uniform(0.2, 5, size=(4, count, 1))).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def naive_simsiam(p1: np.ndarray, p2: np.ndarray, z1: np.ndarray, z2: np.ndarray) -> float:
    """SimSiam's equation 2, image by image."""
    return float(np.mean([-(cosine(p1[i], z2[i]) + cosine(p2[i], z1[i])) / 2 for i in range(len(p1))]))


def naive_candidate(p: np.ndarray, z: np.ndarray, i: int, r: int, a: int, b: int) -> float:
    """What image i and its partner r contribute if crop a of the one and crop b of the other are the sources; p, z (2, n, d)."""
    return -(cosine(p[a, i], z[1 - a, i]) + cosine(p[b, r], z[1 - b, r])) / 2


def naive_guided(p: np.ndarray, z: np.ndarray, partner: list[int]) -> float:
    """Guided stop-gradient, one pair of images at a time; p, z (2, n, d)."""
    total = 0.0
    for i, r in enumerate(partner):
        distances = {
            (a, b): float(np.linalg.norm(z[a, i].astype(np.float64) - z[b, r].astype(np.float64)))
            for a, b in itertools.product((0, 1), (0, 1))
        }
        a, b = min(distances, key=lambda pair: distances[pair])
        total += naive_candidate(p, z, i, r, a, b)
    return total / len(partner)


def guided(p: Tensor, z: Tensor, partner: Tensor) -> Tensor:
    """The guided loss as the methods compute it; p, z (2, n, d)."""
    return negative_cosine(list(p), list(z), guidance(partner, *closest(z[0], z[1], partner)))


# The loss of both


@settings(max_examples=30)
@given(n=st.integers(1, 9), d=st.integers(1, 16), seed=st.integers(0, 1000))
def test_the_loss_equals_the_naive_version(n: int, d: int, seed: int) -> None:
    p1, p2, z1, z2 = crops(n, d, seed)
    ours = negative_cosine(*([torch.from_numpy(x) for x in pair] for pair in ((p1, p2), (z1, z2)))).item()
    # A cosine of d numbers in float32 is off by at most (2d + 4) 2^-24, the means of n and of two by n + 2 of them.
    assert ours == pytest.approx(naive_simsiam(p1, p2, z1, z2), abs=(2 * d + n + 6) * 2**-24)


def test_the_loss_equals_lightly_with_gradients() -> None:
    ours = [torch.from_numpy(x).requires_grad_() for x in crops(16, 32, 0)]
    p1, p2, z1, z2 = theirs = [t.detach().clone().requires_grad_() for t in ours]
    a = negative_cosine(ours[:2], ours[2:])
    b = (NegativeCosineSimilarity()(p1, z2) + NegativeCosineSimilarity()(p2, z1)) / 2
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=0)


def test_byols_loss_is_four_times_this_one_and_four() -> None:
    p1, p2, z1, z2 = (torch.from_numpy(x) for x in crops(8, 16, 0))
    unit = nn.functional.normalize
    papers = sum(((unit(p) - unit(z)) ** 2).sum(1).mean() for p, z in ((p1, z2), (p2, z1)))
    torch.testing.assert_close(4 + 4 * negative_cosine([p1, p2], [z1, z2]), papers, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", SIAMESE)
def test_losses_are_float32_under_autocast_with_their_gradient(method: str) -> None:
    weights = torch.rand(2, 32) if method.endswith("gsg") else None
    p1, p2, z1, z2 = plain = [torch.from_numpy(x).requires_grad_() for x in crops(32, 16, 1)]
    cast = [t.detach().clone().requires_grad_() for t in plain]
    expected = negative_cosine([p1, p2], [z1, z2], weights)
    with torch.autocast("cpu", torch.bfloat16):
        loss = negative_cosine(cast[:2], cast[2:], weights)
        whole = build(method)(views())
    assert loss.dtype == whole.value.dtype == torch.float32
    assert math.isfinite(whole.value.item())
    for value in (expected, loss):
        value.backward()
    for x, y in zip(plain, cast, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-6, rtol=1e-5)


# Guided stop-gradient


@settings(max_examples=50)
@given(n=st.integers(2, 40), seed=st.integers(0, 10_000))
def test_a_derangement_pairs_everyone_with_another(n: int, seed: int) -> None:
    partner = derangement(n, torch.Generator().manual_seed(seed)).tolist()
    assert sorted(partner) == list(range(n))
    assert all(partner[i] != i for i in range(n))


def test_every_other_image_is_as_likely_a_partner() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([derangement(5, generator) for _ in range(4000)])
    shares = torch.stack([(draws == k).float().mean(0) for k in range(5)])
    torch.testing.assert_close(shares, (1 - torch.eye(5)) / 4, atol=0.03, rtol=0)


@settings(max_examples=50)
@given(n=st.integers(2, 9), d=st.integers(2, 16), seed=st.integers(0, 1000))
def test_the_guided_loss_equals_the_naive_version_and_lies_within_one(n: int, d: int, seed: int) -> None:
    p, z = crops(n, d, seed).astype(np.float64).reshape(2, 2, n, d)  # rounding must not choose between near crops
    partner = derangement(n, torch.Generator().manual_seed(seed))
    ours = guided(torch.from_numpy(p), torch.from_numpy(z), partner).item()
    assert ours == pytest.approx(naive_guided(p, z, partner.tolist()), abs=1e-12)
    assert -1 - 1e-12 <= ours <= 1 + 1e-12


def test_the_guided_loss_reaches_both_ends() -> None:
    z = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    partner = derangement(6, torch.Generator().manual_seed(0))
    assert guided(z.flip(0), z, partner).item() == pytest.approx(-1, abs=1e-6)  # every prediction is its target
    assert guided(-z.flip(0), z, partner).item() == pytest.approx(1, abs=1e-6)


def test_the_guided_gradient_equals_the_one_of_its_pairs_in_autograd() -> None:
    """Loss and gradient written as the paper has them, pair by pair, against the weights."""
    p, z = torch.from_numpy(crops(7, 12, 3)).double().reshape(2, 2, 7, 12)
    partner = derangement(7, torch.Generator().manual_seed(3))
    ours, theirs = (p.clone().requires_grad_() for _ in range(2))
    pairs = []
    for i, r in enumerate(partner.tolist()):
        distances = torch.tensor([[(z[a, i] - z[b, r]).norm() for b in (0, 1)] for a in (0, 1)])
        a, b = divmod(int(distances.argmin()), 2)
        similar = nn.functional.cosine_similarity
        pairs.append(-(similar(theirs[a, i], z[1 - a, i], dim=0) + similar(theirs[b, r], z[1 - b, r], dim=0)) / 2)
    expected, loss = torch.stack(pairs).mean(), guided(ours, z, partner)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_two_sources_that_were_not_chosen_receive_no_gradient(seed: int) -> None:
    p, z = torch.from_numpy(crops(2, 8, seed)).reshape(2, 2, 2, 8)
    partner = torch.tensor([1, 0])  # two images, one pair
    distances = {(a, b): (z[a, 0] - z[b, 1]).norm() for a, b in itertools.product((0, 1), (0, 1))}
    a, b = min(distances, key=lambda pair: distances[pair])
    p.requires_grad_()
    guided(p, z, partner).backward()
    received = p.grad.abs().sum(2) > 0
    assert received.tolist() == [[a == 0, b == 0], [a == 1, b == 1]]


@settings(max_examples=20)
@given(n=st.integers(2, 6), seed=st.integers(0, 1000))
def test_the_mean_of_the_four_candidates_is_simsiams_loss_of_both_images(n: int, seed: int) -> None:
    p, z = crops(n, 8, seed).astype(np.float64).reshape(2, 2, n, 8)
    partner = derangement(n, torch.Generator().manual_seed(seed))
    sources, targets = list(torch.from_numpy(p)), list(torch.from_numpy(z))
    candidates = []
    for a, b in itertools.product((0, 1), (0, 1)):
        chosen = [torch.full((n,), crop) for crop in (a, b)]
        candidates.append(negative_cosine(sources, targets, guidance(partner, *chosen)).item())
        naive = np.mean([naive_candidate(p, z, i, r, a, b) for i, r in enumerate(partner.tolist())])
        assert candidates[-1] == pytest.approx(float(naive), abs=1e-12)
    both = [naive_simsiam(p[0, [i, r]], p[1, [i, r]], z[0, [i, r]], z[1, [i, r]]) for i, r in enumerate(partner)]
    assert np.mean(candidates) == pytest.approx(np.mean(both), abs=1e-12)


@settings(max_examples=20)
@given(n=st.integers(2, 9), seed=st.integers(0, 1000))
def test_the_choice_does_not_change_when_the_views_are_swapped(n: int, seed: int) -> None:
    p, z = torch.from_numpy(crops(n, 8, seed)).double().reshape(2, 2, n, 8)
    partner = derangement(n, torch.Generator().manual_seed(seed))
    own, its = closest(z[0], z[1], partner)
    swapped = closest(z[1], z[0], partner)
    assert torch.equal(own, 1 - swapped[0])
    assert torch.equal(its, 1 - swapped[1])
    torch.testing.assert_close(guided(p, z, partner), guided(p.flip(0), z.flip(0), partner), atol=1e-12, rtol=0)


def test_distances_are_those_of_the_projections_as_they_are() -> None:
    """By angle the first crops are closest, by distance the second ones."""
    first = torch.tensor([[10.0, 0.0], [20.0, 0.1]])
    second = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    own, its = closest(first, second, torch.tensor([1, 0]))
    assert own.tolist() == its.tolist() == [1, 1]


@pytest.mark.parametrize("method", ["byol+gsg", "simsiam+gsg"])
def test_the_partners_follow_the_shared_generator_alone(method: str) -> None:
    built = build(method)
    batch = views(16)
    losses = []
    for seed in (0, 0, 1, 2, 3):
        step = Views(batch.images, batch.index, torch.Generator().manual_seed(seed))
        losses.append(copy.deepcopy(built)(step).value.item())
    assert losses[0] == losses[1]
    assert len(set(losses)) > 2


# The methods


@pytest.mark.parametrize("predictor", [True, False])
@pytest.mark.parametrize("method", SIAMESE)
def test_a_step_is_the_formula_on_the_networks_outputs(method: str, predictor: bool) -> None:
    """The whole forward against the naive losses, with networks applied by hand: which outputs are sources, which targets."""
    built, batch = build(method, predictor=predictor), views()
    byhand = copy.deepcopy(built)
    state = batch.generator.get_state()
    loss = built(batch)
    z = [byhand.model(images) for images in batch.images]
    p = [byhand.predictor(projections) for projections in z]
    if not predictor:
        assert p[0] is z[0]
    target = z
    if isinstance(byhand, BYOL):
        nn.init.normal_(next(byhand.target.module.head.parameters()))  # now it is another network
        built.target.load_state_dict(byhand.target.state_dict())
        target = [byhand.target(images) for images in batch.images]
        batch.generator.set_state(state)
        loss = built(batch)
    p, target = (np.stack([x.detach().numpy() for x in pair]) for pair in (p, target))
    batch.generator.set_state(state)
    if method.endswith("gsg"):
        expected = naive_guided(p, target, derangement(8, batch.generator).tolist())
    else:
        expected = naive_simsiam(*p, *target)
    assert loss.value.item() == pytest.approx(expected, abs=1e-5)
    assert loss.features.shape == (16, built.model.encoder.feature_dim)
    assert loss.projections.shape == (16, 16)


@pytest.mark.parametrize("method", SIAMESE)
def test_targets_receive_no_gradient_and_projections_without_predictor_do(method: str) -> None:
    built, batch = build(method, predictor=False), views()
    projections = [built.model(images) for images in batch.images]
    assert not any(z.requires_grad for z in built.targets(batch.images, projections))
    built(batch).value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.model.head.parameters())


def test_without_stop_gradient_the_targets_have_it() -> None:
    built, batch = build("simsiam", stop_gradient=False), views()
    projections = [built.model(images) for images in batch.images]
    assert all(z.requires_grad for z in built.targets(batch.images, projections))


def test_simsiams_projections_are_normalized_without_scale_and_shift() -> None:
    built = build("simsiam")
    norm = built.model.head.layers[-1][-1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert not list(norm.parameters())
    projections = built.model(views(32).images[0])
    torch.testing.assert_close(projections.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(projections.var(0, unbiased=False), torch.ones(16), atol=1e-2, rtol=0)


def test_any_methods_projections_can_be_normalized() -> None:
    for method in ("byol", "simclr"):
        built = build_method(configured(method, projection={"normalize_output": True}), 16, 64)
        assert isinstance(built.model.head.layers[-1][-1], nn.BatchNorm1d)
        assert built.model.head.spec["normalize_output"]
    plain = build("simsiam", projection={"layers": 2, "hidden": 24, "output": 16, "normalize_output": False})
    assert isinstance(plain.model.head.layers[-1], nn.Linear)


def test_heads_and_predictors_are_laid_out_as_in_the_papers_code() -> None:
    def layout(module: nn.Module) -> list[tuple[str, bool]]:
        """Each layer with whether it has a shift of its own."""
        leaves = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.BatchNorm1d, nn.ReLU))]
        return [(type(m).__name__, getattr(m, "bias", None) is not None) for m in leaves]

    hidden = [("Linear", False), ("BatchNorm1d", True), ("ReLU", False)]
    torch.manual_seed(0)
    byol, simsiam = (build_method(configured(m), 16, 64) for m in ("byol", "simsiam"))
    assert layout(byol.model.head) == [*hidden, ("Linear", False)]
    assert layout(byol.predictor) == [*hidden, ("Linear", False)]
    assert layout(simsiam.model.head) == [*hidden, *hidden, ("Linear", False), ("BatchNorm1d", False)]
    assert layout(simsiam.predictor) == [*hidden, ("Linear", True)]
    widths = [[m.out_features for m in x.modules() if isinstance(m, nn.Linear)] for x in (byol, simsiam)]
    encoder_and_head = [4096, 256]
    assert widths == [[*encoder_and_head, 4096, 256, *encoder_and_head], [2048, 2048, 2048, 512, 2048]]


@pytest.mark.parametrize(
    ("method", "stays"), [("simsiam", True), ("simsiam+gsg", True), ("byol", False), ("byol+gsg", False)]
)
def test_the_predictors_learning_rate_is_constant_in_simsiam(method: str, stays: bool) -> None:
    from edgekit.train.loop.optim import build_optimizer

    built = build_method(configured(method), 16, 64)
    predictor = {id(p) for p in built.predictor.parameters()}
    assert {id(p) for p in built.constant_lr()} == (predictor if stays else set())
    optimizer = build_optimizer(configured(method).optimizer, built, 512, built.constant_lr())
    constant = {id(p) for group in optimizer.param_groups if group["constant_lr"] for p in group["params"]}
    assert constant == (predictor if stays else set())


def test_targets_momentum_rises_by_a_half_cosine_to_one() -> None:
    assert [target_momentum(0.9, done) for done in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])
    steps = [target_momentum(0.97, k / 40) for k in range(41)]
    assert steps == sorted(steps)
    for k, tau in enumerate(steps):
        assert tau == pytest.approx(1 - (1 - 0.97) * (math.cos(math.pi * k / 40) + 1) / 2)


def test_the_target_follows_after_the_step_with_its_buffers() -> None:
    built = build("byol", momentum=0.8)
    start = copy.deepcopy(built.target.module)
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=0.1)
    built(views()).value.backward()
    optimizer.step()
    for before, now in zip(start.parameters(), built.target.module.parameters(), strict=True):
        assert torch.equal(before, now)  # not before `after_step`
    online = copy.deepcopy(built.model)
    built.after_step(0.5)
    tau = 1 - 0.2 * 0.5
    moved = zip(start.parameters(), online.parameters(), built.target.module.parameters(), strict=True)
    for before, its, now in moved:
        torch.testing.assert_close(now, tau * before + (1 - tau) * its)
    for its, now in zip(online.buffers(), built.target.module.buffers(), strict=True):
        assert torch.equal(its, now)
    for its, now in zip(online.parameters(), built.model.parameters(), strict=True):
        assert torch.equal(its, now)


def test_the_target_normalizes_with_its_own_batch_and_is_not_what_is_stored() -> None:
    built, batch = build("byol"), views(32)
    assert built.target.module.training
    norm = next(m for m in built.target.module.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean.fill_(1e6)  # would spoil the outputs if they were used
    before = [z.clone() for z in built.targets(batch.images, [])]
    norm.running_mean.fill_(0.0)
    for x, y in zip(before, built.targets(batch.images, []), strict=True):
        assert torch.equal(x, y)
    stored = {id(p) for p in built.model.parameters()}
    assert not stored & {id(p) for p in built.target.parameters()}
    assert all(p.requires_grad for p in built.model.parameters())
    assert not any(p.requires_grad for p in built.target.parameters())


def test_the_predictor_maps_projections_to_projections() -> None:
    predictor = PredictionHead(16, 8, bias=True).eval()
    z = torch.randn(4, 16)
    linear, norm, relu = predictor.hidden
    torch.testing.assert_close(predictor(z), predictor.output(relu(norm(linear(z)))))
    assert predictor(z).shape == z.shape


def test_a_head_with_normalized_outputs_keeps_the_layers_before_it() -> None:
    head = ProjectionHead(32, 64, 16, 3, normalize_output=True).eval()
    assert [head.keep(k).widths() for k in range(3)] == [[], [64], [64, 64]]
    assert head.spec == {"hidden": 64, "output": 16, "layers": 3, "normalize_output": True}
    assert ProjectionHead(32, 64, 16, 3).spec == {"hidden": 64, "output": 16, "layers": 3}  # as files of older versions


def test_a_head_that_an_earlier_version_stored_is_read(tmp_path: Path) -> None:
    built = build_method(configured("simsiam", projection={"layers": 2, "hidden": 24, "output": 16}), 16, 64)
    save_pretrained(tmp_path, built.model)
    spec = json.loads((tmp_path / "model.json").read_text())
    assert spec["head"].pop("normalize_output") is True
    spec["head"]["normalise_output"] = True
    (tmp_path / "model.json").write_text(json.dumps(spec))
    read = load_pretrained(tmp_path)
    assert read.head.spec["normalize_output"] is True
    images = views(4).images[0]
    with torch.no_grad():
        torch.testing.assert_close(read(images), built.model.eval()(images))
