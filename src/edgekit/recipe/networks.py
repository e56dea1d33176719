"""The networks of a recipe: one by its name, and teachers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekit.recipe.names import PRETRAINED, check_std, factory_of, library_of
from edgekit.recipe.part import RecipePart, Text
from edgekit.sizes import LEAST_SIDE, ImageSize, SizeBounds

Normalization = float | tuple[float, float, float]


class Architecture(RecipePart):
    """An image network by name."""

    name: str = Field(
        "resnet18",
        description="a network of torchvision or timm; write `torchvision:` or `timm:` before a name that both have",
    )
    width: float = Field(
        1.0, ge=0.125, le=4, description="ResNets only: factor on the channels of the stem and of every stage"
    )
    stem: Literal["auto", "cifar", "strided", "imagenet"] = Field(
        "auto",
        description="ResNets only: cifar: 3x3 convolution of stride 1, no max-pool; strided: the same with stride 2 (a quarter of the work); "
        "imagenet: 7x7 convolution of stride 2 and max-pool; auto: cifar up to 64 px, imagenet above",
    )
    selective_kernels: bool = Field(
        False,
        description="ResNets with bottleneck blocks only (resnet50, …): selective kernels of SimCLR v2, with the stem and shortcuts of ResNet-D",
    )
    patch_size: int | None = Field(
        None, ge=1, le=64, description="ViTs of timm only: side of the patches in pixels; default: the one in the name"
    )
    weights: Text | None = Field(
        None,
        description="weights to start from, without a classifier: pretrained: those that timm or torchvision publish for the network, "
        "fetched into their caches (timm:NAME.TAG chooses among several); or a file, safetensors or a torch state dict, loaded strictly",
    )
    weights_key: Text | None = Field(
        None,
        description="key of the weights in a checkpoint that holds several, for instance state_dict or teacher; default: those that fit, an "
        "exponential moving average (EMA) first",
    )

    mean: Normalization | None = Field(
        None,
        description="mean of the images that the weights were trained with, one number or three; default: with published weights their own, "
        "else data.mean",
    )
    std: Normalization | None = Field(None, description="standard deviation, likewise")
    interpolate_positions: bool = Field(
        False,
        description="interpolate the positional embedding of a ViT whose weights were trained on images of another size",
    )
    channels: dict[Text, Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="a pruned network: output channels of its layers, by name, where pruning left fewer than the network has; "
        "`edgekit search --prune` writes them. The layers in between follow",
    )

    def same_network(self, other: Architecture) -> bool:
        """Whether weights of one fit the other: both differ at most in the weights that they start from and how images are normalized."""
        without = {"weights", "weights_key", "mean", "std", "interpolate_positions"}
        return self.model_dump(exclude=without) == other.model_dump(exclude=without)

    @model_validator(mode="after")
    def _key_of_a_file(self) -> Architecture:
        if self.weights_key is not None and self.weights in {None, PRETRAINED}:
            raise ValueError(f"weights_key is {self.weights_key}, but weights names no file")
        if self.channels is not None and self.weights == PRETRAINED:
            raise ValueError("channels is of a pruned network, but published weights are of the whole one: name a file")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: set both or neither")
        if any(
            value is not None and value <= 0 for value in (self.std if isinstance(self.std, tuple) else (self.std,))
        ):
            raise ValueError(f"std ({self.std}) must be greater than 0")
        return self


OWN, OF_PRETRAINING = "own", "pretrain.teacher"  # values of `TeacherSource.model`


class TeacherSource(RecipePart):
    """A teacher: the fine-tuned model of the run, the teacher of its pretraining, a model of another run, or a network of the user."""

    model: Text = Field(
        "own",
        description="own: the fine-tuned model of this run; pretrain.teacher: that of pretrain.method distill, with a linear classifier that is "
        "fitted on the label budget; folder of a run: its fine-tuned model; folder of a stage (runs/NAME/distill): its model; timm:NAME or "
        "torchvision:NAME with the weights of such a classifier; module:factory: a function without arguments that returns a network from "
        "images to logits",
    )
    weights: Text | None = Field(
        None,
        description="of module:factory, timm:NAME or torchvision:NAME: file of the weights, safetensors or a torch state dict, loaded strictly; "
        "for timm and torchvision also `pretrained`",
    )
    weights_key: Text | None = Field(
        None,
        description="key of the weights in a file that holds several; default: those that fit, an average (EMA) first",
    )
    mean: Normalization | None = Field(
        None,
        description="of the same: mean that its images are normalized with, one number or three; default: of module:factory data.mean, else the "
        "network's own",
    )
    std: Normalization | None = Field(
        None,
        description="of the same: standard deviation, one number or three, greater than 0",
    )
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, 2048)] | None = Field(
        None,
        description="of the same: size of the images that it sees, in pixels, a side or [height, width], resized from those of "
        "data.image_size; default data.image_size",
    )

    @property
    def of_this_run(self) -> bool:
        """Whether the run that distills makes it, after the pretraining: `own` or `pretrain.teacher`."""
        return self.model in {OWN, OF_PRETRAINING}

    @property
    def library(self) -> tuple[str, str] | None:
        """Library and name of `timm:NAME` or `torchvision:NAME`, or None."""
        return library_of(self.model)

    @property
    def factory(self) -> tuple[str, str] | None:
        """Module and function of `module:factory`, or None."""
        return factory_of(self.model)

    @model_validator(mode="after")
    def _check(self) -> TeacherSource:
        if self.library is not None and self.weights is None:
            raise ValueError(f"weights is missing: name the file of the weights of {self.model}, or write pretrained")
        if self.factory is not None and self.weights is None:
            raise ValueError(
                f"weights is missing: {self.model} builds a network without weights; name the file of its weights"
            )
        keys = ("weights", "weights_key", "mean", "std", "image_size")
        set_keys = [name for name in keys if getattr(self, name) is not None]
        if self.factory is None and self.library is None and set_keys:
            raise ValueError(
                f"{set_keys[0]} is only for a network of your own (module:factory); {self.model} has its own: remove {set_keys[0]}"
            )
        check_std(self.std)
        return self
