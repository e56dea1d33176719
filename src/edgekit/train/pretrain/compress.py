"""CompRess (Abbasi Koohpayegani et al. 2020, arXiv 2010.14713): both networks agree which earlier images an image resembles."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.models.encoders import Normalization
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import SizeLike
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain.distilled import Distilled, Queue


class CompRess(Distilled):
    """CompRess-2q, with the arguments of `Distilled`: each network compares with a queue of its own features of the same earlier images."""

    def __init__(
        self, config: DistillConfig, image_size: SizeLike, normalization: Normalization | None, width: int
    ) -> None:
        super().__init__(config, image_size, normalization, width)
        self.teacher_queue = Queue(config.queue, width)
        self.student_queue = Queue(config.queue, width)

    def objective(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `compress_loss`; afterwards both features enter their queues."""
        student, teacher = unit(student), unit(teacher)
        with torch.autocast(student.device.type, enabled=False):
            loss = compress_loss(
                self.student_queue.similarities(student), self.teacher_queue.similarities(teacher),
                self.temperature, self.teacher_temperature,
            )  # fmt: skip
        self.student_queue.add(student)
        self.teacher_queue.add(teacher)
        return loss


def compress_loss(student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float) -> Tensor:
    """KL divergence of the student's similarity distribution over the anchors from the teacher's (CompRess, equations 1 and 2).

    Args:
        student: similarities (n, k) of the student's features to its anchors.
        teacher: likewise of the teacher, in the same order of images.
        temperature: of the student; the paper has one for both.
        teacher_temperature: of the teacher.

    Returns:
        float32 scalar, the mean over n.
    """
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / teacher_temperature).log_softmax(1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
