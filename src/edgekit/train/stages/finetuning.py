"""The training task of fine-tuning: labeled images, pseudo-labels of the pool, and the average of the weights, which is stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.data.to_device import to_device
from edgekit.models.classifier import Classifier
from edgekit.models.momentum import Momentum
from edgekit.recipe import Finetune
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.objective import Objective, OneClass
from edgekit.train.stages.consistency import SETTLED, PseudoLabels, everywhere, pseudo_label_loss
from edgekit.train.stages.freezing import freeze
from edgekit.train.stages.held_out import HeldOutChecks, check_pseudo_labels, weak_generator

_CHECK_EVERY = 20  # steps between two checks of the pseudo-labels, which wait for the device

Reason = Literal["", "drift", "wrong"]


class Pool:
    """The unlabeled images of consistency training, and how they are used.

    Args:
        images: the pool.
        strong: augmentation of the view that is trained on.
        pseudo: turns logits of weak views into pseudo-labels.
        held_out: labeled images that no model is trained on, to check the pseudo-labels; None or empty for no check.
    """

    def __init__(
        self, images: ImageSet, strong: Augment, pseudo: PseudoLabels, held_out: ImageSet | None = None
    ) -> None:
        self.images = images
        self.strong = strong
        self.pseudo = pseudo
        self.held_out = held_out if held_out is not None and len(held_out) else None


class FinetuneTask(nn.Module):
    """The loss on labeled images and, with a pool, on the pseudo-labels that the averaged model predicts for it.

    Args:
        model: the classifier, with the initial weights of its last layer.
        augment: augmentation of labeled images, and of the weak views of unlabeled ones.
        config: `finetune` of the recipe.
        pool: for consistency training; None for none.
        objective: the loss on labels; None: that of a classification.
    """

    def __init__(
        self,
        model: Classifier,
        augment: Augment,
        config: Finetune,
        pool: Pool | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective or OneClass()
        self.model = model
        self.frozen = freeze(model.encoder.network, config.train)
        self.augment = augment
        self.config = config
        self.pool = pool
        self.pseudo = pool.pseudo if pool is not None else None  # registers its buffers
        self.start = copy.deepcopy(model.state_dict()) if pool is not None else None  # before any checkpoint is loaded
        averaging = config.ema > 0 or pool is not None
        self.averaged = Momentum(model, config.ema) if averaging else None
        self.steps = 0
        self.stopped_at: int | None = None  # step after which the pseudo-labels were dropped
        self.drift = 0.0
        self.checks = HeldOutChecks(config.consistency.max_gap)
        self.pool_images, self.pool_counted = 0, torch.zeros((), dtype=torch.int64)  # since the last check

    @property
    def result(self) -> Classifier:
        """The classifier to store: the average of the weights, or the last weights if the recipe averages none."""
        return cast(Classifier, self.averaged.module) if self.config.ema and self.averaged is not None else self.model

    def train(self, mode: bool = True) -> FinetuneTask:
        """Set the training mode; frozen parts stay in evaluation mode, and so does the averaged model, which makes the pseudo-labels."""
        super().train(mode)
        if self.averaged is not None:
            self.averaged.eval()
        for module in self.frozen:
            module.training = False
        if self.config.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return the loss and the training score of a batch of uint8 images with labels."""
        images, labels = self.augment(batch["images"], draws.own), batch["labels"]
        logs: dict[str, Tensor] = {}
        if self.pool is not None and self.stopped_at is None:
            strong, decided = self._pseudo_labeled(self.pool, images.device, draws.own)
            logits = self.model(torch.cat([images, strong])).float()  # one BatchNorm batch
            logits, of_pool = logits[: len(images)], logits[len(images) :]
            unlabeled = pseudo_label_loss(of_pool, *decided)
            logs = {"pseudo_loss": unlabeled, "pseudo_counted": decided.counts.float().mean()}
        else:
            logits, unlabeled = self.model(images).float(), torch.zeros((), device=images.device)
        loss = self.objective.loss(logits, labels, self.config.label_smoothing)
        logs[self.objective.logged] = self.objective.training_score(logits, labels)
        return {"loss": loss + self.config.consistency.weight * unlabeled, "logs": logs}

    def after_step(self, done: float) -> None:
        """Update the average, and drop the pseudo-labels if a check fails."""
        self.steps += 1
        if self.averaged is not None:
            self.averaged.follow(self.steps)
        if self.pool is not None and self.stopped_at is None and self.steps % _CHECK_EVERY == 0:
            self._check(self.pool)
            if self.reason:
                self.stopped_at = self.steps
                self._restore_start()

    def lr_shares(self) -> dict[nn.Parameter, float]:
        """Return the share of the learning rate of each parameter of the encoder, for layer-wise decay; empty without decay."""
        return layer_shares(self.model, self.config.layer_decay) if self.config.layer_decay < 1 else {}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state beside the buffers, for the checkpoint: numbers, and None for what there is not yet."""
        since = {"since_images": self.pool_images or None, "since_counted": int(self.pool_counted) or None}
        own = {"steps": self.steps, "stopped_at": self.stopped_at, "drift": self.drift}
        return {**own, **self.checks.state(), **since}

    def set_extra_state(self, state: Any) -> None:
        """Restore the state of a checkpoint; those of older versions hold only the first three entries."""
        self.steps, self.drift = int(state["steps"]), float(state["drift"])
        self.stopped_at = None if state["stopped_at"] is None else int(state["stopped_at"])
        self.checks.load(state)
        self.pool_images = int(state.get("since_images") or 0)
        self.pool_counted = torch.tensor(int(state.get("since_counted") or 0))

    @property
    def reason(self) -> Reason:
        """The failed check, for which the pseudo-labels are dropped; empty if none failed."""
        if self.pseudo is not None and self.drift > self.pseudo.max_drift:
            return "drift"
        return "wrong" if self.checks.wrong else ""

    @property
    def why(self) -> str:
        """`reason` as a sentence with its numbers."""
        if self.reason == "drift":
            return f"{self.drift:.0%} of the pseudo-labels have moved to other classes since the start of fine-tuning"
        return self.checks.last.wrong if self.reason == "wrong" and self.checks.last is not None else ""

    def _restore_start(self) -> None:
        """Undo all training: in the remaining steps, the labels alone train the network from its initial state."""
        assert self.start is not None
        assert self.averaged is not None
        for model in (self.model, self.averaged.module):
            model.load_state_dict(self.start)

    def _check(self, pool: Pool) -> None:
        """Measure the drift and, with held-out images, add a check."""
        self.drift = pool.pseudo.drift()
        if pool.held_out is None:
            return
        assert self.averaged is not None
        images, truth = pool.held_out.images, pool.held_out.labels
        assert truth is not None
        device = next(self.model.parameters()).device
        with torch.no_grad():
            pixels = to_device(torch.from_numpy(np.ascontiguousarray(images)), device)
            logits = self.averaged(self.augment(pixels, weak_generator(self.steps)))
            decided, confidence = pool.pseudo.label(logits)
        counted = round(float(everywhere(self.pool_counted.to(device).float())) * world_size())
        seen = self.pool_images * world_size(), counted
        labels, counts = decided.labels.cpu(), decided.counts.cpu()
        check = check_pseudo_labels(labels, counts, confidence.cpu(), torch.from_numpy(truth), seen)
        self.checks.add(check, counts=self.steps >= SETTLED)
        self.pool_images, self.pool_counted = 0, torch.zeros((), dtype=torch.int64)

    def _pseudo_labeled(self, pool: Pool, device: torch.device, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return strong views of random images of the pool, and the pseudo-labels of their weak views."""
        assert self.averaged is not None
        pixels = to_device(self._draw(pool.images, generator), device)
        weak, strong = self.augment(pixels, generator), pool.strong(pixels, generator)
        decided = pool.pseudo(self.averaged(weak))
        self.pool_images += len(weak)
        self.pool_counted = self.pool_counted + decided.counts.sum()
        return strong, decided

    def _draw(self, images: ImageSet, generator: torch.Generator) -> Tensor:
        """Return this process's part of the images of a step, uint8 (n, h, w, 3)."""
        count = max(2, min(self.config.consistency.images, len(images)) // world_size())
        rows = np.sort(torch.randperm(len(images), generator=generator)[:count].numpy())
        return torch.from_numpy(np.ascontiguousarray(images.images[rows]))


def layer_shares(model: Classifier, decay: float) -> dict[nn.Parameter, float]:
    """Return shares of the learning rate: 1 for the last layer, decay for the last block of the encoder, decay^2 for the one before, ...

    A block is a module with weights two levels below the network (`layer1.0`, `blocks.3`) or directly in it (`conv1`).

    Args:
        model: the classifier.
        decay: ratio of the learning rates of a block and the next one.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.encoder.network.named_parameters():
        first, *rest = name.split(".")
        blocks.setdefault(f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first, []).append(parameter)
    count = len(blocks)
    return {p: decay ** (count - i) for i, part in enumerate(blocks.values()) for p in part}


def mean_probabilities(logits: Tensor) -> Tensor:
    """Return the mean probabilities (k) of logits (n, k)."""
    return logits.float().softmax(1).mean(0)


def label_shares(labels: Sequence[int] | np.ndarray, classes: int) -> Tensor:
    """Return the share (k) of each class among labels (n)."""
    counts = torch.from_numpy(np.bincount(np.asarray(labels), minlength=classes)).float()
    return counts / counts.sum()
