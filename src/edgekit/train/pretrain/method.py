"""The base class of pretraining methods: a module with an encoder and a head that computes a loss from the views of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.models.encoders import Normalization, build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.store import Pretrained
from edgekit.recipe.methods import MethodConfig
from edgekit.sizes import SizeLike


@dataclass(frozen=True)
class Views:
    """The inputs of a method at a step.

    Args:
        images: `Method.views` random views, each float32 (n, 3, h, w), normalized.
        index: int64 (n), each image's position in the pool.
        generator: a CPU generator in the same state on every process, for draws over the whole batch.
        targets: (n, d), the features of a teacher, for methods that have one.
    """

    images: list[Tensor]
    index: Tensor
    generator: torch.Generator
    targets: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """The loss of a step, and the inputs of the collapse monitor.

    Args:
        value: float32 scalar with gradient.
        features: (m, d), the encoder's.
        projections: (m, k), the head's.
    """

    value: Tensor
    features: Tensor
    projections: Tensor


class Method(nn.Module):
    """A pretraining method; `model` is trained and stored.

    Args:
        config: the method's part of the recipe.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
        output: width of the projections; default: that of the recipe.
    """

    views = 2

    def __init__(
        self,
        config: MethodConfig,
        image_size: SizeLike,
        normalization: Normalization | None = None,
        output: int | None = None,
    ) -> None:
        super().__init__()
        encoder = build_encoder(config.encoder, image_size, "pretrain.encoder", normalization)
        hidden = config.projection.hidden or encoder.feature_dim
        head = ProjectionHead(
            encoder.feature_dim, hidden, output or config.projection.output, config.projection.layers,
            normalize_output=config.projection.normalize_output,
        )  # fmt: skip
        self.model = Pretrained(config.encoder, image_size, encoder, head)

    def forward(self, views: Views) -> Loss:
        """The loss of a step."""
        raise NotImplementedError

    def after_step(self, done: float) -> None:
        """Called after each optimizer step; `done` is the completed share of the training, in (0, 1]."""

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate does not decay."""
        return ()
