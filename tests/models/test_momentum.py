"""The exponential moving average of a network: its equation, its buffers, and its separation from the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgekit.models.momentum import Momentum


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@torch.no_grad()
def change(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter))


def test_parameters_are_averaged_and_buffers_copied() -> None:
    online = network()
    average = Momentum(online, 0.9)
    before = copy.deepcopy(average.module)
    change(online)
    online(torch.randn(8, 3))
    average(torch.randn(8, 3))  # in training mode: its own running statistics move, and are overwritten
    average.update()
    for old, new, mine in zip(before.parameters(), online.parameters(), average.module.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.9 * old + 0.1 * new)
    for name, buffer in online.named_buffers():
        torch.testing.assert_close(average.module.get_buffer(name), buffer, atol=0, rtol=0)


@pytest.mark.parametrize(("tau", "same_as"), [(0.0, "online"), (1.0, "before")])
def test_the_ends_of_tau(tau: float, same_as: str) -> None:
    online = network()
    average = Momentum(online, 0.5)
    before = copy.deepcopy(average.module)
    change(online)
    average.update(tau)
    expected = {"online": online, "before": before}[same_as]
    for mine, its in zip(average.module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


def test_it_holds_the_copy_alone_and_without_gradient() -> None:
    online = network()
    average = Momentum(online, 0.9)
    assert not any(p.requires_grad for p in average.parameters())
    assert not average(torch.randn(8, 3, requires_grad=True)).requires_grad
    assert set(average.state_dict()) == {f"module.{name}" for name in online.state_dict()}
    assert all(p.requires_grad for p in online.parameters())


def test_it_follows_its_owner_when_both_are_copied_or_change_their_type() -> None:
    owner = nn.ModuleDict({"online": network()})
    owner["average"] = Momentum(owner["online"], 0.5)
    other = copy.deepcopy(owner).double()
    change(other["online"])
    other["average"].update(0.0)
    torch.testing.assert_close(other["average"].module[0].weight, other["online"][0].weight)
    assert not torch.equal(owner["online"][0].weight.double(), other["online"][0].weight)
    torch.testing.assert_close(owner["average"].module[0].weight, owner["online"][0].weight)
