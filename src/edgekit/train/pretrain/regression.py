"""Regression of the teacher's features: `cosine` for their direction, `mse` for their values."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from edgekit.models.encoders import Normalization
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import SizeLike
from edgekit.train.loop.numerics import precise, unit
from edgekit.train.pretrain.distilled import Distilled


class Regression(Distilled):
    """The objectives `cosine` and `mse`, with the arguments of `Distilled`; see `cosine_distance` and `squared_distance`."""

    def __init__(
        self, config: DistillConfig, image_size: SizeLike, normalization: Normalization | None, width: int
    ) -> None:
        super().__init__(config, image_size, normalization, width)
        self.values = config.objective == "mse"

    def objective(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `Distilled`."""
        return squared_distance(student, teacher) if self.values else cosine_distance(student, teacher)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n of 1 - cos(s_i, t_i).

    It is half the squared distance of the l2-normalized vectors: the regression that CompRess (Abbasi Koohpayegani et al. 2020, section 4)
    compares itself with, and BYOL's loss (Grill et al. 2020, equation 2) with the teacher in the place of the target network.

    Args:
        student: projections (n, d).
        teacher: features (n, d).

    Returns:
        float32 scalar in [0, 2].
    """
    return 1 - (unit(student) * unit(teacher)).sum(1).mean()


def squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n and d of (s_ij - t_ij)^2 (FitNets, Romero et al. 2015, equation 3, which sums over d and halves).

    Args:
        student: projections (n, d).
        teacher: features (n, d).

    Returns:
        float32 scalar.
    """
    return F.mse_loss(precise(student), precise(teacher))
