"""Selective kernels, as SimCLR v2's encoders have them: two 3x3 convolutions per block, mixed for each channel depending on the image.

It follows Google's code for SimCLR v2 (its `sk_ratio` 1/16), not the SKNet paper (Li et al. 2019), whose streams have kernels of
different sizes. It includes the two changes of ResNet-D (He et al. 2019) that the same code makes:

- a strided shortcut averages 2x2 pixels before its 1x1 convolution, instead of skipping three of four;
- the ImageNet stem is three 3x3 convolutions (the first two with half of the channels) instead of one 7x7. The CIFAR stem stays.

Two differences remain, which do not show on even maps: a 2x2 window over the border averages only existing pixels (Google's code counts
padding as zeros), and shortcuts without a stride have no pooling (Google's averages 2x2 there, which ResNet-D does not).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RATIO = 1 / 16
_LEAST = 32


class SelectiveKernels(nn.Module):
    """Two streams of 3x3 convolutions, mixed by a softmax over the streams for each image and channel.

    Args:
        ins: channels of the input.
        outs: channels of each stream and of the output.
        stride: of the convolutions.
    """

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.streams = nn.Conv2d(ins, 2 * outs, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2 * outs)
        self.relu = nn.ReLU(inplace=True)
        middle = max(int(outs * _RATIO), _LEAST)
        self.squeeze = nn.Sequential(
            nn.Conv2d(outs, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)
        )
        self.mix = nn.Conv2d(middle, 2 * outs, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, outs, h', w') of maps (n, ins, h, w)."""
        first, second = self.relu(self.bn(self.streams(maps))).chunk(2, dim=1)
        content = (first + second).mean((2, 3), keepdim=True)
        a, b = self.mix(self.squeeze(content)).chunk(2, dim=1)
        share = torch.sigmoid(a - b)  # the softmax over two
        return second + share * (first - second)


class SelectiveBottleneck(nn.Module):
    """A bottleneck block whose 3x3 convolution is `SelectiveKernels`.

    Args:
        ins: channels of the input.
        planes: channels of the middle; the output has four times as many.
        stride: of the block.
        downsample: the shortcut, if input and output differ in shape.
    """

    expansion = 4

    def __init__(self, ins: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = SelectiveKernels(planes, planes, stride)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        """(n, 4 planes, h', w') of maps (n, ins, h, w)."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        inner = self.conv2(self.relu(self.bn1(self.conv1(maps))))
        return self.relu(self.bn3(self.conv3(inner)) + shortcut)


def deep_stem(channels: int) -> nn.Sequential:
    """ResNet-D's stem, instead of the 7x7 convolution: stride 2, no normalization after the last convolution."""
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(3, half, 3, 2, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        nn.Conv2d(half, channels, 3, padding=1, bias=False),
    )  # fmt: skip


def averaged_shortcut(ins: int, outs: int, stride: int) -> nn.Sequential:
    """ResNet-D's shortcut: the mean of 2x2 pixels if there is a stride, then a 1x1 convolution."""
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs))
