"""Pretraining methods, one file each. A new method is a new file, its part of the recipe (`edgekit.recipe.methods`), and a line here."""

from __future__ import annotations

from typing import Any

from edgekit.recipe import Pretrain
from edgekit.train.pretrain.byol import BYOL
from edgekit.train.pretrain.guided import BYOLGuided, SimSiamGuided
from edgekit.train.pretrain.instdisc import InstDisc
from edgekit.train.pretrain.method import Method
from edgekit.train.pretrain.moco import MoCo
from edgekit.train.pretrain.simclr import SimCLR
from edgekit.train.pretrain.simsiam import SimSiam
from edgekit.train.pretrain.triplet import Triplet

METHODS: dict[str, Any] = {
    "simclr": SimCLR, "moco": MoCo, "instdisc": InstDisc, "byol": BYOL, "simsiam": SimSiam, "byol+gsg": BYOLGuided,
    "simsiam+gsg": SimSiamGuided, "triplet": Triplet,
}  # fmt: skip


def build_method(config: Pretrain, image_size: int, pool: int) -> Method:
    """A method with fresh weights from the current random state.

    Args:
        config: the recipe's part; its class says which method.
        image_size: side of the views, in pixels.
        pool: number of images, for methods that remember each of them.
    """
    method = METHODS[config.method]
    return (
        method(config, image_size, pool) if getattr(method, "remembers_images", False) else method(config, image_size)
    )
