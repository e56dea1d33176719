"""Projection heads: SimCLR's g, and the part of it that fine-tuning keeps."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """SimCLR's projection head: hidden layers Linear + BatchNorm + ReLU, the last one Linear without bias.

    Two layers are SimCLR v1's head, three SimCLR v2's (Chen et al. 2020b, section 2: h -> layer 1 -> layer 2 -> layer 3).

    Args:
        feature_dim: width of the encoder's features h.
        hidden: width of the hidden layers.
        output: dimension of the projections z.
        layers: number of layers, 2 or more.
    """

    def __init__(self, feature_dim: int, hidden: int, output: int, layers: int) -> None:
        super().__init__()
        widths = [feature_dim] + [hidden] * (layers - 1)
        blocks: list[nn.Module] = [
            nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        ]
        blocks.append(nn.Linear(widths[-1], output, bias=False))
        self.layers = nn.ModuleList(blocks)

    def forward(self, features: Tensor) -> Tensor:
        """Projections z (n, output) of features h (n, feature_dim)."""
        for layer in self.layers:
            features = layer(features)
        return features

    def keep(self, count: int) -> KeptLayers:
        """The first `count` layers, sharing their weights; 0 <= count < number of layers (never all: the last one compares)."""
        if not 0 <= count < len(self.layers):
            raise ValueError(f"cannot keep {count} of {len(self.layers)} layers: 0 to {len(self.layers) - 1}")
        return KeptLayers(list(self.layers[:count]))


class KeptLayers(nn.Module):
    """The first layers of a projection head, kept as part of the classifier (SimCLR v2, section 2).

    Args:
        layers: what is kept; none is the identity.
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
    """Fresh kept layers of given widths, to load weights into."""
    return KeptLayers(
        [
            nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in itertools.pairwise([feature_dim, *widths])
        ]
    )
