"""The losses against naive NumPy versions that can be checked by eye, and against LightlySSL, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from edgekit.train.distill.losses import distillation
from edgekit.train.loop.collapse import effective_rank, projection_std, verdict
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain.losses import Mining, info_nce, nce, nce_log_normalizer, nt_xent, triplet

MININGS: list[Mining] = ["semi-hard", "hard", "all"]
SEEDS = st.integers(0, 10_000)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def naive_nt_xent(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """SimCLR's equation 1, term by term."""
    z, n = np.concatenate([first, second]), len(first)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        total += -math.log(math.exp(cosine(z[i], z[j]) / temperature) / denominator)
    return total / (2 * n)


def naive_info_nce(queries: np.ndarray, keys: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    """MoCo's equation 1, term by term."""
    total = 0.0
    for q, k in zip(queries, keys, strict=True):
        positive = math.exp(cosine(q, k) / temperature)
        others = sum(math.exp(cosine(q, negative) / temperature) for negative in negatives)
        total += -math.log(positive / (positive + others))
    return total / len(queries)


def naive_nce(
    projections: np.ndarray, slots: np.ndarray, samples: np.ndarray, temperature: float, z: float, images: int
) -> float:
    """Wu et al. 2018, equations 4, 6 and 7, term by term."""
    m, noise = len(samples), 1 / images

    def h(v: np.ndarray, slot: np.ndarray) -> float:
        p = math.exp(cosine(v, slot) / temperature) / z
        return p / (p + m * noise)

    total = 0.0
    for v, slot in zip(projections, slots, strict=True):
        total -= math.log(h(v, slot))
        for sample in samples:
            total -= math.log(1 - h(v, sample))
    return total / len(projections)


def naive_normalizer(projections: np.ndarray, samples: np.ndarray, temperature: float, images: int) -> float:
    """Wu et al. 2018, equation 8, averaged over the batch."""
    estimates = [
        images / len(samples) * sum(math.exp(cosine(v, sample) / temperature) for sample in samples)
        for v in projections
    ]
    return sum(estimates) / len(estimates)


def naive_triplet(first: np.ndarray, second: np.ndarray, margin: float, mining: Mining) -> float:
    """FaceNet's equation 3 with its choice of the negative, anchor by anchor."""
    n = len(first)
    views = [z / np.linalg.norm(z) for z in np.concatenate([first, second])]

    def distance(i: int, k: int) -> float:
        return float(((views[i] - views[k]) ** 2).sum())

    losses = []
    for anchor in range(2 * n):
        positive = (anchor + n) % (2 * n)
        others = [k for k in range(2 * n) if k % n != anchor % n]
        beyond = [k for k in others if distance(anchor, k) > distance(anchor, positive)]
        if mining == "all":
            chosen = others
        elif mining == "hard":
            chosen = [min(others, key=lambda k: distance(anchor, k))]
        elif beyond:
            chosen = [min(beyond, key=lambda k: distance(anchor, k))]
        else:
            chosen = [max(others, key=lambda k: distance(anchor, k))]
        losses += [max(0.0, distance(anchor, positive) - distance(anchor, k) + margin) for k in chosen]
    return sum(losses) / len(losses)


def naive_distillation(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """SimCLR v2's equation 2, term by term."""
    total = 0.0
    for s, t in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        p = np.exp(t / temperature) / np.exp(t / temperature).sum()
        q = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total -= float((p * np.log(q)).sum())
    return temperature**2 * total / len(student)


def slope(loss: Callable[..., float], inputs: list[np.ndarray], which: int, step: float) -> np.ndarray:
    """Gradient of a naive loss by central differences."""
    result = np.zeros_like(inputs[which])
    for place in np.ndindex(result.shape):
        values = []
        for sign in (1, -1):
            moved = [x.copy() for x in inputs]
            moved[which][place] += sign * step
            values.append(loss(*moved))
        result[place] = (values[0] - values[1]) / (2 * step)
    return result


def rounding_of_cosines(dimension: int, temperature: float, logits: int) -> float:
    """How far float32 can be off in a cross-entropy over cosine similarities, beside 1e-5 of the loss itself.

    With u = 2^-24: a component of a normalized vector is off by (d/2 + 2) u of itself, so a cosine by (2d + 4) u and a logit by
    (2d + 5) u / temperature. The cross-entropy moves at most twice as far as its logits do, and its own steps (differences of
    logits up to 2 / temperature, exponentials, their sum over k, the logarithm) add (4 / temperature + 2k + 4) u.
    """
    return 2**-24 * ((4 * dimension + 14) / temperature + 2 * logits + 4)


def rounding_of_logits(student: np.ndarray, teacher: np.ndarray, temperature: float, loss: float) -> float:
    """How far float32 can be off in the distillation of logits (n, k).

    With u = 2^-24, S and H the largest of student and teacher over T, L = loss / T^2: log q is off by (8S + 2k + 4) u, which is
    absolute: where q is nearly 1 its logarithm is 0 - log(1 + small), and 1 + small has no digits below u. The share p is off by
    (4H + 3k + 6) u of itself, and the sum of the p log q adds (k + n + 4) u of L.
    """
    n, k = student.shape
    s, h = (float(np.abs(logits).max()) / temperature for logits in (student, teacher))
    return 2**-24 * (temperature**2 * (8 * s + 2 * k + 4) + (4 * h + 4 * k + n + 10) * loss)


def check(
    ours: Callable[..., torch.Tensor],
    naive: Callable[..., float],
    inputs: list[np.ndarray],
    learn: int,
    rounding: float,
) -> None:
    """Value and gradient of the first `learn` inputs, float64, to 1e-6; value in float32 to `rounding` and 1e-5 of it."""
    tensors = [torch.from_numpy(x).requires_grad_(i < learn) for i, x in enumerate(inputs)]
    loss = ours(*tensors)
    loss.backward()
    assert loss.item() == pytest.approx(naive(*inputs), rel=1e-9)
    for which in range(learn):
        expected, finer = (slope(naive, inputs, which, step) for step in (1e-6, 3e-7))
        # At a kink, or beside a vector of no length, differences say nothing: then two step sizes disagree.
        assume(np.allclose(expected, finer, atol=5e-7, rtol=5e-7))
        np.testing.assert_allclose(tensors[which].grad, expected, atol=1e-6, rtol=1e-6)
    single = ours(*(torch.from_numpy(x).float() for x in inputs))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(loss.item(), rel=1e-5, abs=rounding)


def draw(seed: int, *shapes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


@settings(max_examples=8)
@given(n=st.integers(2, 5), d=st.integers(2, 6), temperature=st.floats(0.1, 2.0), seed=SEEDS)
def test_nt_xent_is_its_equation(n: int, d: int, temperature: float, seed: int) -> None:
    check(
        lambda a, b: nt_xent(a, b, temperature), lambda a, b: naive_nt_xent(a, b, temperature),
        draw(seed, (n, d), (n, d)), learn=2, rounding=rounding_of_cosines(d, temperature, 2 * n),
    )  # fmt: skip


@settings(max_examples=8)
@given(n=st.integers(1, 5), m=st.integers(1, 7), temperature=st.floats(0.1, 2.0), seed=SEEDS)
def test_info_nce_is_its_equation(n: int, m: int, temperature: float, seed: int) -> None:
    queries, keys, negatives = draw(seed, (n, 4), (n, 4), (m, 4))
    negatives = negatives / np.linalg.norm(negatives, axis=1, keepdims=True)
    check(
        lambda q, k, x: info_nce(q, k, x, temperature), lambda q, k, x: naive_info_nce(q, k, x, temperature),
        [queries, keys, negatives], learn=2, rounding=rounding_of_cosines(4, temperature, m + 1),
    )  # fmt: skip


@settings(max_examples=8)
@given(n=st.integers(1, 5), m=st.integers(1, 7), temperature=st.floats(0.1, 2.0), seed=SEEDS)
def test_nce_and_its_normalizer_are_their_equations(n: int, m: int, temperature: float, seed: int) -> None:
    projections, slots, samples = draw(seed, (n, 4), (n, 4), (m, 4))
    slots, samples = (bank / np.linalg.norm(bank, axis=1, keepdims=True) for bank in (slots, samples))
    images, z = 20, naive_normalizer(projections, samples, temperature, 20)
    log_z = nce_log_normalizer(torch.from_numpy(projections), torch.from_numpy(samples), temperature, images)
    assert log_z.item() == pytest.approx(math.log(z), abs=1e-9)
    check(
        lambda v, f, x: nce(v, f, x, temperature, log_z.to(v.dtype), images),
        lambda v, f, x: naive_nce(v, f, x, temperature, z, images),
        [projections, slots, samples], learn=1, rounding=(m + 1) * rounding_of_cosines(4, temperature, 1 + 2 * images),
    )  # fmt: skip


@pytest.mark.parametrize("mining", MININGS)
@settings(max_examples=8)
@given(n=st.integers(2, 5), d=st.integers(2, 6), margin=st.floats(0.05, 2.0), seed=SEEDS)
def test_triplet_is_its_equation(mining: Mining, n: int, d: int, margin: float, seed: int) -> None:
    check(
        lambda a, b: triplet(a, b, margin, mining), lambda a, b: naive_triplet(a, b, margin, mining),
        draw(seed, (n, d), (n, d)), learn=2, rounding=4 * rounding_of_cosines(d, 1.0, 1),  # 2 distances of 2 cosines each
    )  # fmt: skip


def test_semi_hard_takes_the_farthest_where_no_negative_is_beyond_the_positive() -> None:
    # Two images; each one's views are opposite, so that every other view is nearer than the sibling.
    first = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    second = -first
    expected = naive_triplet(first.numpy(), second.numpy(), 0.2, "semi-hard")
    assert expected == pytest.approx(4 - 3.2 + 0.2)  # |a - p|^2 = 4, the farthest other one at 2 + 2 * 0.6
    assert triplet(first, second, 0.2, "semi-hard").item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("memory", [0, 48])
def test_equal_to_lightly_with_gradients(temperature: float, memory: int) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(16, 32, requires_grad=True) for _ in range(2)]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    reference = NTXentLoss(temperature=temperature, memory_bank_size=(memory, 32) if memory else 0)
    if memory:
        a = info_nce(*ours, reference.memory_bank.bank.clone(), temperature)
    else:
        a = nt_xent(*ours, temperature)
    b = reference(*theirs)
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=0)


BANK = unit(torch.randn(24, 8, generator=torch.Generator().manual_seed(5)))


def bank_for(projections: torch.Tensor) -> torch.Tensor:
    """The bank in the type that a loss of these is computed in."""
    return BANK.to(torch.promote_types(projections.dtype, torch.float32))


# Every loss as a function of two views, for what must hold of all of them.
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "nt_xent": nt_xent,
    "info_nce": lambda a, b, t: info_nce(a, b, bank_for(a), t),
    "nce": lambda a, b, t: nce(a, unit(b), bank_for(a), t, nce_log_normalizer(a, bank_for(a), t, 100), 100),
    "triplet semi-hard": lambda a, b, t: triplet(a, b, t, "semi-hard"),
    "triplet hard": lambda a, b, t: triplet(a, b, t, "hard"),
    "triplet all": lambda a, b, t: triplet(a, b, t, "all"),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Views = tuple[torch.Tensor, torch.Tensor]


def views(seed: int, n: int = 8) -> Views:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, 8, generator=generator)
    return first, first + 0.3 * torch.randn(n, 8, generator=generator)


