"""The common part of BYOL and SimSiam: the prediction of one view is pulled toward the projection of the other view, without its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.models.encoders import Normalization
from edgekit.models.heads import PredictionHead
from edgekit.recipe.methods import BYOLConfig, SimSiamConfig
from edgekit.sizes import SizeLike
from edgekit.train.loop.numerics import precise
from edgekit.train.pretrain.method import Loss, Method, Views


class Siamese(Method):
    """The base class of both methods.

    The views pass through the networks one after the other, as in the code of both papers: BatchNorm sees n images at a time.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    predictor_bias = False  # of its last layer

    def __init__(
        self, config: BYOLConfig | SimSiamConfig, image_size: SizeLike, normalization: Normalization | None = None
    ) -> None:
        super().__init__(config, image_size, normalization)
        predictor, dimension = config.predictor, config.projection.output
        self.predictor: nn.Module = (
            PredictionHead(dimension, predictor.hidden, bias=self.predictor_bias)
            if predictor.enabled
            else nn.Identity()
        )
        self.predictor_lr_is_constant = predictor.constant_lr

    def forward(self, views: Views) -> Loss:
        """Return the loss of both directions; without a predictor, the projections take the place of the predictions."""
        features = [self.model.encoder(images) for images in views.images]
        projections = [self.model.head(h) for h in features]
        sources = [self.predictor(z) for z in projections]
        targets = self.targets(views.images, projections)
        loss = negative_cosine(sources, targets, self.weights(targets, views.generator))
        return Loss(loss, torch.cat(features), torch.cat(projections))

    def targets(self, images: list[Tensor], projections: list[Tensor]) -> list[Tensor]:
        """Return the targets of the predictions of the other view.

        Args:
            images: of each view, float32 (n, 3, h, w).
            projections: of each view, by the network in training, (n, d).

        Returns:
            (n, d) of each view.
        """
        raise NotImplementedError

    def weights(self, targets: list[Tensor], generator: torch.Generator) -> Tensor | None:
        """Return the weights of the terms of `negative_cosine`; None: equal, unless stop-gradient is guided."""
        return None

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """Return the predictor's parameters if its learning rate does not decay."""
        return self.predictor.parameters() if self.predictor_lr_is_constant else ()


def negative_cosine(sources: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Negative cosine similarity of each view's prediction and the other view's target (SimSiam, Chen & He 2021, equation 2).

    BYOL's loss (Grill et al. 2020, equation 2 in both directions) is 4 + 4 times this one: the same minimum, a gradient four times
    as long. Guided stop-gradient is this loss with weights that depend on the batch.

    Args:
        sources: predictions p of the two views, (n, d) each.
        targets: projections z of the two views, (n, d) each; the caller detaches them.
        weights: (2, n) of each image's two terms, cos(p1, z2) and cos(p2, z1); default 1.

    Returns:
        float32 scalar: mean over n of -1/2 [w1 cos(p1, z2) + w2 cos(p2, z1)], in [-1, 1] where w1 + w2 averages 2.
    """
    with torch.autocast(sources[0].device.type, enabled=False):
        agreements = torch.stack(
            [
                F.cosine_similarity(precise(source), precise(target), dim=1)
                for source, target in zip(sources, reversed(targets), strict=True)
            ]
        )
    return -(agreements if weights is None else weights * agreements).sum(0).mean() / 2
