"""The common part of the objectives that distill a pretrained encoder: the student's projection and the teacher's features of the same image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.models.encoders import Normalization
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import SizeLike
from edgekit.train.loop.distributed import gather
from edgekit.train.pretrain.method import Loss, Method, Views

_NEVER = -1e9  # similarity of an empty place: boolean indexing would make shapes dynamic


class Distilled(Method):
    """The base class. One view of each image; the teacher's features come with it (`Views.targets`), without gradient.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
        width: of the teacher's features, and so of the student's projections.
    """

    views = 1

    def __init__(
        self, config: DistillConfig, image_size: SizeLike, normalization: Normalization | None, width: int
    ) -> None:
        super().__init__(config, image_size, normalization, output=width)
        self.temperature, self.teacher_temperature = config.temperatures

    def forward(self, views: Views) -> Loss:
        """The loss between the projections of the views and the teacher's features."""
        assert views.targets is not None
        features = self.model.encoder(views.images[0])
        projections = self.model.head(features)
        return Loss(self.objective(projections, views.targets.detach()), features, projections)

    def objective(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            student: projections (n, d), with gradient.
            teacher: features (n, d).
        """
        raise NotImplementedError


class Queue(torch.nn.Module):
    """The latest features, l2-normalized: a ring whose empty places count as infinitely far. A state of the training.

    Args:
        size: number of places.
        width: of the features.
    """

    features: Tensor
    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of all that came; no step waits for it

    def similarities(self, rows: Tensor) -> Tensor:
        """Dot products (n, size) of rows (n, d) with the features."""
        empty = torch.arange(len(self.features), device=rows.device) >= self.count
        return (rows @ self.features.to(rows.dtype).T).masked_fill(empty, _NEVER)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Replace the oldest features by these rows (n, d) of all processes."""
        latest = gather(rows.detach())[-len(self.features) :]
        places = (self.count + torch.arange(len(latest), device=rows.device)) % len(self.features)
        # Another tensor, not the same one changed: the loss's gradient still needs what was in the queue.
        self.features = self.features.index_copy(0, places, latest.to(self.features.dtype))
        self.count = self.count + len(latest)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n of -sum_j softmax(teacher)_j log softmax(student)_j, of logits (n, k) each."""
    return F.cross_entropy(student, F.softmax(teacher, dim=1))
