"""Fine-tuning: labeled images, pseudo-labels of the pool beside them, and the average of the weights, which is what is stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.data.to_device import to_device
from edgekit.models.classifier import Classifier
from edgekit.models.momentum import Momentum
from edgekit.recipe import Finetune
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.stages.consistency import SETTLED, PseudoLabels, everywhere, pseudo_label_loss
from edgekit.train.stages.held_out import LOOK, Look, Reason, judged, weak_generator

_LOOK_EVERY = 20  # steps between two looks at the pseudo-labels, which wait for the device
_SUSPECTED = 2  # looks in a row that must find the pseudo-labels wrong on held-out images


class Pool:
    """What consistency trains on beside the labels.

    Args:
        images: the pool.
        strong: makes the view that learns.
        pseudo: makes labels of the weak view's logits.
        held_out: labeled images that nothing learns from, which tell whether the pseudo-labels can be trusted; None or empty for none.
    """

    def __init__(
        self, images: ImageSet, strong: Augment, pseudo: PseudoLabels, held_out: ImageSet | None = None
    ) -> None:
        self.images = images
        self.strong = strong
        self.pseudo = pseudo
        self.held_out = held_out if held_out is not None and len(held_out) else None


class FinetuneTask(nn.Module):
    """Cross-entropy on labeled images and, with a pool, on the pseudo-labels that the averaged model gives it.

    Args:
        model: the classifier, with its last layer where it is to start.
        augment: makes the view of a labeled image, and the weak view of an unlabeled one.
        config: the recipe's part.
        pool: where there is consistency.
    """

    def __init__(self, model: Classifier, augment: Augment, config: Finetune, pool: Pool | None = None) -> None:
        super().__init__()
        self.model = model
        self.augment = augment
        self.config = config
        self.pool = pool
        self.pseudo = pool.pseudo if pool is not None else None  # here for its buffers' sake
        self.start = copy.deepcopy(model.state_dict()) if pool is not None else None  # before any checkpoint is loaded
        averaging = config.ema > 0 or pool is not None
        self.averaged = Momentum(model, config.ema) if averaging else None
        self.steps = 0
        self.stopped_at: int | None = None  # step after which the pseudo-labels were dropped
        self.drift = 0.0
        self.look: Look | None = None
        self.suspected = 0  # looks in a row that found something wrong
        self.pool_images, self.pool_counted = 0, torch.zeros((), dtype=torch.int64)  # since the last look

    @property
    def result(self) -> Classifier:
        """What is stored: the average of the weights, or the last ones."""
        return cast(Classifier, self.averaged.module) if self.config.ema and self.averaged is not None else self.model

    def train(self, mode: bool = True) -> FinetuneTask:
        """Training mode; the average, which decides, stays in evaluation mode."""
        super().train(mode)
        if self.averaged is not None:
            self.averaged.eval()
        if self.config.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Loss and training accuracy of a batch of uint8 images with labels."""
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
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        logs["train_top1"] = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss + self.config.consistency.weight * unlabeled, "logs": logs}

    def after_step(self, done: float) -> None:
        """Let the average follow, and look whether the pseudo-labels can still be trusted."""
        self.steps += 1
        if self.averaged is not None:
            self.averaged.follow(self.steps)
        if self.pool is not None and self.stopped_at is None and self.steps % _LOOK_EVERY == 0:
            self._look_at(self.pool)
            settled = self.steps >= SETTLED  # the first steps lead the average away from the probe, perhaps astray
            self.suspected = self.suspected + 1 if settled and self.why else 0
            if self.drift > self.pool.pseudo.max_drift or self.suspected == _SUSPECTED:
                self.stopped_at = self.steps
                self._begin_anew()

    def lr_shares(self) -> dict[nn.Parameter, float]:
        """Layer-wise decay: the share of the learning rate of each of the encoder's parameters."""
        return layer_shares(self.model, self.config.layer_decay) if self.config.layer_decay < 1 else {}

    def get_extra_state(self) -> dict[str, Any]:
        """What the buffers do not hold, for the checkpoint."""
        look = dict.fromkeys(LOOK) if self.look is None else self.look.content()
        since = {
            "suspected": self.suspected or None,
            "since_images": self.pool_images or None,
            "since_counted": int(self.pool_counted) or None,
        }
        return {"steps": self.steps, "stopped_at": self.stopped_at, "drift": self.drift, **look, **since}

    def set_extra_state(self, state: Any) -> None:
        """From a checkpoint."""
        self.steps, self.drift = int(state["steps"]), float(state["drift"])
        self.stopped_at = None if state["stopped_at"] is None else int(state["stopped_at"])
        # What follows is not in a checkpoint of an older edgekit.
        self.look = Look.of(state)
        self.suspected = int(state.get("suspected") or 0)
        self.pool_images = int(state.get("since_images") or 0)
        self.pool_counted = torch.tensor(int(state.get("since_counted") or 0))

    def _begin_anew(self) -> None:
        """Undo what the pseudo-labels have taught: what is left of the steps, the labels alone train the network as it was."""
        assert self.start is not None
        assert self.averaged is not None
        for model in (self.model, self.averaged.module):
            model.load_state_dict(self.start)

    @property
    def why(self) -> str:
        """Why the pseudo-labels are not to be trusted, as the end of a sentence; empty where nothing speaks against them."""
        if self.pseudo is not None and self.drift > self.pseudo.max_drift:
            return f"{self.drift:.0%} of the pseudo-labels had moved to other classes than the frozen encoder's"
        return self.look.problem(self.config.consistency.max_gap) if self.look is not None else ""

    @property
    def reason(self) -> Reason:
        """`why`, in a word."""
        if self.pseudo is not None and self.drift > self.pseudo.max_drift:
            return "drift"
        return self.look.reason(self.config.consistency.max_gap) if self.look is not None else ""

    def _look_at(self, pool: Pool) -> None:
        """Measure what `why` is about."""
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
            decided, confidence = pool.pseudo.judge(logits)
        counted = round(float(everywhere(self.pool_counted.to(device).float())) * world_size())
        seen = self.pool_images * world_size(), counted
        labels, counts = decided.labels.cpu(), decided.counts.cpu()
        self.look = judged(labels, counts, confidence.cpu(), torch.from_numpy(truth), seen)
        self.pool_images, self.pool_counted = 0, torch.zeros((), dtype=torch.int64)

    def _pseudo_labeled(self, pool: Pool, device: torch.device, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Strong views of random images of the pool, and the labels that their weak views get."""
        assert self.averaged is not None
        pixels = to_device(self._draw(pool.images, generator), device)
        weak, strong = self.augment(pixels, generator), pool.strong(pixels, generator)
        decided = pool.pseudo(self.averaged(weak))
        self.pool_images += len(weak)
        self.pool_counted = self.pool_counted + decided.counts.sum()
        return strong, decided

    def _draw(self, images: ImageSet, generator: torch.Generator) -> Tensor:
        """This process's share of a step's images, uint8 (n, s, s, 3)."""
        count = max(2, min(self.config.consistency.images, len(images)) // world_size())
        rows = np.sort(torch.randperm(len(images), generator=generator)[:count].numpy())
        return torch.from_numpy(np.ascontiguousarray(images.images[rows]))


def layer_shares(model: Classifier, decay: float) -> dict[nn.Parameter, float]:
    """Shares of the learning rate: 1 for the last layer, decay for the encoder's last block, decay^2 for the one before, ...

    A block is what holds weights two levels below the network (`layer1.0`, `blocks.3`) or directly in it (`conv1`).

    Args:
        model: the classifier.
        decay: of each block against the one after it.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.encoder.network.named_parameters():
        first, *rest = name.split(".")
        blocks.setdefault(f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first, []).append(parameter)
    count = len(blocks)
    return {p: decay ** (count - i) for i, part in enumerate(blocks.values()) for p in part}


def mean_probabilities(logits: Tensor) -> Tensor:
    """Mean (k) of the probabilities of logits (n, k)."""
    return logits.float().softmax(1).mean(0)


def label_shares(labels: Sequence[int] | np.ndarray, classes: int) -> Tensor:
    """Share (k) of each class among labels (n)."""
    counts = torch.from_numpy(np.bincount(np.asarray(labels), minlength=classes)).float()
    return counts / counts.sum()
