"""One stage as Lightning's module: what a step computes, with which seeds, and what is logged of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist

from edgekit.recipe import Optimizer, warmup_steps
from edgekit.train.loop.distributed import rank, world_size
from edgekit.train.loop.loader import Batches, seed_for
from edgekit.train.loop.optim import build_optimizer, warmup_cosine
from edgekit.train.loop.step import StepDraws


class StageModule(pl.LightningModule):
    """The task as Lightning's module: seeds, optimizer, and running sums of what is logged (on the device: no step waits for them)."""

    def __init__(self, task: nn.Module, optimizer: Optimizer, batches: Batches, total: int, seed: int) -> None:
        super().__init__()
        self.task = task
        self.optimizer = optimizer
        self.batches = batches
        self.total = total
        self.epoch_steps = batches.steps
        self.seed = seed
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def configure_optimizers(self) -> Any:
        constant: Iterable[nn.Parameter] = getattr(self.task, "constant_lr", tuple)()
        shares: dict[nn.Parameter, float] = getattr(self.task, "lr_shares", dict)()
        optimizer = build_optimizer(self.optimizer, self.task, self.batches.batch_size, constant, shares)
        warmup = warmup_steps(self.optimizer, self.batches.steps, self.total)

        def cosine(step: int) -> float:
            return warmup_cosine(step, self.total, warmup)

        factors = [(lambda step: 1.0) if group["constant_lr"] else cosine for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        step = self.global_step
        torch.manual_seed(seed_for(self.seed, step))  # dropout and the like
        own, shared = (torch.Generator().manual_seed(seed_for(self.seed, step, *who)) for who in ([rank()], []))
        outcome = self.task(batch, StepDraws(own, shared), monitor=(step + 1) % self.epoch_steps == 0)
        for name, value in {"loss": outcome["loss"], **outcome["logs"]}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()
            self.counts[name] = self.counts.get(name, 0) + 1
        return outcome["loss"]

    def averages(self) -> dict[str, float]:
        """Means of what was logged since the last call, over all processes; waits for the device."""
        if not self.sums:
            return {}
        values = torch.stack([self.sums[name] / self.counts[name] for name in self.sums])
        if world_size() > 1:
            dist.all_reduce(values)
            values /= world_size()
        means = dict(zip(self.sums, values.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return means

    def healthy(self) -> bool:
        """Return whether the loss is finite; waits for the device."""
        return "loss" not in self.sums or bool(torch.isfinite(self.sums["loss"]))
