"""A strided 1x1 convolution that is safe to train: for shortcuts of ResNets, and branches of MobileOne, RepVGG and FastViT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PickedConv2d(nn.Conv2d):
    """A strided 1x1 convolution. With gradients, it first picks the pixels and then convolves without stride; the result is the same.

    On CPUs (oneDNN in torch 2.15), the backward pass of the strided form writes beyond its memory: observed for channels-last inputs with
    fewer than eight channels, or with eight channels and a batch that does not divide evenly among the threads. The process crashes or
    continues with damaged weights. The safe cases are not known, so every such convolution is replaced. Without gradients, and
    in exported graphs, it is the plain convolution.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', ceil(h / stride), ceil(w / stride))."""
        if not torch.is_grad_enabled():
            return super().forward(features)
        picked = features[:, :, :: self.stride[0], :: self.stride[1]]
        return functional.conv2d(picked, self.weight, self.bias, groups=self.groups)


def pick_before_convolving(network: nn.Module) -> nn.Module:
    """Replace every strided 1x1 convolution of a network by a `PickedConv2d`, in place; weights and names are kept."""
    for module in network.modules():
        if type(module) is not nn.Conv2d:
            continue
        if module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding == (0, 0):
            module.__class__ = PickedConv2d
    return network
