"""Feature maps: each place of the student's last map learns the teacher's features of the same place of the image.

FitNets (Romero et al. 2015, section 3.1) regresses a map of the teacher through a convolution on the student's map. Here the convolution is 1x1, and
it is the projection head itself: what it learns of the places holds for their mean, the student's features.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import RecipeError
from edgekit.models.encoders import Normalization
from edgekit.models.trial import run_once
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import ImageSize, SizeLike
from edgekit.train.loop.numerics import precise
from edgekit.train.pretrain.distilled import Distilled
from edgekit.train.pretrain.method import Loss, Views
from edgekit.train.pretrain.regression import cosine_distance
from edgekit.train.pretrain.teacher import FrozenEncoder


class Maps(Distilled):
    """The objective `maps`, with the arguments of `Distilled`; `Views.targets` are maps (n, d, h', w')."""

    def __init__(self, config: DistillConfig, image_size: int, normalization: Normalization | None, width: int) -> None:
        super().__init__(config, image_size, normalization, width)
        encoder = self.model.encoder
        where = f"pretrain.objective: maps: {config.encoder.name}"
        self.last = LastMap(encoder, encoder.feature_dim, image_size, where)

    def forward(self, views: Views) -> Loss:
        """The loss between the projections of the places and the teacher's features there."""
        assert views.targets is not None
        features = self.model.encoder(views.images[0])
        places = self.last.take().permute(0, 2, 3, 1)
        count, height, width, channels = places.shape
        rows = self.model.head(places.reshape(-1, channels)).view(count, height, width, -1)
        projected = rows.permute(0, 3, 1, 2)
        with torch.autocast(projected.device.type, enabled=False):
            value = maps_distance(precise(projected), precise(views.targets.detach()))
        return Loss(value, features, rows.mean((1, 2)))


def maps_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n and the student's places of 1 - cos(s_nij, t_nij).

    Args:
        student: projected maps (n, d, h, w).
        teacher: maps (n, d, h', w'); of another grid, the mean over the area of each of the student's places.

    Returns:
        float32 scalar in [0, 2].
    """
    if student.shape[2:] != teacher.shape[2:]:
        teacher = F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3]))
    s, t = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (student, teacher))
    return cosine_distance(s, t)


class LastMap:
    """Takes the last map of an encoder's features: the last output of a module with as many channels as the features, and several places.

    Args:
        network: an encoder.
        width: of its features.
        image_size: size of its images, in pixels.
        where: the network, for messages.

    Raises:
        RecipeError: it has no such map.
    """

    def __init__(self, network: nn.Module, width: int, image_size: SizeLike, where: str) -> None:
        prefixes = [count for m in network.modules() if isinstance(count := getattr(m, "num_prefix_tokens", None), int)]
        self._width, self._prefix = width, prefixes[0] if prefixes else None
        self._kept: Tensor | None = None
        last: list[nn.Module] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if self._as_map(output) is not None:
                last[:] = [module]

        hooks = [module.register_forward_hook(note) for module in network.modules()]
        device = next(network.parameters()).device
        run_once(network, torch.zeros(2, 3, *ImageSize.of(image_size), device=device), hooks)
        if not last:
            raise RecipeError(
                f"{where} has no map of its {width} features on images of {image_size} px",
                "set pretrain.objective to cosine, or take a network whose features are the mean of its last map",
            )
        last[0].register_forward_hook(self._keep)

    def take(self) -> Tensor:
        """Return the map (n, d, h, w) of the last images."""
        kept, self._kept = self._kept, None
        assert kept is not None
        return kept

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._kept = self._as_map(output)

    def _as_map(self, output: Any) -> Tensor | None:
        """Return an output as a map (n, d, h, w); None if it is none.

        Tokens (n, t, d) of a ViT are its patches, row by row, behind the class token and the registers.
        """
        if not isinstance(output, Tensor):
            return None
        if output.ndim == 3 and output.shape[2] == self._width:
            count = output.shape[1]
            side = isqrt(count if self._prefix is None else max(count - self._prefix, 0))
            prefix = count - side * side if self._prefix is None else self._prefix
            if side < 2 or prefix + side * side != count:
                return None
            return output[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
        if output.ndim != 4:
            return None
        if output.shape[1] != self._width and output.shape[3] == self._width:  # channels last, as in Swin
            output = output.permute(0, 3, 1, 2)
        return output if output.shape[1] == self._width and output.shape[2] * output.shape[3] > 1 else None


class TeacherMaps:
    """A teacher that gives maps (n, d, h, w) in place of features.

    Args:
        teacher: the frozen encoder.

    Raises:
        RecipeError: it has no map of its features.
    """

    def __init__(self, teacher: FrozenEncoder) -> None:
        self.teacher = teacher
        where = f"pretrain.teacher: {teacher.title}"
        self.last = LastMap(teacher.network, teacher.width, teacher.image_size, where)

    def __call__(self, images: Tensor) -> Tensor:
        """Maps of images (n, 3, h, w) with the student's size and normalization."""
        self.teacher(images)
        return self.last.take()
