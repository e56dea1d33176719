"""SimCLR v1 and v2 (Chen et al. 2020a, 2020b): two views of an image agree, views of different images do not.

v1 and v2 differ in the depth of the projection head (2 and 3 layers) and in what fine-tuning keeps of it.
"""

from __future__ import annotations

import torch

from edgekit.models.encoders import Normalization
from edgekit.recipe.methods import SimCLRConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.pretrain.losses import nt_xent
from edgekit.train.pretrain.method import Loss, Method, Views


class SimCLR(Method):
    """The method.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    def __init__(self, config: Config, image_size: SizeLike, normalization: Normalization | None = None) -> None:
        super().__init__(config, image_size, normalization)
        self.temperature = config.temperature

    def forward(self, views: Views) -> Loss:
        """NT-Xent of two views; both go through the encoder as one batch, so BatchNorm sees 2n images."""
        features = self.model.encoder(torch.cat(views.images))
        projections = self.model.head(features)
        first, second = projections.chunk(2)
        return Loss(nt_xent(first, second, self.temperature), features, projections)
