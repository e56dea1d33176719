"""ResNets of any width, with a stem for the image size.

Neither torchvision's nor timm's ResNet scales its stem with its stages, as SimCLR's width multiplier does; the blocks are
torchvision's.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from edgekit.models.selective import SelectiveBottleneck, averaged_shortcut, deep_stem

# Name -> (bottleneck?, blocks of the four stages): He et al. 2016, table 1; 10, 14 and 26 are the usual smaller variants.
RESNETS = {
    "resnet10": (False, (1, 1, 1, 1)),
    "resnet14": (True, (1, 1, 1, 1)),
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet26": (True, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
SELECTIVE = [
    name for name, (bottleneck, _) in RESNETS.items() if bottleneck
]  # selective kernels replace a bottleneck's 3x3
Stem = Literal["cifar", "strided", "imagenet"]
Block = type[BasicBlock] | type[Bottleneck] | type[SelectiveBottleneck]


class ResNet(nn.Module):
    """A ResNet without classifier (He et al. 2016; strides in the 3x3 convolutions, as torchvision has them).

    The last normalization of every block starts at 0, so that blocks start as the identity (Goyal et al. 2017; SimCLR too).

    Args:
        name: one of `RESNETS`.
        width: multiplier of the channels of the stem and of every stage, rounded to multiples of 8.
        stem: cifar is a 3x3 convolution of stride 1 without max-pool (SimCLR, appendix B.9), strided the same with stride 2,
            imagenet a 7x7 convolution of stride 2 and a max-pool.
        selective_kernels: SimCLR v2's (see `edgekit.models.selective`); for the names in `SELECTIVE`.
    """

    def __init__(self, name: str, width: float, stem: Stem, selective_kernels: bool = False) -> None:
        super().__init__()
        bottleneck, blocks = RESNETS[name]
        block: Block = SelectiveBottleneck if selective_kernels else Bottleneck if bottleneck else BasicBlock
        channels = [max(8, round(c * width / 8) * 8) for c in (64, 128, 256, 512)]
        kernel, stride = {"cifar": (3, 1), "strided": (3, 2), "imagenet": (7, 2)}[stem]
        self.conv1: nn.Module = nn.Conv2d(3, channels[0], kernel, stride, padding=kernel // 2, bias=False)
        if selective_kernels and stem == "imagenet":
            self.conv1 = deep_stem(channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        ins = channels[0]
        stages = []
        for i, (planes, count) in enumerate(zip(channels, blocks, strict=True)):
            stages.append(_stage(block, ins, planes, count, stride=1 if i == 0 else 2))
            ins = planes * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.feature_dim = ins
        self.stride = {"cifar": 8, "strided": 16, "imagenet": 32}[stem]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck, SelectiveBottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d) of images (n, 3, h, w): the mean over the last map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


def _stage(block: Block, ins: int, planes: int, count: int, stride: int) -> nn.Sequential:
    outs = planes * block.expansion
    shortcut: nn.Sequential | None = None
    if stride != 1 or ins != outs:
        if block is SelectiveBottleneck:
            shortcut = averaged_shortcut(ins, outs, stride)
        else:
            shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
    return nn.Sequential(block(ins, planes, stride, shortcut), *(block(outs, planes) for _ in range(count - 1)))
