"""InstDisc (Wu et al. 2018): every image of the pool is a class of its own, with a slot in a memory bank; one view."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.data.to_device import to_device
from edgekit.models.encoders import Normalization
from edgekit.recipe.methods import InstDiscConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.loop.distributed import gather
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain.losses import info_nce, nce, nce_log_normalizer
from edgekit.train.pretrain.method import Loss, Method, Views


class InstDisc(Method):
    """The method; the bank and the normalizing constant are part of its state.

    Two deviations: the whole batch shares the slots drawn (the paper draws for each image; shared ones are a matrix product
    instead of a gather of n * m slots), and there is no proximal regularization (the authors' code has none either).

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        pool: number of images: slots of the bank.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    views = 1
    remembers_images = True
    bank: Tensor
    log_normalizer: Tensor

    def __init__(
        self, config: Config, image_size: SizeLike, pool: int, normalization: Normalization | None = None
    ) -> None:
        super().__init__(config, image_size, normalization)
        self.loss = config.loss
        self.temperature = config.temperature
        self.negatives = config.negatives
        self.momentum = config.momentum
        self.register_buffer("bank", F.normalize(torch.randn(pool, config.projection.output), dim=1))
        self.register_buffer("log_normalizer", torch.tensor(math.nan))  # until the first batch
        self._normalized = False

    def forward(self, views: Views) -> Loss:
        """NCE or InfoNCE of each image's projection with its own slot, against slots drawn from the whole bank."""
        features = self.model.encoder(views.images[0])
        projections = self.model.head(features)
        drawn = torch.randint(len(self.bank), (self.negatives,), generator=views.generator)
        samples = self.bank[to_device(drawn, self.bank.device)]
        loss = self._loss(projections, self.bank[views.index], samples)
        self._remember(views.index, projections.detach())
        return Loss(loss, features, projections)

    def _loss(self, projections: Tensor, slots: Tensor, samples: Tensor) -> Tensor:
        if self.loss == "info_nce":
            return info_nce(projections, slots, samples, self.temperature)
        if not self._normalized:  # asked once a training: the answer waits for the device
            if self.log_normalizer.isnan():
                self.log_normalizer.copy_(nce_log_normalizer(projections, samples, self.temperature, len(self.bank)))
            self._normalized = True
        return nce(projections, slots, samples, self.temperature, self.log_normalizer, len(self.bank))

    @torch.no_grad()
    def _remember(self, index: Tensor, projections: Tensor) -> None:
        """The slots of the whole batch move toward the projections, and back onto the sphere."""
        everybody, v = gather(index), gather(unit(projections)).to(self.bank.dtype)
        self.bank[everybody] = F.normalize(torch.lerp(v, self.bank[everybody], self.momentum), dim=1)
