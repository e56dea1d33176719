"""Projection heads: SimCLR's g, its layers that fine-tuning keeps, and the predictor of BYOL and SimSiam."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """SimCLR's projection head: hidden layers Linear + BatchNorm + ReLU, the last one Linear without bias.

    Two layers are SimCLR v1's head and BYOL's, three SimCLR v2's (Chen et al. 2020b, section 2: h -> layer 1 -> layer 2 -> layer 3).
    SimSiam also normalizes the last layer's output (Chen & He 2021, section 3), without scale and shift (their code).

    Args:
        feature_dim: width of the encoder's features h.
        hidden: width of the hidden layers.
        output: dimension of the projections z.
        layers: number of layers, 1 or more.
        normalize_output: BatchNorm without affine parameters after the last layer.
    """

    def __init__(
        self, feature_dim: int, hidden: int, output: int, layers: int, *, normalize_output: bool = False
    ) -> None:
        super().__init__()
        self.spec: dict[str, Any] = {"hidden": hidden, "output": output, "layers": layers}
        if normalize_output:  # omitted otherwise: older files have no such key
            self.spec["normalize_output"] = True
        widths = [feature_dim] + [hidden] * (layers - 1)
        blocks: list[nn.Module] = [_hidden_layer(a, b) for a, b in itertools.pairwise(widths)]
        last = nn.Linear(widths[-1], output, bias=False)
        blocks.append(nn.Sequential(last, nn.BatchNorm1d(output, affine=False)) if normalize_output else last)
        self.layers = nn.ModuleList(blocks)

    def forward(self, features: Tensor) -> Tensor:
        """Projections z (n, output) of features h (n, feature_dim)."""
        for layer in self.layers:
            features = layer(features)
        return features

    def keep(self, count: int) -> KeptLayers:
        """The first `count` layers, sharing their weights; 0 <= count < number of layers (the last one gives the projections)."""
        if not 0 <= count < len(self.layers):
            raise ValueError(f"cannot keep {count} of {len(self.layers)} layers: 0 to {len(self.layers) - 1}")
        return KeptLayers(list(self.layers[:count]))


class PredictionHead(nn.Module):
    """The predictor h of BYOL and SimSiam: Linear + BatchNorm + ReLU, then Linear, from projections to projections.

    Args:
        dimension: of the projections.
        hidden: width between the two layers.
        bias: whether the last layer has a bias: SimSiam's does, BYOL's does not (its predictor is built like its projection head).
    """

    def __init__(self, dimension: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.hidden = _hidden_layer(dimension, hidden)
        self.output = nn.Linear(hidden, dimension, bias=bias)

    def forward(self, projections: Tensor) -> Tensor:
        """Predictions p (n, dimension) of projections z (n, dimension)."""
        return self.output(self.hidden(projections))


class KeptLayers(nn.Module):
    """The first layers of a projection head, kept as part of the classifier (SimCLR v2, section 2).

    Args:
        layers: the kept layers; an empty list is the identity.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def widths(self) -> list[int]:
        """Output widths of the kept layers."""
        return [m.out_features for layer in self.layers for m in layer.modules() if isinstance(m, nn.Linear)]

    def forward(self, features: Tensor) -> Tensor:
        """Features after the kept layers, (n, last width)."""
        for layer in self.layers:
            features = layer(features)
        return features


def kept_layers(feature_dim: int, widths: list[int]) -> KeptLayers:
    """New layers of these widths, to load weights into."""
    return KeptLayers([_hidden_layer(a, b) for a, b in itertools.pairwise([feature_dim, *widths])])


def _hidden_layer(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(ins, outs, bias=False), nn.BatchNorm1d(outs), nn.ReLU())
