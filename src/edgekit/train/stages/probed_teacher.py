"""The teacher of the pretraining as a teacher of the distillation: its features, and a linear classifier that is fitted on the label budget.

A few labels say more about the features of a large pretrained encoder than about those of the small network that it taught, and its
answers for the whole pool cost nothing more where pretraining kept its features. So the student learns from both: the features without
labels, then the classes of all images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.data.images import ImageSet
from edgekit.data.pixels import margins
from edgekit.data.splits import Splits
from edgekit.data.to_device import to_device
from edgekit.models.pixels import normalize
from edgekit.recipe import Recipe
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.run import Run
from edgekit.train.evaluate import apply, labels_of
from edgekit.train.loop.devices import uses_bf16
from edgekit.train.loop.distributed import world_size
from edgekit.train.pretrain.teacher import AsEncoder, load_encoder_teacher, teacher_identity
from edgekit.train.pretrain.teacher_features import TeacherFeatures, keeps_features
from edgekit.train.stages.linear_head import fit_linear

_ROWS = 4096  # of features that are multiplied at once


class ProbedTeacher:
    """Logits of whole images: the linear probe on the mean of the features of an image and of its mirror image.

    The mirror image counts if pretraining flips views. In one process, the logits of all images are computed first, from the features that
    the run keeps; with several, in every step, since each process would need those of all images.

    Args:
        recipe: with `pretrain.method: distill`.
        splits: the label budget.
        images: those that are distilled on.
        run: keeps the features.
        device: where features are computed.
    """

    def __init__(self, recipe: Recipe, splits: Splits, images: ImageSet, run: Run, device: torch.device) -> None:
        config, data = recipe.pretrain, recipe.data
        assert isinstance(config, DistillConfig)
        self.data = data
        teacher = load_encoder_teacher(config.teacher, data, run)
        flips = config.augmentation.at(data.image_size).flip > 0
        self.encoder = _BothSides(teacher) if flips else AsEncoder(teacher)
        labeled = splits.labeled.center_crop(data.image_size)
        features = apply(self.encoder, labeled.images, data.mean, data.std, device, "teacher of the labels")
        self.weight, self.bias = fit_linear(features, labels_of(labeled), len(splits.classes))
        self.logits: Tensor | None = None
        if world_size() == 1:
            kept = TeacherFeatures(
                teacher, images, data.image_size, flips=flips, identity=teacher_identity(config.teacher, run), folder=run.path,
                device=device, bf16=uses_bf16(recipe.hardware),
            )  # fmt: skip
            known = images is splits.pool and keeps_features(config, data.image_size)
            kept.complete(None if known else "distill")
            self.logits = torch.cat(
                [self._classified(kept.means(rows)) for rows in torch.arange(len(images)).split(_ROWS)]
            )

    @torch.no_grad()
    def __call__(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Return logits (n, classes), on the device of the pixels.

        Args:
            pixels: uint8 (n, h, w, 3), of which the center is seen.
            rows: of the same images, int64 (n).
        """
        if self.logits is not None:
            return to_device(self.logits[rows.cpu()], pixels.device)
        size = self.data.image_size
        top, left = margins(tuple(pixels.shape), size)
        center = pixels[:, top : top + size.height, left : left + size.width]
        return self._classified(self.encoder(normalize(center, self.data.mean, self.data.std)).float())

    def _classified(self, features: Tensor) -> Tensor:
        return features @ self.weight.to(features.device).T + self.bias.to(features.device)


class _BothSides(AsEncoder):
    """The mean of a teacher's features of images and of their mirror images."""

    def forward(self, images: Tensor) -> Tensor:
        return (self.teacher(images) + self.teacher(images.flip(3))) / 2
