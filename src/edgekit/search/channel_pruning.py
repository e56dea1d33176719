"""Structured pruning: remove whole channels, those of the least weight, together with everything that depends on them.

Which layers depend on each other is found by torch-pruning's dependency graph (DepGraph, Fang et al. 2023); the importance of a channel is theirs,
too: the L2 norm of all weights that go with it (section 3.3), divided by its mean over the group, so that groups can be ranked together.
"""

from __future__ import annotations

import math
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from edgekit.errors import EdgekitError, reason_of
from edgekit.files import write_bytes
from edgekit.models.channels import channels_of, is_depthwise, outputs, prunable
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Normalization, build_encoder
from edgekit.recipe import Architecture
from edgekit.sizes import ImageSize, SizeLike

MOST = 0.75  # of the channels of a group that may go
# Kernels compute channels in blocks, of 16 on x86-64 with AVX-512: 20 channels take as long as 32 (benchmarks/results/channel_steps.json). So
# groups keep a multiple of 16; narrow ones, which would have no choice, one of 8.
_MULTIPLE = 16
_NARROW = 32


class NotPrunable(EdgekitError):
    """The channels of this network cannot be removed."""


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Attributes:
        model: a classifier with fewer channels.
        channels: its description for `distill.student.channels`.
        removed: share of the whole network's channels that are gone.
    """

    model: Classifier
    channels: dict[str, int]
    removed: float

    @property
    def parameters(self) -> int:
        """The parameters of the encoder."""
        return sum(parameter.numel() for parameter in self.model.encoder.parameters())


def pruned(model: Classifier, share: float, whole: Classifier) -> Pruned:
    """Return a copy of a classifier without its least important channels.

    Args:
        model: trained, pruned before or not; it is not changed.
        share: of the channels that are removed. Groups keep a multiple of 16 channels (of 8, those with fewer than 32), and at least a quarter of
            theirs, so that a little more or less may go.
        whole: the network before any pruning.

    Raises:
        NotPrunable: the graph of the network is not understood.
    """
    import torch_pruning

    smaller = deepcopy(model).cpu().eval().requires_grad_()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(smaller, torch.zeros(1, 3, *model.image_size))
            importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
            groups = [
                (group, importance(group))
                for group in graph.get_all_groups(ignored_layers=[smaller.head])
                if not _grouped(group)
            ]
            _remove(graph, groups, share)
        with torch.no_grad():
            smaller(torch.zeros(1, 3, *model.image_size))
        channels = channels_of(smaller.encoder.network, whole.encoder.network)
    except Exception as error:  # whatever the library raises about a graph that it does not understand
        reason = reason_of(error, 120)
        raise NotPrunable(f"{model.architecture.name} cannot be pruned: {reason}") from error
    smaller.encoder.feature_dim = smaller.head.in_features
    left, all_of_them = (sum(map(outputs, prunable(one.encoder.network).values())) for one in (smaller, whole))
    return Pruned(smaller, channels, 1 - left / all_of_them)


def check_prunable(architecture: Architecture, image_size: SizeLike, classes: list[str]) -> None:
    """Refuse a network whose channels cannot be removed; tried with random weights.

    Raises:
        NotPrunable: its graph is not understood, or it cannot be built again with fewer channels.
    """
    plain = architecture.model_copy(update={"weights": None, "weights_key": None, "mean": None, "std": None})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = Classifier.build(plain, image_size, classes, [], "distill.student").eval()
        found = pruned(whole, MOST, whole)
        again = plain.model_copy(update={"channels": found.channels})
        try:
            build_encoder(again, image_size, "distill.student")
        except EdgekitError as error:
            raise NotPrunable(f"{architecture.name} cannot be pruned: {error.message}") from error


def _grouped(group: Any) -> bool:
    """Whether the channels belong to a convolution with groups, which would have to stay alike."""
    layers = [dependency.target.module for dependency, _ in group]
    return any(isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer) for layer in layers)


def _remove(graph: Any, groups: list[tuple[Any, torch.Tensor]], share: float) -> None:
    """Remove the share of the channels with the least importance, over all groups."""
    if not groups:
        raise ValueError("it has no channels that can be removed")
    everything = torch.cat([importance for _, importance in groups])
    count = min(round(share * len(everything)), len(everything) - 1)
    limit = everything.sort().values[count]
    for group, importance in groups:
        own = len(importance)
        left = max(int((importance >= limit).sum()), math.ceil((1 - MOST) * own), 1)
        multiple = _MULTIPLE if own >= _NARROW else _MULTIPLE // 2
        left = min(own, multiple * math.ceil(left / multiple))
        if left == own:
            continue
        indices = importance.argsort()[: own - left].tolist()
        root = group[0].dep
        graph.get_pruning_group(root.target.module, root.handler, indices).prune()


def write_student(
    found: Pruned, base: Architecture, path: Path, image_size: SizeLike, normalization: Normalization
) -> Architecture:
    """Write the weights of a pruned network; return the architecture that starts from them, built and compared.

    Args:
        found: the network.
        base: the architecture of the whole network.
        path: of the file with the weights of the encoder.
        image_size: size of the images, in pixels.
        normalization: mean and standard deviation of the images.

    Raises:
        NotPrunable: the network that is built from the description computes something else.
    """
    network = found.model.encoder.network
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, safetensors.torch.save(weights))
    own = found.model.encoder.own
    changes: dict[str, Any] = {"channels": found.channels, "weights": str(path.resolve()), "weights_key": None}
    changes |= {} if own is None else {"mean": own[0], "std": own[1]}
    architecture = base.model_copy(update=changes)
    try:
        again = build_encoder(architecture, image_size, "distill.student", normalization).eval()
    except EdgekitError as error:
        raise NotPrunable(f"{base.name} cannot be pruned: {error.message}") from error
    images = torch.randn(4, 3, *ImageSize.of(image_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, given = found.model.encoder(images), again(images)
    if expected.shape != given.shape or not torch.allclose(expected, given, rtol=1e-3, atol=1e-4):
        raise NotPrunable(f"{base.name} cannot be pruned: the network that is built again computes something else")
    return architecture
