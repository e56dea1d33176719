"""SimCLR v1 and v2 (Chen et al. 2020a, 2020b): two views of an image agree, views of different images do not.

v1 and v2 differ in the depth of the projection head (2 and 3 layers) and in what fine-tuning keeps of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.models.encoders import build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.store import Pretrained
from edgekit.recipe import Pretrain
from edgekit.train.losses import nt_xent


class SimCLR(nn.Module):
    """The method.

    Args:
        config: the recipe's part.
        image_size: side of the views, in pixels.
    """

    def __init__(self, config: Pretrain, image_size: int) -> None:
        super().__init__()
        encoder = build_encoder(config.encoder, image_size, "pretrain.encoder")
        hidden = config.projection.hidden or encoder.feature_dim
        head = ProjectionHead(encoder.feature_dim, hidden, config.projection.output, config.projection.layers)
        self.model = Pretrained(config.encoder, image_size, encoder, head)
        self.temperature = config.temperature

    def loss(self, views: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of two views, each float32 (n, 3, s, s), and what the collapse monitor looks at.

        Both views go through the encoder as one batch, so BatchNorm sees 2n images.
        """
        features = self.model.encoder(torch.cat(views))
        projections = self.model.head(features)
        first, second = projections.chunk(2)
        return nt_xent(first, second, self.temperature), {"features": features, "projections": projections}
