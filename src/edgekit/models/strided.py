"""A convolution of one pixel that skips pixels, for training: shortcuts of ResNets, the first branch of MobileOne, RepVGG and FastViT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PickedConv2d(nn.Conv2d):
    """A strided 1x1 convolution that picks its pixels first where gradients are wanted, then convolves without stride: the same numbers.

    The backward pass of the strided form writes beyond its memory on CPUs (oneDNN in torch 2.15): seen where the input is channels-last and
    has fewer than eight channels, or eight channels and a batch that the threads do not share evenly. The process dies, or goes on with damaged
    weights. The channels and batches that are safe are not known, so every such convolution is one of these. Without gradients, and
    in exported graphs, it is the plain convolution.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', ceil(h / stride), ceil(w / stride))."""
        if not torch.is_grad_enabled():
            return super().forward(features)
        picked = features[:, :, :: self.stride[0], :: self.stride[1]]
        return functional.conv2d(picked, self.weight, self.bias, groups=self.groups)


def pick_before_convolving(network: nn.Module) -> nn.Module:
    """Make every such convolution of a network a `PickedConv2d`, in place; its weights and their names stay."""
    for module in network.modules():
        if type(module) is not nn.Conv2d:
            continue
        if module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding == (0, 0):
            module.__class__ = PickedConv2d
    return network
