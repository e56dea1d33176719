"""The student of STFPM learns the encoder's feature maps on normal images, and so cannot follow it on others (Wang et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.anomaly.heads import level_loss
from edgekit.models.anomaly.levels import feature_maps
from edgekit.models.encoders import Encoder
from edgekit.models.pixels import normalize
from edgekit.train.loop.numerics import precise
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome


class StudentTask(nn.Module):
    """Matching of the feature pyramids: the sum over the levels of the mean loss of a place (equations 1 to 3), without augmentation.

    Args:
        teacher: the encoder; it does not learn, and stays in evaluation mode.
        student: of the same architecture.
        modules: that give the levels.
        mean, std: of the normalization of the images.
    """

    def __init__(self, teacher: Encoder, student: Encoder, modules: list[str], mean: float, std: float) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student = student
        self.read = modules
        self.mean, self.std = mean, std

    def train(self, mode: bool = True) -> StudentTask:
        """Set the mode of the student alone."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return the loss of a batch of uint8 images."""
        images = normalize(batch["images"], self.mean, self.std)
        with torch.no_grad():
            taught = feature_maps(self.teacher, self.read, images)
        learned = feature_maps(self.student, self.read, images)
        losses = [level_loss(precise(t), precise(s)).mean() for t, s in zip(taught, learned, strict=True)]
        return {"loss": torch.stack(losses).sum(), "logs": {}}
