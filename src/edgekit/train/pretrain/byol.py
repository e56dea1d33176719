"""BYOL, Bootstrap Your Own Latent (Grill et al. 2020): the target is the exponential moving average of the network."""

from __future__ import annotations

import math

from torch import Tensor

from edgekit.models.encoders import Normalization
from edgekit.models.momentum import Momentum
from edgekit.recipe.methods import BYOLConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.pretrain.siamese import Siamese


class BYOL(Siamese):
    """The method. The network itself is stored and evaluated, not its average.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    def __init__(self, config: Config, image_size: SizeLike, normalization: Normalization | None = None) -> None:
        super().__init__(config, image_size, normalization)
        self.target = Momentum(self.model, config.momentum)

    def targets(self, images: list[Tensor], projections: list[Tensor]) -> list[Tensor]:
        """The average's projections; in training mode it normalizes with the statistics of these images, as the paper's code does."""
        return [self.target(view) for view in images]

    def after_step(self, done: float) -> None:
        """Move the target: the optimizer has stepped."""
        self.target.update(target_momentum(self.target.tau, done))


def target_momentum(start: float, done: float) -> float:
    """tau of the target when a share of the training is done: from `start` to 1, 1 - (1 - start) (cos(pi done) + 1) / 2 (appendix J)."""
    return 1 - (1 - start) * (math.cos(math.pi * done) + 1) / 2