@every_loss
@settings(max_examples=8)
@given(seed=SEEDS, n=st.integers(2, 12), t=st.floats(0.05, 1.0))
def test_the_order_of_the_images_and_the_length_of_the_vectors_do_not_matter(
    loss: Callable[..., torch.Tensor], seed: int, n: int, t: float
) -> None:
    first, second = (z.double() for z in views(seed, n))  # so that rounding decides nothing
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = loss(first, second, t)
    torch.testing.assert_close(loss(first[order], second[order], t), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss(3.7 * first, 0.2 * second, t), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=8)
@given(seed=SEEDS, t=st.floats(0.05, 1.0))
def test_the_order_of_the_negatives_does_not_matter(seed: int, t: float) -> None:
    first, second, bank = (z.double() for z in (*views(seed), BANK))
    mixed = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(info_nce(first, second, mixed, t), info_nce(first, second, bank, t))
    log_z = nce_log_normalizer(first, bank, t, 100)
    torch.testing.assert_close(nce_log_normalizer(first, mixed, t, 100), log_z)
    slots = unit(second)
    torch.testing.assert_close(nce(first, slots, mixed, t, log_z, 100), nce(first, slots, bank, t, log_z, 100))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_temperatures_do_not_overflow(loss: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
    first, second = (z.to(dtype).requires_grad_() for z in views(0))
    value = loss(first, second, 1e-3)
    value.backward()
    assert value.dtype == torch.float32
    assert math.isfinite(value.item())
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_nt_xent_of_identical_views_is_zero_at_low_temperatures() -> None:
    first, _ = views(0)
    assert nt_xent(first, first, 0.005).item() == pytest.approx(0.0, abs=1e-3)  # far from every other image


@every_loss
def test_float32_under_autocast_with_its_gradient(loss: Callable[..., torch.Tensor]) -> None:
    first, second = views(1, 32)
    plain, cast = (first.clone().requires_grad_() for _ in range(2))
    expected = loss(plain, second, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(cast, second, 0.1)
    assert value.dtype == torch.float32
    for result in (expected, value):
        result.backward()
    # bfloat16 would be off by 1e-2.
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cast.grad, plain.grad, atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@example(
    n=1, k=2, temperature=0.5, seed=645
)  # 3.6e-5, which float32 has to 4e-4 of it: log(1 + 1.4e-4) has no more digits
@given(n=st.integers(1, 6), k=st.integers(2, 8), temperature=st.floats(0.5, 8.0), seed=st.integers(0, 1000))
def test_distillation_equals_the_naive_version(n: int, k: int, temperature: float, seed: int) -> None:
    student, teacher = (3 * np.random.default_rng(seed).normal(size=(2, n, k))).astype(np.float32).astype(np.float64)
    expected = naive_distillation(student, teacher, temperature)
    check(
        lambda s, h: distillation(s, h, temperature), lambda s, h: naive_distillation(s, h, temperature),
        [student, teacher], learn=1, rounding=rounding_of_logits(student, teacher, temperature, expected),
    )  # fmt: skip


@settings(max_examples=30)
@given(n=st.integers(1, 6), k=st.integers(2, 8), temperature=st.floats(0.5, 8.0), seed=st.integers(0, 1000))
def test_distillations_gradient_is_as_exact_where_the_loss_has_few_digits(
    n: int, k: int, temperature: float, seed: int
) -> None:
    """T (q - p) / n to u (8S + 4H + ...) T / n: no other form of the loss gives a better one, as both shares are near 1 or near 0."""
    student, teacher = (30 * np.random.default_rng(seed).normal(size=(2, n, k))).astype(np.float32).astype(np.float64)
    learns = torch.from_numpy(student).float().requires_grad_()
    distillation(learns, torch.from_numpy(teacher).float(), temperature).backward()
    q, p = (torch.from_numpy(logits / temperature).softmax(1) for logits in (student, teacher))
    bound = 2**-24 * (8 * np.abs(student).max() + 4 * np.abs(teacher).max()) / temperature + 2**-24 * (6 * k + 20)
    expected = temperature * (q - p) / n
    torch.testing.assert_close(learns.grad.double(), expected, atol=bound * temperature / n, rtol=0)


def test_distillation_gives_the_teacher_no_gradient_and_is_least_at_the_teacher() -> None:
    teacher = torch.randn(4, 5, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    loss = distillation(student, teacher, 2.0)
    loss.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_the_collapse_monitor_tells_a_sphere_from_a_point_and_a_line() -> None:
    torch.manual_seed(0)
    sphere = torch.randn(512, 32)
    assert projection_std(sphere).item() == pytest.approx(1.0, abs=0.05)
    assert 28 < effective_rank(sphere).item() <= 32
    point = torch.ones(512, 32) + 1e-4 * torch.randn(512, 32)
    assert projection_std(point).item() < 0.01
    line = torch.randn(512, 1) @ torch.randn(1, 32)
    assert effective_rank(line).item() == pytest.approx(1.0, abs=0.05)
    assert verdict(1.0, 20.0) is None
    assert "point" in (verdict(0.01, 20.0) or "")
    assert "line" in (verdict(1.0, 1.0) or "")
