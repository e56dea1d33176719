"""Encoders: any image network of torchvision or timm by name, without its classifier; ResNets by width and stem.

An encoder maps normalized float32 images (n, 3, s, s) to features (n, d).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError, near
from edgekit.models.resnet import RESNETS, SELECTIVE, ResNet
from edgekit.models.strided import pick_before_convolving
from edgekit.models.weights import LoadedWeights, load_weights
from edgekit.recipe import SMALL_IMAGE, Architecture

# Attributes that hold the classifier in torchvision's networks.
_CLASSIFIERS = ("fc", "classifier", "heads", "head")


class Encoder(nn.Module):
    """An image network without its classifier.

    Args:
        network: maps images (n, 3, s, s) to features (n, d).
        feature_dim: d.

    `loaded` describes the weights that it started from, if they came from a file.
    """

    def __init__(self, network: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim
        self.loaded: LoadedWeights | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d) of normalized images (n, 3, s, s)."""
        return self.network(images)


def build_encoder(architecture: Architecture, image_size: int, where: str = "encoder") -> Encoder:
    """Build an encoder, with the weights of its file if it names one, else with new ones from the current random state.

    Args:
        architecture: its name, width, stem, weights and so on.
        image_size: side of the images that it will see, in pixels; decides `stem: auto`.
        where: the recipe's key, for messages.

    Raises:
        RecipeError: the name is unknown, a key does not apply to it, the images are too small for the network, or the
            file's weights do not fit the network.
    """
    library, _, name = architecture.name.rpartition(":")
    if name in RESNETS and not library:
        encoder = _resnet(architecture, image_size, where)
    else:
        network = _by_name(library, name, image_size, architecture.patch_size, where)
        _no_resnet_keys(architecture, where)
        encoder = Encoder(network, _probe(network, architecture.name, image_size, where))
    if architecture.weights is not None:
        encoder.loaded = load_weights(
            encoder.network, architecture.weights, where, weights_key=architecture.weights_key
        )
    pick_before_convolving(encoder)
    return encoder.to(memory_format=torch.channels_last)


def _resnet(architecture: Architecture, image_size: int, where: str) -> Encoder:
    name, stem = architecture.name, architecture.stem
    if architecture.selective_kernels and name not in SELECTIVE:
        raise RecipeError(
            f"{where}.selective_kernels: {name} has no bottleneck blocks for them", f"use {', '.join(SELECTIVE)}"
        )
    if architecture.patch_size is not None:
        _no_patches(name, architecture.patch_size, where)
    if stem == "auto":
        stem = "cifar" if image_size <= SMALL_IMAGE else "imagenet"
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


def _no_patches(name: str, patch_size: int, where: str) -> None:
    raise RecipeError(
        f"{where}.patch_size is {patch_size}, but {name} takes no patch size",
        "it is for timm's ViTs, for example timm:vit_tiny_patch16_224",
    )


def _by_name(library: str, name: str, image_size: int, patch_size: int | None, where: str) -> nn.Module:
    if library not in {"", "timm", "torchvision"}:
        raise RecipeError(
            f"{where}.name: unknown library {library!r}", "accepted: torchvision:NAME, timm:NAME or NAME alone"
        )
    if library != "timm" and name in torchvision_names():
        if patch_size is not None:
            _no_patches(name, patch_size, where)
        return _torchvision(name, image_size, where)
    if library != "torchvision" and name in timm_names():
        return _timm(name, image_size, patch_size, where)
    known = {
        "": {*RESNETS, *torchvision_names(), *timm_names()},
        "timm": timm_names(),
        "torchvision": torchvision_names(),
    }[library]
    hint = near(name, sorted(known)) or "use any classification network of torchvision or timm, for example resnet18"
    raise RecipeError(f"{where}.name: unknown network {name!r}", hint)


@functools.cache
def torchvision_names() -> frozenset[str]:
    """The names of torchvision's classification networks."""
    import torchvision.models as zoo

    return frozenset(zoo.list_models(module=zoo))


@functools.cache
def timm_names() -> frozenset[str]:
    """The names of timm's networks."""
    import timm

    return frozenset(timm.list_models())


def _torchvision(name: str, image_size: int, where: str) -> nn.Module:
    import torchvision.models as zoo

    options: dict[str, Any] = {"weights": None}
    if name in {"googlenet", "inception_v3"}:
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        _divisible(image_size, int(name.rpartition("_")[2]), name, where)
        options["image_size"] = image_size  # its positional embedding has one vector per patch
    network = zoo.get_model(name, **options)
    for attribute in _CLASSIFIERS:
        classifier = getattr(network, attribute, None)
        if isinstance(classifier, nn.Sequential) and len(classifier) > 1:
            # Keep the layers before the last Linear (such as MobileNetV3's hidden layer): they are part of the network.
            setattr(network, attribute, classifier[:-1] if isinstance(classifier[-1], nn.Linear) else _pool())
            return network
        if classifier is not None:
            setattr(network, attribute, nn.Identity())
            return network
    raise RecipeError(f"{where}.name: {name} has no classifier that can be removed", "choose another network")


def _pool() -> nn.Module:
    """The replacement for a fully convolutional classifier (SqueezeNet's)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def _timm(name: str, image_size: int, patch_size: int | None, where: str) -> nn.Module:
    import timm

    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    sizes: dict[str, Any] = {"img_size": image_size} | ({} if patch_size is None else {"patch_size": patch_size})
    try:
        try:
            network = timm.create_model(name, **options, **sizes)  # transformers need the image size
        except TypeError:
            if patch_size is not None:
                _no_patches(name, patch_size, where)
            network = timm.create_model(name, **options)
    except RecipeError:
        raise
    except Exception as error:  # whatever the library's code raises
        raise RecipeError(
            f"{where}.name: {name} cannot be built for images of {image_size} px: {error}", "change data.image_size"
        ) from error
    side = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if side is not None:
        _divisible(image_size, side[0] if isinstance(side, tuple) else side, name, where)
    return network


def _divisible(image_size: int, patch: int, name: str, where: str) -> None:
    """Refuse images that do not divide into patches: the rest at two borders would never be seen."""
    if image_size % patch:
        fitting = [size for size in (image_size // patch * patch, (image_size // patch + 1) * patch) if size]
        raise RecipeError(
            f"data.image_size: {image_size} px is not a multiple of the {patch}-px patches of {where} {name}",
            f"use {' or '.join(map(str, fitting))} px, or set {where}.patch_size for a ViT of timm",
        )


def _probe(network: nn.Module, name: str, image_size: int, where: str) -> int:
    """The feature dimension, found by running the network; refuses images smaller than the network's total stride."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = network(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever the library's code raises
        reason = " ".join(str(error).split())[:120]
        raise RecipeError(
            f"data.image_size: {image_size} px is too small for {where} {name}, or does not fit it: {reason}",
            "raise data.image_size or choose a network for small images (resnet18 has a stem for them)",
        ) from error
    finally:
        network.train(was_training)
    if features.ndim != 2:
        raise RecipeError(
            f"{where}.name: {name} gives features of shape {tuple(features.shape)}, not one vector per image",
            "choose another network",
        )
    stride = _total_stride(network)
    if stride is not None:
        _fits(image_size, stride, name, where)
    return features.shape[1]


def _fits(image_size: int, stride: int, name: str, where: str) -> None:
    if image_size < stride:
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
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, side, side))
    except Exception:  # whatever the library's code raises
        return None
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    return side // smallest
