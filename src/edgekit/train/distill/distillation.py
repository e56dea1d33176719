"""Distillation: the student learns the predictions of the teachers for the same augmented images.

The plain loss (`kd`) is `distillation`. All losses are computed in float32 whatever the autocast (float64 stays).
"""

from __future__ import annotations

from collections.abc import Sequence
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
from edgekit.train.distill.teachers import Teacher
from edgekit.train.loop.numerics import precise
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome

_NEVER = -1e9  # logit of a masked class: boolean indexing would make shapes dynamic


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of the student under the teacher's labels, times T^2 (SimCLR v2, equation 2; Hinton et al. 2015).

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        temperature: T > 0, of both.

    Returns:
        float32 scalar: T^2 * mean over n of -sum_y P_teacher(y; T) log P_student(y; T). Its rounding is absolute, about T^2 2^-24:
        if both are certain of one class, log P is log(1 + e) of a tiny e, and a loss of 1e-5 has few digits. The gradient,
        T (P_student - P_teacher) / n, is not affected.
    """
    targets = F.softmax(precise(teacher.detach()) / temperature, dim=1)
    return F.cross_entropy(precise(student) / temperature, targets) * temperature**2


def decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Decoupled knowledge distillation (DKD; Zhao et al. 2022, equation 7), times T^2 as in the authors' code.

    The KL divergence of the student from the teacher has two terms: the confidence in the target class (TCKD), and the distribution over
    the other classes (NCKD), which plain distillation multiplies by 1 - p_teacher(target). Here each has its own
    weight: alpha * TCKD + beta * NCKD. The authors' warm-up of the loss over the first epochs is left out.

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        target: int64 (n), the label, or the top class of the teacher for an unlabeled image.
        temperature: T > 0, of both.
        alpha: weight of TCKD.
        beta: weight of NCKD.

    Returns:
        float32 scalar, the mean over n.
    """
    mask = target[:, None] == torch.arange(student.shape[1], device=student.device)
    binary, others = [], []
    for logits in (precise(student), precise(teacher.detach())):
        scaled = logits / temperature
        rest = scaled.masked_fill(mask, _NEVER)
        both = torch.stack([scaled.gather(1, target[:, None])[:, 0], rest.logsumexp(1)], dim=1)
        binary.append(both.log_softmax(1))
        others.append(rest.log_softmax(1))
    tckd, nckd = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in (binary, others))
    return (alpha * tckd + beta * nckd) * temperature**2


def regression(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the projected student's embedding and the teacher's (FitNets, Romero et al. 2015, equation 3).

    FitNets halves the squared norm; here it is the mean over both axes, so that its size does not grow with d.

    Args:
        student: (n, d), the student's embedding after a linear projection to the teacher's width.
        teacher: (n, d); no gradient flows into it.

    Returns:
        float32 scalar.
    """
    return F.mse_loss(precise(student), precise(teacher.detach()))


def ensemble(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return logits (n, k) whose softmax at a temperature is the mean of the teachers' softened probabilities; of one teacher, its logits.

    Args:
        logits: of each teacher, (n, k).
        temperature: T > 0.
    """
    if len(logits) == 1:
        return precise(logits[0])
    softened = torch.stack([F.log_softmax(precise(one) / temperature, dim=1) for one in logits])
    return temperature * (softened.logsumexp(0) - np.log(len(logits)))


class DistillTask(nn.Module):
    """Trains the student on the predictions of the teachers for the same augmented images.

    Args:
        student: the classifier that learns.
        teachers: frozen; of several, the mean of the softened probabilities is the target.
        augment: makes a view.
        config: the recipe's part: loss, temperature, weights, EMA.
        labeled: the label budget, for the supervised share of the loss.
    """

    def __init__(
        self, student: Classifier, teachers: Sequence[Teacher], augment: Augment, config: Distill, labeled: ImageSet
    ) -> None:
        super().__init__()
        self.student = student
        self.teachers = list(teachers)
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
        targets = ensemble([answer for answer, _ in answers], self.config.temperature)
        loss = self._soft(student, targets, labels)
        if self.projector is not None:
            projected = self.projector(embedding[:count])
            hints = torch.cat([hint for _, hint in answers], dim=1)
            loss = loss + self.config.feature_weight * regression(projected, hints)
        if share:
            on_labeled = (logits[count:], extra) if extra is not None else (student, batch["labels"])
            loss = (1 - share) * loss + share * F.cross_entropy(*on_labeled)
        return {"loss": loss, "logs": {"agreement": (student.argmax(1) == targets.argmax(1)).float().mean()}}

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
            return distillation(student, targets, config.temperature)
        target = targets.argmax(1)
        if labels is not None:
            target = torch.where(labels >= 0, labels, target)
        return decoupled(student, targets, target, config.temperature, config.dkd_alpha, config.dkd_beta)

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
    known = dict(zip(labeled.digests, labeled.labels.tolist(), strict=True))
    labels = [known.get(digest, -1) for digest in pool.digests]
    present = set(pool.digests)
    rest = labeled.subset([i for i, digest in enumerate(labeled.digests) if digest not in present])
    assert rest.labels is not None
    return ImageSet(
        _Stacked(pool.images, rest.images) if len(rest) else pool.images,
        pool.names + rest.names,
        pool.digests + rest.digests,
        np.array([*labels, *rest.labels.tolist()], np.int64),
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
