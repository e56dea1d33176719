"""SimSiam (Chen & He 2021): the target is the network itself, held still for the step."""

from __future__ import annotations

from torch import Tensor

from edgekit.models.encoders import Normalization
from edgekit.recipe.methods import SimSiamConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.pretrain.siamese import Siamese


class SimSiam(Siamese):
    """The method; the collapse of the paper's figure 2 with `stop_gradient: false`.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    predictor_bias = True

    def __init__(self, config: Config, image_size: SizeLike, normalization: Normalization | None = None) -> None:
        super().__init__(config, image_size, normalization)
        self.stop_gradient = config.stop_gradient

    def targets(self, images: list[Tensor], projections: list[Tensor]) -> list[Tensor]:
        """The projections, detached."""
        return [z.detach() for z in projections] if self.stop_gradient else projections
