"""The recipe keys of the pretraining methods: one class per method, with the defaults of its paper.

`pretrain.method` chooses the class; a key that belongs to another method is refused.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from edgekit.recipe.augmentation import Augmentation, Tiles, Transformation
from edgekit.recipe.networks import Architecture
from edgekit.recipe.part import RecipePart
from edgekit.recipe.training import Epochs, Optimizer, epochs_field, steps_field


class ProjectionConfig(RecipePart):
    """The projection head g: hidden layers Linear + BatchNorm + ReLU, then one Linear layer."""

    layers: int = Field(3, ge=1, le=4, description="number of Linear layers; SimCLR: 2 (v1) or 3 (v2)")
    hidden: int | None = Field(
        None,
        ge=8,
        description="width of the hidden layers; default: the width of the encoder's features, as in SimCLR v2",
    )
    output: int = Field(128, ge=2, description="width of the projections, which the loss compares")
    normalize_output: bool = Field(
        False,
        description="BatchNorm without scale and shift after the last layer, as in the code of SimSiam; needed for BYOL with guided "
        "stop-gradient and without a predictor, which collapses otherwise",
    )


class PredictorConfig(RecipePart):
    """The prediction head h of BYOL and SimSiam: Linear + BatchNorm + ReLU, then Linear."""

    enabled: bool = Field(
        True, description="false: no predictor; without guided stop-gradient, the method then collapses"
    )
    hidden: int = Field(512, ge=8, description="width of the hidden layer")
    constant_lr: bool = Field(
        False,
        description="keep the learning rate of the predictor constant, as in SimSiam (Chen & He 2021, section 4.2)",
    )


class MethodConfig(RecipePart):
    """The keys that all methods have."""

    title: ClassVar[str]  # for reports
    method: str = ""
    encoder: Architecture = Architecture()
    projection: ProjectionConfig = ProjectionConfig()
    epochs: Epochs = epochs_field("pretrain")
    steps: int | None = steps_field("pretrain")
    batch_size: int = Field(512, ge=2, description="images per step, of all devices together")
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    one_branch: list[Transformation] | None = Field(
        None,
        min_length=1,
        description="ablation of SimCLR (figure 5): all views share one random crop; these transformations are applied to the first "
        "view only, in this order, with the strengths of `augmentation`: crop, cutout, color (jitter and gray), sobel, noise, blur, "
        "rotate, flip, jitter, gray",
    )


class SimCLRConfig(MethodConfig):
    """SimCLR v1 and v2 (Chen et al. 2020a, 2020b); projection.layers chooses: 2 or 3."""

    title = "SimCLR"
    method: Literal["simclr"] = "simclr"
    temperature: float = Field(
        0.1,
        gt=0,
        description="temperature of NT-Xent; 0.1 for long ImageNet trainings (SimCLR v2), 0.5 on CIFAR-10 (v1, B.9)",
    )
    optimizer: Optimizer = Optimizer(name="lars", lr=0.3, weight_decay=1e-6, warmup=0.1)  # SimCLR v1, section 2.1
    tiles: Tiles | None = Field(
        None,
        description="compare windows of the images in place of whole ones: both views are of one window, and all other windows are negatives. For "
        "images that are nearly alike, such as photos of one part",
    )

    @model_validator(mode="after")
    def _windows(self) -> SimCLRConfig:
        if self.tiles is not None and self.one_branch is not None:
            raise ValueError("tiles and one_branch exclude each other: remove one of them")
        return self

    @model_validator(mode="after")
    def _layers(self) -> SimCLRConfig:
        if self.projection.layers not in {2, 3}:
            raise ValueError(f"projection.layers is {self.projection.layers}, accepted: 2 (SimCLR v1) or 3 (v2)")
        return self


class MoCoConfig(MethodConfig):
    """Momentum Contrast v2 (He et al. 2020; Chen et al. 2020c): keys of a momentum encoder, negatives from a queue."""

    title = "MoCo"
    method: Literal["moco"] = "moco"
    projection: ProjectionConfig = ProjectionConfig(layers=2)
    temperature: float = Field(0.2, gt=0, description="temperature of InfoNCE; 0.2 in MoCo v2, 0.1 on CIFAR-10")
    momentum: float = Field(
        0.99, ge=0, lt=1, description="momentum of the key encoder; 0.999 on ImageNet, 0.99 for 200 epochs on CIFAR-10"
    )
    queue: int = Field(
        4096, ge=1, description="number of negatives; a multiple of the keys per step (65,536 on ImageNet)"
    )
    symmetric: bool = Field(
        False, description="use both views as queries and as keys, as in the authors' CIFAR-10 demo; twice the work"
    )
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.03, weight_decay=1e-4)

    @model_validator(mode="after")
    def _queue(self) -> MoCoConfig:
        keys = self.batch_size * (2 if self.symmetric else 1)
        if self.queue % keys:
            raise ValueError(
                f"queue is {self.queue}, but must be a multiple of {keys}, the keys per step "
                f"({'2 * ' if self.symmetric else ''}batch_size): for instance {max(1, round(self.queue / keys)) * keys}"
            )
        return self


class InstDiscConfig(MethodConfig):
    """Instance discrimination with a memory bank (Wu et al. 2018): one slot per image of the pool; the negatives are sampled slots."""

    title = "InstDisc"
    method: Literal["instdisc"] = "instdisc"
    projection: ProjectionConfig = ProjectionConfig(layers=1)
    temperature: float = Field(0.07, gt=0)
    loss: Literal["info_nce", "nce"] = Field(
        "info_nce",
        description="info_nce: cross-entropy over the slots, as in the authors' later work; nce: as in the paper, diverged on a few thousand images",
    )
    negatives: int = Field(4096, ge=1, description="slots drawn (with replacement) per batch; m in the paper")
    momentum: float = Field(0.5, ge=0, lt=1, description="weight of the old slot when the slot of an image is updated")
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.03, weight_decay=5e-4)


class BYOLConfig(MethodConfig):
    """Bootstrap Your Own Latent (Grill et al. 2020); the loss is a quarter of the paper's: no change with LARS, a smaller step with SGD."""

    title = "BYOL"
    method: Literal["byol"] = "byol"
    projection: ProjectionConfig = ProjectionConfig(layers=2, hidden=4096, output=256)
    predictor: PredictorConfig = PredictorConfig(hidden=4096)
    momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="momentum of the target network at the start; it rises to 1 by a cosine; 0.97 for 40 epochs, 0.99 for 100 to 300, 0.996 for 1000",
    )
    optimizer: Optimizer = Optimizer(name="lars", lr=0.2, weight_decay=1.5e-6, warmup=0.1)


