"""Optimizers and the schedule: LARS, SGD, AdamW; linear warm-up, then cosine decay, both by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.recipe import Optimizer as OptimizerConfig


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), with SimCLR's exclusions.

    A parameter of a group with `adapt=True` steps with the trust ratio eta * |w| / |g + lambda w|; biases and normalization
    are neither decayed nor adapted. It adapts when the weight decay is 0 as well (SimCLR v2's 1 % fine-tuning is LARS with
    decay 0). Momentum is applied to the scaled gradient, after the learning rate, as in Google's LARSOptimizer.

    Args:
        params: parameter groups; each may carry `adapt` (default True) and `weight_decay`.
        lr: learning rate.
        momentum: of the update.
        weight_decay: lambda.
        eta: trust coefficient, 0.001 in SimCLR.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0, eta: float = 0.001
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        updates: Any = [p.grad for p in parameters]
        if group["weight_decay"] != 0:
            updates = torch._foreach_add(updates, parameters, alpha=group["weight_decay"])
        if group["adapt"]:
            weights = torch.stack(torch._foreach_norm(parameters))
            gradients = torch.stack(torch._foreach_norm(updates))
            usable = (weights > 0) & (gradients > 0)  # a zero-initialized layer takes a plain step
            trust = torch.where(usable, group["eta"] * weights / gradients, torch.ones_like(weights))
            updates = torch._foreach_mul(updates, list(trust.unbind()))
        buffers = []
        for p in parameters:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, torch._foreach_mul(updates, group["lr"]))
        torch._foreach_sub_(parameters, buffers)


def build_optimizer(
    config: OptimizerConfig,
    model: nn.Module,
    batch_size: int,
    constant_lr: Iterable[nn.Parameter] = (),
    lr_shares: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe; biases and normalization (parameters of one dimension) get no decay and no adaptation.

    Args:
        config: name, learning rate and so on.
        model: its trainable parameters are optimized.
        batch_size: the global batch, for linear learning-rate scaling (Goyal et al. 2017).
        constant_lr: parameters whose learning rate follows no schedule (SimSiam's predictor); their groups carry
            `constant_lr: True`.
        lr_shares: share of the learning rate of the parameters that have less (layer-wise decay).
    """
    constant = {id(p) for p in constant_lr}
    shares = lr_shares or {}
    lr = config.lr * batch_size / 256 if config.scale_lr else config.lr
    parts: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        parts.setdefault((id(p) in constant, p.ndim <= 1, shares.get(p, 1.0)), []).append(p)
    groups: list[dict[str, Any]] = []
    for stays, plain, part in sorted(parts, key=lambda key: (key[0], key[1], -key[2])):
        decay = 0.0 if plain else config.weight_decay
        group = {"params": parts[stays, plain, part], "weight_decay": decay, "constant_lr": stays, "adapt": not plain}
        groups.append(group if part == 1.0 else {**group, "lr": lr * part})
    if config.name == "lars":
        return LARS(groups, lr=lr, momentum=config.momentum)
    for group in groups:
        del group["adapt"]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=lr)


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate at a step: (step + 1) / warmup while it warms up, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
