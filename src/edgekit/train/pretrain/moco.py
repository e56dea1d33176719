"""MoCo v2 (He et al. 2020; Chen et al. 2020c): a query agrees with its key, negatives are the keys of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.data.to_device import to_device
from edgekit.models.encoders import Normalization
from edgekit.models.momentum import Momentum
from edgekit.recipe.methods import MoCoConfig as Config
from edgekit.sizes import SizeLike
from edgekit.train.loop.distributed import gather, is_synchronized, rank, world_size
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain.losses import info_nce
from edgekit.train.pretrain.method import Loss, Method, Views


class MoCo(Method):
    """The method; the queue and the key encoder are part of its state.

    Args:
        config: the recipe's part.
        image_size: size of the views, in pixels.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
    """

    queue: Tensor
    oldest: Tensor

    def __init__(self, config: Config, image_size: SizeLike, normalization: Normalization | None = None) -> None:
        super().__init__(config, image_size, normalization)
        self.temperature = config.temperature
        self.symmetric = config.symmetric
        self.key_encoder = Momentum(self.model, config.momentum)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.projection.output), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))  # on the device: no step waits for it

    def forward(self, views: Views) -> Loss:
        """InfoNCE of the first view's queries with the second view's keys; `symmetric`, also the other way round, averaged."""
        first, second = views.images
        losses, features, projections, keys = [], [], [], []
        for query, key in [(first, second), (second, first)] if self.symmetric else [(first, second)]:
            features.append(self.model.encoder(query))
            projections.append(self.model.head(features[-1]))
            keys.append(self._keys(key, views.generator))
            own = keys[-1].chunk(world_size())[rank()]
            losses.append(info_nce(projections[-1], own, self.queue, self.temperature))
        self._enqueue(torch.cat(keys))
        return Loss(torch.stack(losses).mean(), torch.cat(features), torch.cat(projections))

    def after_step(self, done: float) -> None:
        """The key encoder follows."""
        self.key_encoder.update()

    @torch.no_grad()
    def _keys(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Keys (N, d) of the whole batch, l2-normalized, in the order of the processes.

        Where every process normalizes its own share of the batch, that share's statistics would tell a query which keys are
        its companions. So the images are shuffled among the processes first (shuffling BatchNorm, He et al. 2020, section 3.3).
        """
        if world_size() == 1 or is_synchronized(self.model):
            return gather(unit(self.key_encoder(images)))
        everybody = gather(images)
        order = to_device(torch.randperm(len(everybody), generator=generator), images.device)
        shuffled = gather(unit(self.key_encoder(everybody[order.chunk(world_size())[rank()]])))
        return torch.empty_like(shuffled).index_copy_(0, order, shuffled)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """The oldest keys make room for the newest."""
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        # Another tensor, not the same one changed: the loss's gradient still needs what was in the queue.
        self.queue = self.queue.index_copy(0, places, keys.to(self.queue.dtype))
        self.oldest.add_(len(keys)).remainder_(len(self.queue))
