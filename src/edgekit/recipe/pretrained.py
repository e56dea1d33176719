"""The recipe keys of pretrained weights: a network of timm or torchvision as it was published, and the teacher of `pretrain.method: distill`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekit.recipe.names import PRETRAINED, check_std, factory_of, library_of
from edgekit.recipe.networks import Normalization
from edgekit.recipe.part import RecipePart, Text
from edgekit.sizes import ImageSize, SizeBounds


class EncoderTeacher(RecipePart):
    """The encoder whose representation a student learns without labels."""

    model: Text | None = Field(
        None,
        description="timm:NAME or timm:NAME.TAG, torchvision:NAME; module:factory: a function without arguments that returns a network from "
        "images to features; folder of a run: its pretrained encoder; folder of a stage (runs/NAME/finetune): the encoder of its model",
    )
    weights: Text | None = Field(
        None,
        description="timm and torchvision: `pretrained` (the default) or a file; module:factory: a file, or none if the function loads them; "
        "safetensors or a torch state dict, loaded strictly",
    )
    weights_key: Text | None = Field(
        None,
        description="key of the weights in a file that holds several; default: those that fit, an average (EMA) first",
    )
    image_size: Annotated[ImageSize, SizeBounds(16, 2048)] | None = Field(
        None,
        description="size of the images that the teacher sees, in pixels, a side or [height, width], resized from those of data.image_size; "
        "default: the size that it was trained with (a network that takes any size: as many pixels, in the shape of data.image_size), of "
        "module:factory data.image_size",
    )
    interpolate_positions: bool = Field(
        False, description="interpolate the positional embedding of a ViT if image_size is not its own"
    )
    mean: Normalization | None = Field(
        None,
        description="mean that its images are normalized with, one number or three; default: the network's own, else data.mean",
    )
    std: Normalization | None = Field(None, description="standard deviation, likewise")

    @property
    def library(self) -> tuple[str, str] | None:
        """Library and name of a published network, or None."""
        return library_of(self.model or "")

    @property
    def factory(self) -> tuple[str, str] | None:
        """Module and function of `module:factory`, or None."""
        return factory_of(self.model or "")

    @model_validator(mode="after")
    def _check(self) -> EncoderTeacher:
        keys = [k for k in ("weights", "weights_key", "image_size", "mean", "std") if getattr(self, k) is not None]
        if self.library is None and self.factory is None and keys:
            raise ValueError(f"{keys[0]} does not apply to a run, which has its own: remove {keys[0]}")
        if self.factory is not None and self.weights == PRETRAINED:
            raise ValueError("weights is pretrained, but only networks of timm and torchvision have published weights")
        if self.weights_key is not None and self.weights in {None, PRETRAINED}:
            raise ValueError(f"weights_key is {self.weights_key}, but weights names no file")
        check_std(self.std)
        return self


Objective = Literal["cosine", "mse", "seed", "compress", "maps"]
