"""Distillation: the student learns the predictions of the teachers for the same augmented images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.data.pixels import Pixels
from edgekit.data.to_device import to_device
from edgekit.models.classifier import Classifier
from edgekit.models.momentum import Momentum
from edgekit.recipe import Distill
from edgekit.train.distill.losses import decoupled, regression
from edgekit.train.distill.mixing import Mixed, mix
from edgekit.train.distill.teachers import Teacher
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.objective import Objective, OneClass


class DistillTask(nn.Module):
    """Trains the student on the predictions of the teachers for the same augmented images.

    Args:
        student: the classifier that learns.
        teachers: frozen; of several, the mean of the softened probabilities is the target.
        augment: makes a view.
        config: the recipe's part: loss, temperature, weights, EMA.
        labeled: the label budget, for the supervised share of the loss.
        objective: the losses; None: those of a classification.
        of_images: gives the logits (n, classes) of one more teacher, which sees the whole images instead of the views: from pixels
            (n, h, w, 3) and the rows (n) of the images that are distilled on. None: there is no such teacher.
    """

    def __init__(
        self,
        student: Classifier,
        teachers: Sequence[Teacher],
        augment: Augment,
        config: Distill,
        labeled: ImageSet,
        objective: Objective | None = None,
        of_images: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective or OneClass()
        self.student = student
        self.teachers, self.of_images = list(teachers), of_images
        self.augment = augment
        self.config = config
        self.labeled = labeled
        self.projector: nn.Linear | None = None  # used in training only, not stored
        if config.loss == "feature":
            width = sum(teacher.embedding_dim for teacher in teachers)
            self.projector = nn.Linear(student.head.in_features, width)
        self.averaged = Momentum(student, config.ema) if config.ema else None
        self.steps = 0

    @property
    def result(self) -> Classifier:
        """The model to store: the student, or the average of its weights."""
        return self.student if self.averaged is None else cast(Classifier, self.averaged.module)

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return the loss of a batch of uint8 images, and the agreement of student and teachers."""
        images = self.augment(batch["images"], draws.own)
        share, labels = self.config.labeled_weight, batch.get("labels")
        mixed: Mixed | None = None
        if self.config.mixup:
            mixed = mix(images, self.config.mixup, draws.own)
            images = mixed.images
        seen = images
        extra: Tensor | None = None
        if share and self.config.images != "labeled":
            pixels, extra = (to_device(t, images.device) for t in self._draw(len(images), draws.own))
            seen = torch.cat([images, self.augment(pixels, draws.own)])  # one BatchNorm batch
        embedding = self.student.embed(seen)
        logits = self.student.head(embedding).float()
        count = len(images)
        student = logits[:count]
        answers = [teacher(images) for teacher in self.teachers]
        whole = (
            [] if self.of_images is None else [self._of_whole(self.of_images(batch["images"], batch["index"]), mixed)]
        )
        targets = self.objective.ensemble([*(answer for answer, _ in answers), *whole], self.config.temperature)
        loss = self._soft(student, targets, labels)
        if self.projector is not None:
            projected = self.projector(embedding[:count])
            hints = torch.cat([hint for _, hint in answers], dim=1)
            loss = loss + self.config.feature_weight * regression(projected, hints)
        if share:
            of_labels = (
                self.objective.loss(logits[count:], extra)
                if extra is not None
                else self._of_labels(student, batch["labels"], mixed)
            )
            loss = (1 - share) * loss + share * of_labels
        return {"loss": loss, "logs": {"agreement": self.objective.agreement(student, targets)}}

    def after_step(self, done: float) -> None:
        """Update the average of the weights."""
        if self.averaged is not None:
            self.steps += 1
            self.averaged.follow(self.steps)

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of steps of the average, for the checkpoint."""
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        """Restore the state from a checkpoint."""
        self.steps = int(state["steps"])

    def _soft(self, student: Tensor, targets: Tensor, labels: Tensor | None) -> Tensor:
        config = self.config
        if config.loss != "dkd":
            return self.objective.soft_loss(student, targets, config.temperature)
        target = targets.argmax(1)
        if labels is not None:
            target = torch.where(labels >= 0, labels, target)
        return decoupled(student, targets, target, config.temperature, config.dkd_alpha, config.dkd_beta)

    def _of_whole(self, logits: Tensor, mixed: Mixed | None) -> Tensor:
        """Logits of the whole images; of mixed ones, those of the mixture of both answers (Zhang et al. 2018, of labels)."""
        if mixed is None:
            return logits
        return self.objective.mixture(logits, logits[mixed.other], mixed.share, self.config.temperature)

    def _of_labels(self, student: Tensor, labels: Tensor, mixed: Mixed | None) -> Tensor:
        """The loss on the labels of the batch; of a mixed image, on both labels by their shares."""
        if mixed is None:
            return self.objective.loss(student, labels)
        targets = (F.one_hot(labels, student.shape[1]) if labels.ndim == 1 else labels).float()
        return self.objective.loss(student, torch.lerp(targets, targets[mixed.other], mixed.share[:, None]))

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw random labeled images, at most as many as unlabeled ones."""
        assert self.labeled.labels is not None
        chosen = torch.randperm(len(self.labeled), generator=generator)[:count].numpy()
        return torch.from_numpy(np.ascontiguousarray(self.labeled.images[chosen])), torch.from_numpy(
            self.labeled.labels[chosen]
        )


def with_labels(pool: ImageSet, labeled: ImageSet) -> ImageSet:
    """Return the pool with the known labels (else -1), and the labeled images that it lacks: `images: both`.

    Args:
        pool: its images are not copied.
        labeled: of the same side.
    """
    assert labeled.labels is not None
    known = dict(zip(labeled.digests, labeled.labels, strict=True))
    unlabeled = np.full(labeled.labels.shape[1:], -1, np.int64)
    labels = [known.get(digest, unlabeled) for digest in pool.digests]
    present = set(pool.digests)
    rest = labeled.subset([i for i, digest in enumerate(labeled.digests) if digest not in present])
    assert rest.labels is not None
    return ImageSet(
        _Stacked(pool.images, rest.images) if len(rest) else pool.images,
        pool.names + rest.names,
        pool.digests + rest.digests,
        np.array([*labels, *rest.labels], np.int64),
    )


class _Stacked:
    """Two sets of pixels as one, without a copy of the first, which may be a memory map larger than the memory."""

    dtype = np.dtype(np.uint8)

    def __init__(self, first: Pixels, second: Pixels) -> None:
        self.parts = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return self[[index]][0]
        first, second = self.parts
        early = rows < len(first)
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        images[early], images[~early] = first[rows[early]], second[rows[~early] - len(first)]
        return images
