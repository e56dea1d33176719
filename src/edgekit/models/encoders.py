"""Encoders: any image network of torchvision or timm by name, without its classifier; ResNets by width and stem.

An encoder maps normalized float32 images (n, 3, h, w) to features (n, d).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError, reason_of
from edgekit.foreign import Unreadable
from edgekit.models.channels import cut
from edgekit.models.named import named_network, no_patches, refuse_unknown, torchvision_names
from edgekit.models.pixels import Statistics, per_channel
from edgekit.models.positions import interpolated
from edgekit.models.pretrained import Published, check_size, fetch, published
from edgekit.models.resnet import RESNETS, SELECTIVE, ResNet
from edgekit.models.strided import pick_before_convolving
from edgekit.models.trial import run_once
from edgekit.models.weight_files import Content, read_weights
from edgekit.models.weights import LoadedWeights, load_weights
from edgekit.recipe import PRETRAINED, SMALL_IMAGE, Architecture
from edgekit.sizes import ImageSize, SizeLike

Normalization = tuple[Statistics, Statistics]  # mean and standard deviation


class Encoder(nn.Module):
    """An image network without its classifier.

    Args:
        network: maps images (n, 3, h, w) to features (n, d).
        feature_dim: d.

    `loaded` describes the weights that it started from, if they came from a file. `own` is the normalization that they were trained with,
    where it is another one than the images have, and `given` that of the images: `forward` converts.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim
        self.loaded: LoadedWeights | None = None
        self.own: Normalization | None = None
        self.given: Normalization | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d) of normalized images (n, 3, h, w)."""
        return self.network(images if self.own is None else images * self.scale + self.shift)

    def convert(self, given: Normalization, own: Normalization) -> None:
        """From now on, take images with the normalization `given` and convert them to the network's own."""
        self.given, self.own = (given, own) if given != own else (None, None)
        (mean, std), (its_mean, its_std) = (
            [per_channel(v, torch.zeros(0)).double() for v in pair] for pair in (given, own)
        )
        # Not stored with the weights: the description of the model holds both normalizations.
        self.register_buffer("scale", (std / its_std).float(), persistent=False)
        self.register_buffer("shift", ((mean - its_mean) / its_std).float(), persistent=False)

    def without_conversion(self) -> Normalization | None:
        """From now on, take images with the network's own normalization; return it, or None where nothing was converted."""
        own, self.own, self.given = self.own, None, None
        return own


def build_encoder(
    architecture: Architecture, image_size: SizeLike, where: str = "encoder", normalization: Normalization | None = None
) -> Encoder:
    """Build an encoder, with published weights or those of a file if it names them, else with new ones from the current random state.

    Args:
        architecture: its name, width, stem, weights and so on.
        image_size: size of the images that it will see, in pixels; its shorter side decides `stem: auto`.
        where: the recipe's key, for messages.
        normalization: mean and standard deviation of the images; needed if the weights were trained with others.

    Raises:
        RecipeError: the name is unknown, a key does not apply to it, the images are too small for the network, or the
            file's weights do not fit the network.
    """
    image_size = ImageSize.of(image_size)
    library, _, name = architecture.name.rpartition(":")
    source = _published(architecture, image_size, where) if architecture.weights == PRETRAINED else None
    file = fetch(source, f"{where}.weights") if source is not None else None
    weights = _read(file, where) if source is not None and file is not None and source.of_timm else None
    if name in RESNETS and not library:
        encoder = _resnet(architecture, image_size, where)
    else:
        network = named_network(library, name, image_size, architecture.patch_size, where, weights)
        _no_resnet_keys(architecture, where)
        encoder = Encoder(network, _probe(network, architecture.name, image_size, where))
    if architecture.channels is not None:
        cut(encoder.network, architecture.channels, image_size, f"{where}.channels")
        encoder.feature_dim = _probe(encoder.network, architecture.name, image_size, where)
    if source is not None and weights is not None:
        encoder.loaded = _described(encoder.network, source, weights)
    elif architecture.weights is not None:
        encoder.loaded = load_weights(
            encoder.network, architecture.weights if file is None else str(file), where, weights_key=architecture.weights_key,
            adapt=interpolated if architecture.interpolate_positions else None,
        )  # fmt: skip
    own = (
        (architecture.mean, architecture.std)
        if architecture.mean is not None and architecture.std is not None
        else None
    )
    if own is None and source is not None:
        own = source.mean, source.std
    if own is not None:
        if normalization is None:
            raise ValueError(f"{where}: its images' normalization is needed to convert it to {own}")
        encoder.convert(normalization, own)
    pick_before_convolving(encoder)
    return encoder.to(memory_format=torch.channels_last)


