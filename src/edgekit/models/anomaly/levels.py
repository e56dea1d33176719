"""The feature maps of an encoder, one for each of its resolutions: what the detectors compare, place by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.models.encoders import Encoder
from edgekit.models.trial import run_once
from edgekit.sizes import ImageSize, SizeLike


@dataclass(frozen=True)
class Level:
    """The last feature map of one resolution.

    Attributes:
        module: the path of the module that gives it, in the encoder's network.
        channels: of the map.
        size: its height and width.
    """

    module: str
    channels: int
    size: tuple[int, int]


def levels_of(encoder: Encoder, image_size: SizeLike) -> list[Level]:
    """Find the last map of every resolution of an encoder, the finest first.

    A module that changes the resolution more than once, such as a `Sequential` of all blocks, is looked into; one that does so
    once, such as the stage of a ResNet, is one level. The maps inside a block are none, and what is not of the image's shape is no map: a
    transformer's tokens.

    Args:
        encoder: any image network; it runs once, in evaluation mode.
        image_size: size of the images, in pixels.
    """
    size, network = ImageSize.of(image_size), encoder.network
    shapes = _shapes(network, torch.zeros(1, 3, *size))
    found: dict[tuple[int, int], Level] = {}
    last = (size.height, size.width)
    for name, module in _in_order(network, shapes):
        _, (_, channels, height, width) = shapes[module]
        same_shape = abs(height * size.width - width * size.height) <= max(size)  # to a row or a column
        if same_shape and height <= last[0] and width <= last[1]:
            last = (height, width)
            found[last] = Level(name, channels, last)
    return sorted(found.values(), key=lambda level: -level.size[0] * level.size[1])


def chosen_levels(
    encoder: Encoder, image_size: SizeLike, numbers: list[int], where: str, *, optional: bool = False
) -> list[Level]:
    """The levels that a recipe names, the finest first.

    Args:
        encoder, image_size: see `levels_of`.
        numbers: of the levels, counted from the coarsest, which is 1.
        where: the recipe's key of the encoder, for messages.
        optional: whether levels that the encoder does not have are left out, as those of a default are, of which small images have fewer.

    Raises:
        RecipeError: the encoder has no feature maps of several resolutions, or fewer than a number says.
    """
    levels = levels_of(encoder, image_size)
    if len(levels) < 2:
        raise RecipeError(
            f"{where}: the encoder has no feature maps of several resolutions to compare",
            "choose a convolutional network such as resnet18",
        )
    there = [number for number in numbers if number <= len(levels)]
    if len(there) < len(numbers) and not (optional and there):
        sizes = ", ".join(f"{i}: {level.size[0]} x {level.size[1]}" for i, level in enumerate(reversed(levels), 1))
        raise RecipeError(
            f"anomaly.levels is {numbers}, but the encoder has {len(levels)} levels",
            f"its levels are {sizes}",
        )
    return [levels[-number] for number in sorted(there, reverse=True)]


def feature_maps(encoder: Encoder, modules: list[str], images: Tensor) -> list[Tensor]:
    """The outputs of some modules of an encoder's network, float32 (n, c, h, w) each, in the order of `modules`.

    Args:
        encoder: in evaluation mode.
        modules: their paths in the network.
        images: normalized float32 (n, 3, h, w).
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [encoder.network.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    try:
        encoder(images)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[name] for name in modules]


Shapes = dict[nn.Module, tuple[tuple[int, ...], tuple[int, ...]]]  # of input and output, in the order of the calls


def _shapes(network: nn.Module, images: Tensor) -> Shapes:
    """The shapes of what every module reads and gives, of those that map one (1, c, h, w) to another."""
    shapes: Shapes = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and inputs and isinstance(inputs[0], Tensor):
            shapes[module] = (tuple(inputs[0].shape), tuple(output.shape))

    handles = [module.register_forward_hook(note) for module in network.modules() if module is not network]
    run_once(network, images.to(next(network.parameters()).device), handles)
    return {module: shape for module, shape in shapes.items() if len(shape[0]) == 4}


def _in_order(module: nn.Module, shapes: Shapes, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The parts of a network that give maps of more than one pixel, in their order."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if child not in shapes:
            if any(inner in shapes for inner in child.modules()):  # a list of modules, which is not called itself
                found += _in_order(child, shapes, f"{path}.")
            continue
        read, given = shapes[child]
        if given[2] * given[3] <= 1:  # pooled
            continue
        if read[2] > 2 * given[2] and any(inner in shapes for inner in child.children()):
            found += _in_order(child, shapes, f"{path}.")
        else:
            found.append((path, child))
    return found
