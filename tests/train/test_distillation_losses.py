"""The losses of distillation against naive NumPy versions that can be checked by eye."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.train.distill.losses import binary_mixture, decoupled, distillation, ensemble, mixture, regression

Array = np.ndarray


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def naive_decoupled(student: Array, teacher: Array, target: Array, t: float, alpha: float, beta: float) -> float:
    """Zhao et al. 2022, equations 5 to 7, term by term."""
    total = 0.0
    for s, h, y in zip(student, teacher, target, strict=True):
        q, p = softmax(s / t), softmax(h / t)
        tckd = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        nckd = 0.0
        for i in range(len(p)):
            if i != y:
                p_hat, q_hat = p[i] / (1 - p[y]), q[i] / (1 - q[y])
                nckd += p_hat * np.log(p_hat / q_hat)
        total += alpha * tckd + beta * nckd
    return t**2 * total / len(student)


def naive_regression(student: Array, teacher: Array) -> float:
    n, d = student.shape
    return sum((student[i, j] - teacher[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)


def naive_kd_of_ensemble(student: Array, teachers: list[Array], t: float) -> float:
    total = 0.0
    for i, s in enumerate(student):
        p = np.mean([softmax(teacher[i] / t) for teacher in teachers], axis=0)
        total -= float((p * np.log(softmax(s / t))).sum())
    return t**2 * total / len(student)


def slopes(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def rounding(temperature: float, *logits: Array) -> float:
    """How far float32 can be off in T^2 times a sum of p log(p / q) over k classes, beside 1e-4 of it.

    With u = 2^-24 and X the largest logit over T: a log-softmax of (k) is off by (8X + 2k + 4) u, of two nested ones by twice that,
    and p log p and p log q by one each.
    """
    largest, classes = max(float(np.abs(x).max()) for x in logits) / temperature, logits[0].shape[1]
    return 2**-24 * temperature**2 * 4 * (8 * largest + 2 * classes + 4)


def agree(
    ours: Callable[..., torch.Tensor], naive: Callable[[Array], float], at: Array, *teachers: Array, off: float
) -> None:
    """Value and gradient of a loss and of its naive version, in float64; in float32 the value to `off` and 1e-4 of it."""
    student = torch.from_numpy(at).requires_grad_()
    loss = ours(student, *map(torch.from_numpy, teachers))
    loss.backward()
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(naive(at), rel=1e-9, abs=1e-10)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), slopes(naive, at), rtol=1e-6, atol=1e-6)
    single = ours(*(torch.from_numpy(logits).float() for logits in (at, *teachers)))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(loss.item(), rel=1e-4, abs=off + 1e-30)  # what float32 has no number for


@settings(max_examples=25)
@given(
    n=st.integers(1, 4), k=st.integers(2, 6), t=st.sampled_from([1.0, 2.0, 4.0]), alpha=st.floats(0, 2), beta=st.floats(0, 9),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_decoupled_distillation_equals_the_naive_version_with_its_gradient(
    n: int, k: int, t: float, alpha: float, beta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = (2 * rng.normal(size=(2, n, k))).astype(np.float32).astype(np.float64)
    target = rng.integers(0, k, n)
    agree(
        lambda s, h: decoupled(s, h, torch.from_numpy(target), t, alpha, beta),
        lambda s: naive_decoupled(s, teacher, target, t, alpha, beta),
        student,
        teacher,
        off=(alpha + beta) * rounding(t, student, teacher),
    )


def test_decoupled_distillation_is_the_plain_one_where_its_weights_are_the_plain_one_s() -> None:
    """KL = TCKD + (1 - p_target) NCKD, the paper's equation 6; cross-entropy is KL and the teacher's entropy."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 5)
    target = torch.tensor([2])
    p = teacher.softmax(1)
    entropy = -(p * p.log()).sum()
    plain = distillation(student, teacher, 1.0) - entropy
    torch.testing.assert_close(decoupled(student, teacher, target, 1.0, 1.0, float(1 - p[0, 2])), plain)


def test_decoupled_distillation_survives_a_teacher_that_is_sure() -> None:
    teacher = torch.tensor([[300.0, 0.0, -300.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    loss = decoupled(student, teacher, torch.tensor([0]), 1.0, 1.0, 8.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()  # type: ignore[union-attr]


@settings(max_examples=15)
@given(n=st.integers(1, 5), d=st.integers(1, 7), seed=st.integers(0, 1000))
def test_the_regression_of_embeddings_equals_the_naive_version_with_its_gradient(n: int, d: int, seed: int) -> None:
    student, teacher = np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float32).astype(np.float64)
    agree(regression, lambda s: naive_regression(s, teacher), student, teacher, off=1e-6)


@settings(max_examples=15)
@given(
    n=st.integers(1, 4), k=st.integers(2, 5), count=st.integers(1, 3), t=st.floats(0.5, 5.0), seed=st.integers(0, 1000)
)
def test_an_ensemble_is_the_mean_of_the_softened_probabilities(n: int, k: int, count: int, t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(n, k)).astype(np.float32).astype(np.float64)
    teachers = [(3 * rng.normal(size=(n, k))).astype(np.float32).astype(np.float64) for _ in range(count)]
    agree(
        lambda s, *them: distillation(s, ensemble(them, t), t),
        lambda s: naive_kd_of_ensemble(s, teachers, t),
        student,
        *teachers,
        off=rounding(t, student, *teachers),
    )


@settings(max_examples=15)
@given(n=st.integers(1, 5), k=st.integers(1, 5), t=st.floats(0.5, 5.0), seed=st.integers(0, 1000))
def test_a_mixture_has_the_mixed_probabilities(n: int, k: int, t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = 3 * rng.normal(size=(2, n, k))
    share = rng.uniform(0, 0.5, n)
    share[0] = 0.0
    given = torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(share), t
    part = share[:, None]
    soft = [np.array([softmax(row) for row in one / t]) for one in (first, second)]
    expected = (1 - part) * soft[0] + part * soft[1]
    np.testing.assert_allclose((mixture(*given) / t).softmax(1).numpy(), expected, atol=1e-12)
    expected = (1 - part) / (1 + np.exp(-first / t)) + part / (1 + np.exp(-second / t))
    np.testing.assert_allclose(torch.sigmoid(binary_mixture(*given) / t).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("loss", [
    lambda s, h: decoupled(s, h, torch.tensor([0, 1]), 4.0, 1.0, 8.0),
    regression,
    lambda s, h: distillation(s, ensemble([h, 2 * h], 2.0), 2.0),
])  # fmt: skip
def test_the_losses_are_float32_under_autocast_and_give_the_teacher_no_gradient(loss: Callable) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher))
    mine, its = torch.autograd.grad(value, [student, teacher], allow_unused=True)
    assert mine.dtype == torch.float32
    assert its is None
