"""Pretraining methods, one file each. A new method is a new file, its part of the recipe (`edgekit.recipe.methods`), and a line here."""

from __future__ import annotations

from typing import Any

from edgekit.models.encoders import Normalization
from edgekit.recipe import Pretrain
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import SizeLike
from edgekit.train.pretrain.byol import BYOL
from edgekit.train.pretrain.compress import CompRess
from edgekit.train.pretrain.distilled import Distilled
from edgekit.train.pretrain.guided import BYOLGuided, SimSiamGuided
from edgekit.train.pretrain.instdisc import InstDisc
from edgekit.train.pretrain.maps import Maps
from edgekit.train.pretrain.method import Method
from edgekit.train.pretrain.moco import MoCo
from edgekit.train.pretrain.regression import Regression
from edgekit.train.pretrain.seed import SEED
from edgekit.train.pretrain.simclr import SimCLR
from edgekit.train.pretrain.simsiam import SimSiam
from edgekit.train.pretrain.triplet import Triplet

METHODS: dict[str, Any] = {
    "simclr": SimCLR, "moco": MoCo, "instdisc": InstDisc, "byol": BYOL, "simsiam": SimSiam, "byol+gsg": BYOLGuided,
    "simsiam+gsg": SimSiamGuided, "triplet": Triplet,
}  # fmt: skip
# Those of `pretrain.method: distill`, which has a teacher.
OBJECTIVES: dict[str, type[Distilled]] = {
    "cosine": Regression,
    "mse": Regression,
    "seed": SEED,
    "compress": CompRess,
    "maps": Maps,
}


def build_method(
    config: Pretrain,
    image_size: SizeLike,
    pool: int,
    normalization: Normalization | None = None,
    teacher_width: int | None = None,
) -> Method:
    """A method with fresh weights from the current random state.

    Args:
        config: the recipe's part; its class says which method.
        image_size: size of the views, in pixels.
        pool: number of images, for methods that remember each of them.
        normalization: of the views, see `edgekit.models.encoders.build_encoder`.
        teacher_width: of the teacher's features, for the method that has a teacher.
    """
    if isinstance(config, DistillConfig):
        if teacher_width is None:
            raise ValueError("the width of the teacher's features is missing")
        return OBJECTIVES[config.objective](config, image_size, normalization, teacher_width)
    method = METHODS[config.method]
    remembers = (pool,) if getattr(method, "remembers_images", False) else ()
    return method(config, image_size, *remembers, normalization)