def _published(architecture: Architecture, image_size: ImageSize, where: str) -> Published:
    """Find the published weights that a recipe asks for.

    Raises:
        RecipeError: there are none for this network, or they do not fit the images or the other keys.
    """
    library, _, name = architecture.name.rpartition(":")
    if name in RESNETS and not library:
        small = architecture.stem == "auto" and image_size.shorter <= SMALL_IMAGE
        if architecture.width != 1 or architecture.selective_kernels or name not in torchvision_names():
            raise RecipeError(
                f"{where}.weights is pretrained, but nobody publishes weights for {name} of this width and kind",
                f"use width 1 without selective kernels, or another network, for example timm:{name}.a1_in1k",
            )
        if small or architecture.stem not in {"auto", "imagenet"}:
            raise RecipeError(
                f"{where}.weights is pretrained, but the published weights of {name} are for the ImageNet stem",
                f"set {where}.stem to imagenet (data.image_size 32 or more)",
            )
        return published("torchvision", name, f"{where}.name")
    if architecture.patch_size is not None:
        raise RecipeError(
            f"{where}.patch_size: published weights have the patches of their name", "remove patch_size, or weights"
        )
    if not library:
        library = "torchvision" if name in torchvision_names() else "timm"
    refuse_unknown(library, name, where)
    source = published(library, name, f"{where}.name")
    check_size(source, image_size, architecture.interpolate_positions, where)
    return source


def _read(file: Path, where: str) -> Content:
    """Read published weights.

    Raises:
        RecipeError: the file is damaged.
    """
    try:
        return read_weights(file)
    except Unreadable as error:
        raise RecipeError(f"{where}.weights: {file}: {error.detail}", "delete it, and it is fetched again") from error


def _described(network: nn.Module, source: Published, weights: Content) -> LoadedWeights:
    state = network.state_dict()
    return LoadedWeights(source.name, weights.sha256, len(state), sum(t.numel() for t in state.values()), "", {})


def _resnet(architecture: Architecture, image_size: ImageSize, where: str) -> Encoder:
    name, stem = architecture.name, architecture.stem
    if architecture.selective_kernels and name not in SELECTIVE:
        raise RecipeError(
            f"{where}.selective_kernels: {name} has no bottleneck blocks for them", f"use {', '.join(SELECTIVE)}"
        )
    if architecture.patch_size is not None:
        no_patches(name, architecture.patch_size, where)
    if stem == "auto":
        stem = "cifar" if image_size.shorter <= SMALL_IMAGE else "imagenet"
    resnet = ResNet(name, architecture.width, stem, architecture.selective_kernels)
    _fits(image_size, resnet.stride, name, where)
    return Encoder(resnet, resnet.feature_dim)


def _no_resnet_keys(architecture: Architecture, where: str) -> None:
    """Refuse keys that apply only to edgekit's own ResNets."""
    name, stem = architecture.name, architecture.stem
    if architecture.width != 1.0:
        raise RecipeError(
            f"{where}.width is {architecture.width:g}, but {name} has no width multiplier",
            f"widths are for {', '.join(RESNETS)}",
        )
    if stem in {"cifar", "strided"}:
        raise RecipeError(f"{where}.stem is {stem}, but {name} has no such stem", f"it is for {', '.join(RESNETS)}")
    if architecture.selective_kernels:
        raise RecipeError(
            f"{where}.selective_kernels is true, but {name} has no such option",
            f"it is for {', '.join(SELECTIVE)}; timm has networks with selective kernels, for example timm:skresnet18",
        )


def _probe(network: nn.Module, name: str, image_size: ImageSize, where: str) -> int:
    """The feature dimension, found by running the network; refuses images smaller than the network's total stride."""
    try:
        features = run_once(network, torch.zeros(1, 3, *image_size))
    except Exception as error:  # whatever the library's code raises
        reason = reason_of(error, 120)
        raise RecipeError(
            f"data.image_size: {image_size} px is too small for {where} {name}, or does not fit it: {reason}",
            "raise data.image_size or choose a network for small images (resnet18 has a stem for them)",
        ) from error
    if features.ndim != 2:
        raise RecipeError(
            f"{where}.name: {name} gives features of shape {tuple(features.shape)}, not one vector per image",
            "choose another network",
        )
    stride = _total_stride(network)
    if stride is not None:
        _fits(image_size, stride, name, where)
    return features.shape[1]


def _fits(image_size: ImageSize, stride: int, name: str, where: str) -> None:
    if image_size.shorter < stride:
        raise RecipeError(
            f"data.image_size: {image_size} px is too small for {where} {name}, whose total stride is {stride}",
            f"use at least {stride} px or a network for small images (resnet18 has a stem for them)",
        )


def _total_stride(network: nn.Module) -> int | None:
    """Product of the strides along the deepest chain, measured as the ratio of a large input to its last feature map.

    None for networks that accept one image size only (most transformers).
    """
    side = 256
    smallest = side

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal smallest
        # 1x1 maps after a global pooling (squeeze-and-excitation) do not count.
        if isinstance(output, Tensor) and output.ndim == 4 and 1 < output.shape[-1] < smallest:
            smallest = output.shape[-1]

    hooks = [
        m.register_forward_hook(note)
        for m in network.modules()
        if isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))
    ]
    try:
        run_once(network, torch.zeros(1, 3, side, side), hooks)
    except Exception:  # whatever the library's code raises
        return None
    return side // smallest
