"""All pretraining methods of the recipe: `pretrain.method` chooses the class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekit.recipe.from_teacher import DistillConfig
from edgekit.recipe.methods import (
    BYOLConfig,
    BYOLGuidedConfig,
    InstDiscConfig,
    MethodConfig,
    MoCoConfig,
    SimCLRConfig,
    SimSiamConfig,
    SimSiamGuidedConfig,
    TripletConfig,
)

Pretrain = Annotated[
    SimCLRConfig
    | MoCoConfig
    | InstDiscConfig
    | BYOLConfig
    | SimSiamConfig
    | BYOLGuidedConfig
    | SimSiamGuidedConfig
    | TripletConfig
    | DistillConfig,
    Field(discriminator="method"),
]
METHODS: dict[str, type[MethodConfig]] = {
    "simclr": SimCLRConfig, "moco": MoCoConfig, "instdisc": InstDiscConfig, "byol": BYOLConfig, "simsiam": SimSiamConfig,
    "byol+gsg": BYOLGuidedConfig, "simsiam+gsg": SimSiamGuidedConfig, "triplet": TripletConfig,
    "distill": DistillConfig,
}  # fmt: skip
