"""The part of a recipe for `task: anomaly`: how images are compared with normal ones, and from which score on they are anomalous."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekit.recipe.networks import Architecture
from edgekit.recipe.part import RecipePart
from edgekit.recipe.training import Optimizer

AnomalyMethod = Literal["patchcore", "padim", "stfpm"]
Coreset = Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
# Counted from the coarsest map of the encoder: of a ResNet, 1 is the last stage. PatchCore compares the two stages before it, the others three.
LEVELS: dict[str, list[int]] = {"patchcore": [3, 2], "padim": [4, 3, 2], "stfpm": [4, 3, 2]}


class Anomaly(RecipePart):
    """Anomaly detection from normal images alone, on the feature maps of an encoder."""

    method: AnomalyMethod = Field(
        "patchcore",
        description="patchcore: distance from the nearest patch of normal images (Roth et al. 2022); padim: distance from a Gaussian for each "
        "place, for aligned images (Defard et al. 2021); stfpm: difference between the encoder and a student that learned normal images alone "
        "(Wang et al. 2021)",
    )
    encoder: Architecture | None = Field(
        None,
        description="a network with `weights` of its own, which then needs no pretraining; default: the encoder of `pretrain`",
    )
    levels: list[Annotated[int, Field(ge=1, le=16)]] | None = Field(
        None,
        min_length=1,
        description="the encoder's feature maps to compare, by resolution, 1 being the coarsest; default: the papers' [3, 2], of padim and stfpm "
        "[4, 3, 2]",
    )
    coreset: Coreset = Field(
        "auto",
        description="patchcore: size of the bank, a share of the training patches or their number; the paper measures 0.25, 0.1 and 0.01; "
        "auto: 0.01, but from 2,000 to 10,000 patches",
    )
    neighbors: int = Field(
        9,
        ge=1,
        description="patchcore: patches of the bank that re-weight the score of an image; 9 as in anomalib, the paper does not say; 1: none",
    )
    features: int = Field(
        100,
        ge=2,
        le=2048,
        description="padim: features, drawn at random, of each place's Gaussian; the file grows with its square (100 for a ResNet-18 in the paper)",
    )
    regularization: float = Field(
        0.01,
        gt=0,
        description="padim: added to the diagonal of each covariance, as a share of the mean variance; the paper adds 0.01 itself, to features whose "
        "variance is around 1",
    )
    epochs: int = Field(100, ge=1, description="stfpm: passes of the student over the training images")
    batch_size: int = Field(32, ge=2, description="stfpm: images per step")
    optimizer: Optimizer = Field(
        Optimizer(name="sgd", lr=0.4, scale_lr=False, weight_decay=1e-4), description="stfpm: of the student"
    )
    blur: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the Gaussian that smooths heat maps, in pixels; default: 4 for images of 224 px, in proportion; of "
        "stfpm 0",
    )
    trim: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of the training images that may be anomalous: so many of the most unusual ones are left out, and of those that set the "
        "threshold, too",
    )
    threshold: Literal["normal", "labeled"] = Field(
        "normal",
        description="what decides from which score on an image is anomalous: normal: the scores of normal images that were held out; labeled: the "
        "best F1 on one half of the test images, with an interval, measured on the other half",
    )
    false_alarms: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="threshold normal: the share of normal images that may be called anomalous. 5 % needs 19 held-out images, 1 % needs 99; with "
        "fewer, the largest of their scores is the threshold",
    )

    @model_validator(mode="after")
    def _check(self) -> Anomaly:
        if self.levels is not None and len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels {self.levels} names a level twice")
        if self.encoder is not None and self.encoder.weights is None:
            raise ValueError(
                "encoder.weights is missing: random weights tell nothing apart; add `weights: pretrained` or a file, or remove `encoder` to use "
                "the pretrained one of the run"
            )
        return self

    @property
    def chosen_levels(self) -> list[int]:
        """The levels, or the default of the method."""
        return self.levels if self.levels is not None else LEVELS[self.method]

    def sigma(self, image_size: int) -> float:
        """The standard deviation of the blur, in pixels: 4 for 224 in PatchCore and PaDiM; STFPM has none."""
        if self.blur is not None:
            return self.blur
        return 0.0 if self.method == "stfpm" else 4 * image_size / 224
