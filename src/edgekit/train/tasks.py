"""What each stage does with a batch: a module whose forward gives the loss and what is worth logging."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.models.classifier import Classifier
from edgekit.train.collapse import effective_rank, projection_std
from edgekit.train.losses import distillation
from edgekit.train.pretrain.method import Method, Views


class Batch(TypedDict, total=False):
    """`images` uint8 (n, h, w, 3), `index` int64 (n) of the images in their set and, where there are any, `labels` int64 (n)."""

    images: Tensor
    index: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Draws:
    """The randomness of a step, from CPU generators that depend on the seed, the stage and the step alone.

    Args:
        own: another on every process: augmentation.
        shared: the same on every process: what is drawn over the whole batch.
    """

    own: torch.Generator
    shared: torch.Generator


class Outcome(TypedDict):
    """The loss (scalar with gradient) and scalars for the log (no gradient)."""

    loss: Tensor
    logs: dict[str, Tensor]


class PretrainTask(nn.Module):
    """Random views of each image, and the method's loss.

    Args:
        method: one of `edgekit.train.pretrain.METHODS`.
        augment: makes a view.
    """

    def __init__(self, method: Method, augment: Augment) -> None:
        super().__init__()
        self.method = method
        self.augment = augment

    def forward(self, batch: Batch, draws: Draws, monitor: bool) -> Outcome:
        """Loss of a batch; with `monitor`, also the collapse monitor's two numbers."""
        views = [self.augment(batch["images"], draws.own) for _ in range(self.method.views)]
        loss = self.method(Views(views, batch["index"], draws.shared))
        logs = {}
        if monitor:
            logs = {
                "collapse_std": projection_std(loss.projections),
                "effective_rank": effective_rank(loss.features),
            }
        return {"loss": loss.value, "logs": logs}

    def after_step(self, done: float) -> None:
        """What the method does between steps (its momentum encoder, say)."""
        self.method.after_step(done)

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate does not decay."""
        return self.method.constant_lr()


class ClassifyTask(nn.Module):
    """Cross-entropy on labelled images: fine-tuning, and the supervised student from scratch.

    Args:
        model: a classifier.
        augment: makes a view.
        label_smoothing: of the cross-entropy.
    """

    def __init__(self, model: Classifier, augment: Augment, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.augment = augment
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, draws: Draws, monitor: bool) -> Outcome:
        """Loss and training accuracy of a batch of uint8 images with labels."""
        logits = self.model(self.augment(batch["images"], draws.own)).float()
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=self.label_smoothing)
        return {"loss": loss, "logs": {"train_top1": (logits.argmax(1) == batch["labels"]).float().mean()}}


class Teacher:
    """A frozen classifier: evaluation mode, no gradient, and no part of the checkpoint.

    Args:
        model: the classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, 3, s, s)."""
        if images.device != self.device:
            self.model, self.device = self.model.to(images.device), images.device
        with torch.no_grad():
            return self.model(images)


class DistillTask(nn.Module):
    """The student sees the same augmented image as the teacher and learns its probabilities.

    Args:
        student: the classifier that learns.
        teacher: the frozen one.
        augment: makes a view.
        temperature: of both.
        labelled: the label budget, where the loss has a supervised share.
        labelled_weight: that share, 1 - alpha in SimCLR v2's equation 3.
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Teacher,
        augment: Augment,
        temperature: float,
        labelled: ImageSet,
        labelled_weight: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.augment = augment
        self.temperature = temperature
        self.labelled = labelled
        self.labelled_weight = labelled_weight

    def forward(self, batch: Batch, draws: Draws, monitor: bool) -> Outcome:
        """Loss of a batch of uint8 images and how often student and teacher agree."""
        images = self.augment(batch["images"], draws.own)
        if self.labelled_weight == 0:
            student = self.student(images).float()
            targets = self.teacher.logits(images)
            loss = distillation(student, targets, self.temperature)
        else:
            pixels, labels = self._draw(len(images), draws.own)
            supervised = self.augment(pixels.to(images.device), draws.own)
            both = self.student(torch.cat([images, supervised])).float()  # one BatchNorm batch
            student, on_labelled = both[: len(images)], both[len(images) :]
            targets = self.teacher.logits(images)
            loss = (1 - self.labelled_weight) * distillation(student, targets, self.temperature)
            loss = loss + self.labelled_weight * F.cross_entropy(on_labelled, labels.to(images.device))
        return {"loss": loss, "logs": {"agreement": (student.argmax(1) == targets.argmax(1)).float().mean()}}

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random labelled images, at most as many as unlabelled ones."""
        assert self.labelled.labels is not None
        chosen = torch.randperm(len(self.labelled), generator=generator)[:count].numpy()
        return torch.from_numpy(np.ascontiguousarray(self.labelled.images[chosen])), torch.from_numpy(
            self.labelled.labels[chosen]
        )
