"""A convolution of one pixel that skips pixels, for images: the first branch of MobileOne, RepVGG and FastViT."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_FEW = 8  # input channels


class PickedConv2d(nn.Conv2d):
    """A strided 1x1 convolution that picks its pixels first, then convolves without stride: the same numbers.

    torch 2.15's backward pass of the strided form writes beyond its memory on CPUs, where the input is channels-last and has fewer
    than eight channels (oneDNN); the process dies, or goes on with damaged weights.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', ceil(h / stride), ceil(w / stride))."""
        picked = features[:, :, :: self.stride[0], :: self.stride[1]]
        return functional.conv2d(picked, self.weight, self.bias, groups=self.groups)


def pick_before_convolving(network: nn.Module) -> nn.Module:
    """Make every such convolution of a network a `PickedConv2d`, in place; its weights and their names stay."""
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.in_channels >= _FEW:
            continue
        if module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding == (0, 0):
            module.__class__ = PickedConv2d
    return network
