"""LARS against its formula, the exclusions, and the schedule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from edgekit.recipe import Optimizer
from edgekit.train.loop.optim import LARS, build_optimizer, warmup_cosine


def naive_lars(
    w: torch.Tensor, grads: list[torch.Tensor], lr: float, momentum: float, decay: float, adapt: bool
) -> torch.Tensor:
    """You et al. 2017, algorithm 1, one parameter at a time."""
    w, buffer = w.double().clone(), torch.zeros_like(w).double()
    for gradient in grads:
        g = gradient.double() + decay * w
        trust = 0.001 * w.norm() / g.norm() if adapt and w.norm() > 0 and g.norm() > 0 else 1.0
        buffer = momentum * buffer + lr * trust * g
        w = w - buffer
    return w.float()


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("adapt", [True, False])
def test_lars_is_its_formula(decay: float, adapt: bool) -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(4, 3))
    start, grads = w.detach().clone(), [torch.randn(4, 3) for _ in range(5)]
    optimizer = LARS([{"params": [w], "weight_decay": decay, "adapt": adapt}], lr=0.5, momentum=0.9)
    for g in grads:
        w.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(w.detach(), naive_lars(start, grads, 0.5, 0.9, decay, adapt), atol=1e-5, rtol=1e-4)


def test_lars_adapts_without_weight_decay_and_moves_zero_weights() -> None:
    w, zero = nn.Parameter(torch.full((2, 2), 2.0)), nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([w, zero], lr=1.0, momentum=0.0)
    w.grad, zero.grad = torch.full((2, 2), 100.0), torch.full((2, 2), 0.5)
    optimizer.step()
    torch.testing.assert_close(
        w.detach(), torch.full((2, 2), 2.0 - 0.001 * 2.0), atol=1e-6, rtol=0
    )  # eta |w| / |g| * g
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.5))


def test_biases_and_normalization_are_excluded_and_the_rate_scales_with_the_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = build_optimizer(Optimizer(name="lars", lr=0.3, weight_decay=1e-3), model, batch_size=512)
    decayed, plain = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert [p.ndim for p in plain["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], decayed["adapt"]) == (1e-3, True)
    assert (plain["weight_decay"], plain["adapt"]) == (0.0, False)
    assert decayed["lr"] == pytest.approx(0.6)
    assert build_optimizer(Optimizer(name="sgd", lr=0.3, scale_lr=False), model, 512).param_groups[0]["lr"] == 0.3


def test_the_schedule_warms_up_linearly_and_ends_at_zero() -> None:
    factors = [warmup_cosine(step, total=100, warmup=10) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert warmup_cosine(0, 10, 0) == 1.0
    assert math.isfinite(warmup_cosine(1, 1, 0))
