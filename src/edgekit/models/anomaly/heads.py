"""The heads of the detectors: feature maps -> `score` (n,) and `map` (n, height, width), in operators that every runtime has.

Distances are matrix products, ||a||^2 - 2 a b + ||b||^2. The difference of large numbers loses digits, so the features are moved to the
bank's mean and divided by their spread first, which changes no distance but by that factor, and half precision can hold them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.models.anomaly.grids import HeatMap, PatchGrid

# Squared, for vectors of length about 1: the rounding of ||a||^2 - 2ab + ||b||^2 is about 1e-7, and the root of less than this is noise.
_SMALLEST = 1e-4


class PatchCore(nn.Module):
    """The nearest patch of a bank (Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection").

    A place's score is the distance of its patch from the nearest patch m* of the bank (equation 6). The image's is the largest of them,
    re-weighted by how far the same patch is from the neighbors of m* (equation 7): w = 1 - exp(d(m*)) / sum over the neighbors of exp(d).
    Places that tie for the largest distance share one row of distances, their mean. A distance below 1 % of the bank's spread counts as that.

    Args:
        patches: the grid of patches.
        heat: from the grid to the heat map.
        bank: patches of normal images, float32 (k, features).
        neighbors: the patches of the bank that are nearest to each, itself first, int64 (k, b); b = 1: the score is not re-weighted.
    """

    bank: Tensor
    neighbors: Tensor
    center: Tensor
    unit: Tensor

    def __init__(self, patches: PatchGrid, heat: HeatMap, bank: Tensor, neighbors: Tensor) -> None:
        super().__init__()
        self.patches, self.heat = patches, heat
        center = bank.double().mean(0)
        centered = bank.double() - center
        unit = centered.square().sum(1).mean().sqrt().clamp_min(1e-12)  # the spread: vectors of length about 1
        scaled = (centered / unit).float()
        self.register_buffer("center", center.float())
        self.register_buffer("unit", unit.float())
        self.register_buffer("bank", scaled)
        self.register_buffer("neighbors", neighbors)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Score and map of feature maps (n, c, h, w)."""
        patches = (self.patches(maps) - self.center) * (1 / float(self.unit))
        # Beside the length of the patch, which is the same for all of the bank: the least of (n, places, k).
        beside = patches @ (-2 * self.bank).T + self.bank.square().sum(1)
        squared = (patches.square().sum(2) + beside.amin(2)).clamp_min(_SMALLEST)
        distances = squared.sqrt() * float(self.unit)
        farthest = distances.amax(1, keepdim=True)
        score = farthest.squeeze(1)
        if self.neighbors.shape[1] > 1:
            there = (distances >= farthest).to(torch.float32)
            there = (there / there.sum(1, keepdim=True)).unsqueeze(1)
            row = (there @ beside).squeeze(1)
            own = (there @ patches).squeeze(1).square().sum(1, keepdim=True)
            nearest = self.neighbors[row.argmin(1)]
            far = (own + row.gather(1, nearest)).clamp_min(_SMALLEST).sqrt() * float(self.unit)
            score = score * (1 - functional.softmax(far, 1)[:, 0])
        return score, self.heat(distances)


class PaDiM(nn.Module):
    """The Mahalanobis distance from a Gaussian for each place (Defard et al. 2021, "PaDiM", equation 2); the image's score is the map's maximum.

    With S^-1 = L L^T the distance is the length of (x - mean) L: one matrix product for each place.

    Args:
        patches: the grid of patches.
        heat: from the grid to the heat map.
        mean: of the patches at each place, float32 (places, features).
        whitening: L of each place, float32 (places, features, features).
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, patches: PatchGrid, heat: HeatMap, mean: Tensor, whitening: Tensor) -> None:
        super().__init__()
        self.patches, self.heat = patches, heat
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Score and map of feature maps (n, c, h, w)."""
        by_place = (self.patches(maps) - self.mean).transpose(0, 1)  # (places, n, features)
        distances = (by_place @ self.whitening).square().sum(2).sqrt().transpose(0, 1)
        heat = self.heat(distances)
        return heat.amax((1, 2)), heat


class StudentTeacher(nn.Module):
    """How far a student, which learned normal images alone, is from its teacher (STFPM: Wang et al. 2021, "Student-Teacher Feature Pyramid
    Matching for Anomaly Detection").

    At each place of a level it is half the squared distance of both unit vectors (equation 1). The map is the product over the levels,
    interpolated to the image (section 3.3), here as its geometric mean: the same order, in numbers that half precision can hold. The
    image's score is the map's maximum.

    Args:
        heats: for each level, from its places to the map.
    """

    def __init__(self, heats: list[HeatMap]) -> None:
        super().__init__()
        self.heats = nn.ModuleList(heats)

    def forward(self, maps: list[Tensor], students: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Score and map of the teacher's and the student's feature maps (n, c, h, w)."""
        product: Tensor | None = None
        for heat, taught, learned in zip(self.heats, maps, students, strict=True):
            level = heat(level_loss(taught, learned))
            product = level if product is None else product * level
        assert product is not None
        heat_map = product.clamp_min(0).pow(1 / len(self.heats))
        return heat_map.amax((1, 2)), heat_map


def level_loss(taught: Tensor, learned: Tensor) -> Tensor:
    """Half the squared distance of the unit vectors at each place: (n, c, h, w) twice -> (n, h, w), from 0 to 2 (STFPM, equation 1)."""
    return (unit_vectors(taught) - unit_vectors(learned)).square().sum(1) / 2


def unit_vectors(maps: Tensor) -> Tensor:
    """Vectors (n, c, h, w) of length 1 along their channels; zeros stay zero."""
    return maps / maps.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