class SimSiamConfig(MethodConfig):
    """Simple Siamese (Chen & He 2021): stop-gradient and a predictor, no negatives and no momentum encoder."""

    title = "SimSiam"
    method: Literal["simsiam"] = "simsiam"
    projection: ProjectionConfig = ProjectionConfig(layers=3, hidden=2048, output=2048, normalize_output=True)
    predictor: PredictorConfig = PredictorConfig(hidden=512, constant_lr=True)
    stop_gradient: bool = Field(True, description="false: reproduces the collapse in figure 2 of the paper")
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.05, weight_decay=1e-4)


class BYOLGuidedConfig(BYOLConfig):
    """BYOL with guided stop-gradient (arXiv 2503.09058).

    The defaults are those of BYOL, so that only the method differs. The authors trained both with the optimizer and widths of SimSiam
    (SGD, lr 0.05, weight decay 1e-4, projections of 2048, predictor 512 with a constant learning rate) and momentum 0.99.
    """

    title = "BYOL + GSG"
    method: Literal["byol+gsg"] = "byol+gsg"  # type: ignore[assignment]


class SimSiamGuidedConfig(SimSiamConfig):
    """SimSiam with guided stop-gradient (arXiv 2503.09058); the defaults are those of SimSiam, as in the paper."""

    title = "SimSiam + GSG"
    method: Literal["simsiam+gsg"] = "simsiam+gsg"  # type: ignore[assignment]


class TripletConfig(MethodConfig):
    """Triplet loss between the views of a batch, with mined negatives (Schroff et al. 2015)."""

    title = "Triplet"
    method: Literal["triplet"] = "triplet"
    margin: float = Field(
        0.2, gt=0, description="margin on squared distances of l2-normalized projections; 0.2 in FaceNet"
    )
    mining: Literal["semi-hard", "hard", "all"] = Field(
        "semi-hard",
        description="negatives among the views of other images: semi-hard: the nearest that is farther than the positive; hard: the nearest; all",
    )
    # That of SimCLR: FaceNet's (AdaGrad, 1,000 hours) is for labeled faces.
    optimizer: Optimizer = Optimizer(name="lars", lr=0.3, weight_decay=1e-6, warmup=0.1)
