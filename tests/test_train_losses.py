"""The losses against naive NumPy versions that can be checked by eye, and against LightlySSL, gradients included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from edgekit.train.collapse import effective_rank, projection_std, verdict
from edgekit.train.losses import distillation, nt_xent


def naive_nt_xent(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """SimCLR's equation 1, term by term."""
    z = np.concatenate([first, second]).astype(np.float64)
    n = len(first)

    def similarity(i: int, k: int) -> float:
        return float(z[i] @ z[k] / (np.linalg.norm(z[i]) * np.linalg.norm(z[k])))

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(math.exp(similarity(i, k) / temperature) for k in range(2 * n) if k != i)
        total += -math.log(math.exp(similarity(i, j) / temperature) / denominator)
    return total / (2 * n)


def naive_distillation(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """SimCLR v2's equation 2, term by term."""
    total = 0.0
    for s, t in zip(student.astype(np.float64), teacher.astype(np.float64), strict=True):
        p = np.exp(t / temperature) / np.exp(t / temperature).sum()
        q = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total -= float((p * np.log(q)).sum())
    return temperature**2 * total / len(student)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 9), d=st.integers(2, 16), temperature=st.floats(0.05, 2.0), seed=st.integers(0, 1000))
def test_nt_xent_equals_the_naive_version(n: int, d: int, temperature: float, seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float32)
    ours = nt_xent(torch.from_numpy(first), torch.from_numpy(second), temperature).item()
    assert ours == pytest.approx(naive_nt_xent(first, second, temperature), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_equals_lightly_with_gradients(temperature: float) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(16, 32, requires_grad=True) for _ in range(2)]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    a, b = nt_xent(*ours, temperature), NTXentLoss(temperature=temperature)(*theirs)
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=0)


def test_nt_xent_survives_low_temperatures_and_bfloat16() -> None:
    torch.manual_seed(0)
    first = torch.randn(8, 16)
    loss = nt_xent(first.bfloat16(), first.bfloat16(), 0.005)
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert loss.item() == pytest.approx(0.0, abs=1e-3)  # identical views, far from every other image


def test_nt_xent_is_float32_under_autocast_with_its_gradient() -> None:
    torch.manual_seed(0)
    plain, cast = (torch.randn(32, 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    other = torch.randn(32, 16)
    expected = nt_xent(plain, other, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(cast, other, 0.1)
    assert loss.dtype == torch.float32
    for value in (expected, loss):
        value.backward()
    torch.testing.assert_close(cast.grad, plain.grad, atol=1e-6, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(2, 8), temperature=st.floats(0.5, 8.0), seed=st.integers(0, 1000))
def test_distillation_equals_the_naive_version(n: int, k: int, temperature: float, seed: int) -> None:
    student, teacher = 3 * np.random.default_rng(seed).normal(size=(2, n, k)).astype(np.float32)
    ours = distillation(torch.from_numpy(student), torch.from_numpy(teacher), temperature).item()
    assert ours == pytest.approx(naive_distillation(student, teacher, temperature), rel=1e-4)


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
