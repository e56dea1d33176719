"""Networks with pruned channels, built again from the numbers of channels that are left.

A description names the layers that give fewer channels than those of the whole network. What follows from it, the inputs of the next layers,
normalizations and depthwise convolutions, is found by running the network once, so that a description cannot contradict itself. It only makes
layers smaller: a foreign description asks for no more memory than the whole network takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.errors import RecipeError, near, reason_of
from edgekit.models.trial import run_once
from edgekit.sizes import ImageSize, SizeLike


def cut(network: nn.Module, channels: Mapping[str, int], image_size: SizeLike, where: str) -> None:
    """Make the layers of a network smaller, in place; each keeps its first channels.

    Args:
        network: maps images (n, 3, h, w) to features.
        channels: layer -> its output channels: convolutions and linear layers, without depthwise ones.
        image_size: h and w, in pixels.
        where: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such layer, it has fewer channels, or the numbers do not fit each other.
    """
    layers = prunable(network)
    for name, count in channels.items():
        layer = layers.get(name)
        if layer is None:
            raise RecipeError(
                f"{where}: the network has no layer {name} to prune",
                near(name, sorted(layers)) or "give the channels that `edgekit search --prune` wrote",
            )
        if count > outputs(layer):
            raise RecipeError(
                f"{where}.{name}: {count} channels are more than the {outputs(layer)} of the whole network",
                "give at most these",
            )
    for name, count in channels.items():
        _keep_outputs(layers[name], count)
    _follow(network, image_size, where)


def channels_of(network: nn.Module, whole: nn.Module) -> dict[str, int]:
    """Return the description of a pruned network for `cut`.

    Args:
        network: pruned.
        whole: the same network before.
    """
    before = {name: outputs(layer) for name, layer in prunable(whole).items()}
    layers = dict(network.named_modules())
    return {name: outputs(layers[name]) for name, count in before.items() if outputs(layers[name]) != count}


def prunable(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that a description may name: convolutions and linear layers, without depthwise ones, whose channels follow."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not is_depthwise(module))
    }


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether every input channel has filters of its own."""
    return layer.groups > 1 and layer.groups == layer.in_channels


def outputs(layer: nn.Module) -> int:
    """Return the output channels of a convolution or a linear layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _keep_outputs(layer: nn.Module, count: int) -> None:
    for name in ("weight", "bias"):
        _replace(layer, name, lambda tensor: tensor[:count])
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", count)


def _follow(network: nn.Module, image_size: SizeLike, where: str) -> None:
    """Run the network once; each layer takes as many channels as it is given."""
    depthwise = {module for module in network.modules() if isinstance(module, nn.Conv2d) and is_depthwise(module)}

    def fit(module: nn.Module, args: Any) -> None:
        given = args[0].shape[-1] if isinstance(module, nn.Linear) else args[0].shape[1]
        if isinstance(module, nn.Linear):
            _replace(module, "weight", lambda tensor: tensor[:, :given])
            module.in_features = _at_most(given, module.in_features)
        elif isinstance(module, _BatchNorm):
            for name in ("weight", "bias", "running_mean", "running_var"):
                _replace(module, name, lambda tensor: tensor[:given])
            module.num_features = _at_most(given, module.num_features)
        elif module in depthwise:
            assert isinstance(module, nn.Conv2d)
            count = given * (module.out_channels // module.in_channels)
            _keep_outputs(module, _at_most(count, module.out_channels))
            module.in_channels = module.groups = given
        elif isinstance(module, nn.Conv2d):
            _replace(module, "weight", lambda tensor: tensor[:, : given // module.groups])
            module.in_channels = _at_most(given, module.in_channels)

    hooks = [
        module.register_forward_pre_hook(fit)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm))
    ]
    try:
        run_once(network, torch.zeros(1, 3, *ImageSize.of(image_size)), hooks)
    except Exception as error:  # whatever the library's code raises
        reason = reason_of(error, 120)
        raise RecipeError(
            f"{where}: these numbers of channels do not fit each other or the network: {reason}",
            "give the channels that `edgekit search --prune` wrote",
        ) from error


def _at_most(given: int, own: int) -> int:
    if given > own:
        raise ValueError(f"a layer of {own} channels is given {given}")
    return given


def _replace(module: nn.Module, name: str, change: Any) -> None:
    """Replace a parameter or buffer by a part of it."""
    tensor = getattr(module, name)
    if not isinstance(tensor, Tensor):
        return
    part = change(tensor.detach()).clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(part, requires_grad=tensor.requires_grad))
    else:
        module.register_buffer(name, part, persistent=name in module.state_dict())
