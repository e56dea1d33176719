"""SEED (Fang et al. 2021, arXiv 2101.04731): the student's similarities to a queue of the teacher's features are those of the teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.models.encoders import Normalization
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import SizeLike
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain.distilled import Distilled, Queue, soft_cross_entropy


class SEED(Distilled):
    """The method, with the arguments of `Distilled`; the queue is part of its state."""

    def __init__(
        self, config: DistillConfig, image_size: SizeLike, normalization: Normalization | None, width: int
    ) -> None:
        super().__init__(config, image_size, normalization, width)
        self.queue = Queue(config.queue, width)

    def objective(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `seed_loss`; afterwards the teacher's features enter the queue."""
        student, teacher = unit(student), unit(teacher)
        with torch.autocast(student.device.type, enabled=False):
            loss = seed_loss(
                student, teacher, self.queue.similarities(student), self.queue.similarities(teacher),
                self.temperature, self.teacher_temperature,
            )  # fmt: skip
        self.queue.add(teacher)
        return loss


def seed_loss(
    student: Tensor,
    teacher: Tensor,
    student_to_queue: Tensor,
    teacher_to_queue: Tensor,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy of the similarity distributions over the queue and the teacher's feature of the same image (SEED, equations 3 to 5).

    The own feature is the last one of D+ (section 3.2): where the teacher is certain of it, the loss is that of a contrastive pair.

    Args:
        student: projections z^S (n, d), l2-normalized.
        teacher: features z^T (n, d), l2-normalized.
        student_to_queue: similarities (n, k) of z^S to the queue D.
        teacher_to_queue: of z^T.
        temperature: tau of the student.
        teacher_temperature: tau of the teacher.

    Returns:
        float32 scalar, the mean over n.
    """
    own = (student * teacher).sum(1, keepdim=True), (teacher * teacher).sum(1, keepdim=True)
    logits = torch.cat([student_to_queue, own[0]], dim=1) / temperature
    targets = torch.cat([teacher_to_queue, own[1]], dim=1) / teacher_temperature
    return soft_cross_entropy(logits, targets)
