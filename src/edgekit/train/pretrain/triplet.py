"""Triplets of views (Schroff et al. 2015, FaceNet, without labels): an image's two views are nearer than any other image's, by a margin."""

from __future__ import annotations

import torch

from edgekit.models.encoders import Normalization
from edgekit.recipe.methods import TripletConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.pretrain.losses import triplet
from edgekit.train.pretrain.method import Loss, Method, Views


class Triplet(Method):
    """The method.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    def __init__(self, config: Config, image_size: SizeLike, normalization: Normalization | None = None) -> None:
        super().__init__(config, image_size, normalization)
        self.margin = config.margin
        self.mining = config.mining

    def forward(self, views: Views) -> Loss:
        """Triplet loss of two views with negatives mined from the whole batch; both views are one BatchNorm batch."""
        features = self.model.encoder(torch.cat(views.images))
        projections = self.model.head(features)
        first, second = projections.chunk(2)
        return Loss(triplet(first, second, self.margin, self.mining), features, projections)
