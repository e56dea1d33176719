"""Networks of torchvision and timm by name, without their classifiers."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from edgekit.errors import RecipeError, near
from edgekit.models.pretrained import check_tag
from edgekit.models.resnet import RESNETS
from edgekit.models.weight_files import Content
from edgekit.sizes import ImageSize

# Attributes that hold the classifier in torchvision's networks.
_CLASSIFIERS = ("fc", "classifier", "heads", "head")


def no_patches(name: str, patch_size: int, where: str) -> None:
    """Refuse a patch size for a network that has none."""
    raise RecipeError(
        f"{where}.patch_size is {patch_size}, but {name} takes no patch size",
        "it is for timm's ViTs, for example timm:vit_tiny_patch16_224",
    )


def named_network(
    library: str, name: str, image_size: ImageSize, patch_size: int | None, where: str, weights: Content | None = None
) -> nn.Module:
    """Build a network without its classifier: with published weights of timm, or with new ones.

    Args:
        library: timm, torchvision, or empty for either.
        name: of the network; of timm also with a tag.
        image_size: size of the images that it will see, in pixels.
        patch_size: of a ViT of timm; None for its own.
        where: the recipe's key, for messages.
        weights: of timm, as published.

    Raises:
        RecipeError: there is no such network, or it does not fit the images.
    """
    refuse_unknown(library, name, where)
    if library != "timm" and name in torchvision_names():
        if patch_size is not None:
            no_patches(name, patch_size, where)
        return _torchvision(name, image_size, where)
    return _timm(name, image_size, patch_size, where, weights)


def refuse_unknown(library: str, name: str, where: str) -> None:
    """Refuse an unknown library, network or tag."""
    if library not in {"", "timm", "torchvision"}:
        raise RecipeError(
            f"{where}.name: unknown library {library!r}", "accepted: torchvision:NAME, timm:NAME or NAME alone"
        )
    if library != "timm" and name in torchvision_names():
        return
    if library != "torchvision" and name.partition(".")[0] in timm_names():
        check_tag(name, f"{where}.name")
        return
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


def _torchvision(name: str, image_size: ImageSize, where: str) -> nn.Module:
    import torchvision.models as zoo

    options: dict[str, Any] = {"weights": None}
    if name in {"googlenet", "inception_v3"}:
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        if not image_size.is_square:
            raise RecipeError(
                f"data.image_size: {where} torchvision:{name} takes only square images, not {image_size} px",
                "use a ViT of timm, for example timm:vit_tiny_patch16_224, or a square image_size",
            )
        _divisible(image_size, int(name.rpartition("_")[2]), name, where)
        options["image_size"] = image_size.height  # its positional embedding has one vector per patch
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


def _timm(
    name: str, image_size: ImageSize, patch_size: int | None, where: str, weights: Content | None = None
) -> nn.Module:
    import timm

    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if weights is not None:  # timm converts names, and interpolates positional embeddings, as it loads
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights.value}}
    sizes: dict[str, Any] = {"img_size": for_timm(image_size)} | (
        {} if patch_size is None else {"patch_size": patch_size}
    )
    try:
        try:
            network = timm.create_model(name, **options, **sizes)  # transformers need the image size
        except TypeError:
            if patch_size is not None:
                no_patches(name, patch_size, where)
            network = timm.create_model(name, **options)
    except RecipeError:
        raise
    except Exception as error:  # whatever the library's code raises
        raise RecipeError(
            f"{where}.name: {name} cannot be built for images of {image_size} px: {error}", "change data.image_size"
        ) from error
    if weights is not None:
        vars(network)["pretrained_cfg"] = {}  # it holds the weights once more
    side = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if side is not None:
        _divisible(image_size, side[0] if isinstance(side, tuple) else side, name, where)
    return network


def for_timm(size: ImageSize) -> int | tuple[int, int]:
    """Return a size as timm's networks take it: a side for a square, their usual case, else (height, width)."""
    return size.height if size.is_square else (size.height, size.width)


def _divisible(image_size: ImageSize, patch: int, name: str, where: str) -> None:
    """Refuse images that do not divide into patches: the rest at two borders would never be seen."""
    if not any(side % patch for side in image_size):
        return
    around = [[side // patch * patch or patch, (side // patch + 1) * patch] for side in image_size]
    if image_size.is_square:
        fitting = " or ".join(str(side) for side in dict.fromkeys(around[0]))
    else:
        fitting = str([min(near, key=lambda n: abs(n - side)) for near, side in zip(around, image_size, strict=True)])
    raise RecipeError(
        f"data.image_size: {image_size} px is not a multiple of the {patch}-px patches of {where} {name}",
        f"use {fitting} px, or set {where}.patch_size for a ViT of timm",
    )
