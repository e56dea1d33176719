"""A detector: an encoder, the levels that it compares, and the head of its method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from edgekit.models.anomaly.grids import HeatMap, PatchGrid
from edgekit.models.anomaly.heads import PaDiM, PatchCore, StudentTeacher
from edgekit.models.anomaly.levels import Level, feature_maps
from edgekit.models.encoders import Encoder
from edgekit.models.pixels import Statistics, normalize

MOST_PLACES = (
    32  # at either side of the grid of patches; finer maps are averaged, as the work grows with the fourth power
)


class LevelSpec(BaseModel):
    """A level, as `model.json` describes it; see `levels.Level`."""

    module: str = Field(min_length=1, max_length=500)
    channels: int = Field(ge=1, le=1 << 16)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class HeadSpec(BaseModel):
    """A head without its numbers, as `model.json` describes it.

    Attributes:
        method: of the recipe's.
        levels: the finest first.
        grid: rows and columns of patches.
        image: height and width of the images, in pixels.
        sigma: standard deviation of the blur of the heat map, in pixels.
        channels: padim: how many channels each level gives.
        bank: patchcore: number of patches.
        neighbors: patchcore: number of neighbors of each, itself among them.
    """

    model_config = ConfigDict(extra="forbid")

    method: Literal["patchcore", "padim", "stfpm"]
    levels: list[LevelSpec] = Field(min_length=1, max_length=16)
    grid: tuple[int, int]
    image: tuple[int, int]
    sigma: float = Field(ge=0, le=4096)
    channels: list[int] = Field(default_factory=list)
    bank: int = Field(0, ge=0, le=1 << 24)
    neighbors: int = Field(1, ge=1, le=1 << 12)

    @classmethod
    def of(cls, method: str, levels: Sequence[Level], image: tuple[int, int], sigma: float) -> HeadSpec:
        """A head over these levels of an encoder; the grid has the places of the finest level, at most `MOST_PLACES` a side."""
        finest = levels[0].size
        factor = -(-max(finest) // MOST_PLACES)
        return cls.model_validate(
            {
                "method": method,
                "levels": [
                    LevelSpec(module=v.module, channels=v.channels, height=v.size[0], width=v.size[1]) for v in levels
                ],
                "grid": (max(1, finest[0] // factor), max(1, finest[1] // factor)),
                "image": image,
                "sigma": sigma,
            }
        )

    @property
    def features(self) -> int:
        """Features of a patch."""
        return sum(self.channels or [level.channels for level in self.levels])

    @property
    def places(self) -> int:
        """Places of the grid."""
        return self.grid[0] * self.grid[1]

    def patches(self, channels: list[Tensor] | None = None) -> PatchGrid:
        """The grid of patches; PatchCore averages each place with its neighbors, PaDiM takes some channels.

        Args:
            channels: of each level, which ones, int64; None: all.
        """
        return PatchGrid(
            [level.size for level in self.levels], self.grid, aggregate=self.method == "patchcore", channels=channels
        )

    def build(self) -> PatchCore | PaDiM | StudentTeacher:
        """The head, its numbers zero: those of a file come into it."""
        if self.method == "stfpm":
            return StudentTeacher([HeatMap(level.size, self.image, self.sigma) for level in self.levels])
        heat = HeatMap(self.grid, self.image, self.sigma)
        if self.method == "patchcore":
            neighbors = torch.zeros(self.bank, self.neighbors, dtype=torch.int64)
            return PatchCore(self.patches(), heat, torch.zeros(self.bank, self.features), neighbors)
        channels = [torch.zeros(count, dtype=torch.int64) for count in self.channels]
        d = self.features
        return PaDiM(self.patches(channels), heat, torch.zeros(self.places, d), torch.zeros(self.places, d, d))


class Detector(nn.Module):
    """Scores and heat maps of normalized images.

    Args:
        encoder: whose maps are compared; it is not trained.
        spec: describes the head.
        head: of the method.
        student: of stfpm: a network of the encoder's architecture; else None.
    """

    def __init__(
        self, encoder: Encoder, spec: HeadSpec, head: PatchCore | PaDiM | StudentTeacher, student: Encoder | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.spec, self.head, self.student = encoder, spec, head, student
        self.modules_read = [level.module for level in spec.levels]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score (n,) and map (n, h, w) of normalized float32 images (n, 3, h, w)."""
        maps = feature_maps(self.encoder, self.modules_read, images)
        if isinstance(self.head, StudentTeacher):
            assert self.student is not None
            found: tuple[Tensor, Tensor] = self.head(maps, feature_maps(self.student, self.modules_read, images))
        else:
            found = self.head(maps)
        return found


class PixelDetector(nn.Module):
    """A detector that takes pixels; this is what an export converts.

    Args:
        model: maps normalized float32 images (n, 3, h, w) to score and map.
        mean: of the normalization, for pixels in [0, 1].
        std: of the normalization.
    """

    def __init__(self, model: Detector, mean: Statistics, std: Statistics) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.std = std

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """float32 score (n,) and map (n, h, w) of RGB images, uint8 (n, h, w, 3)."""
        score, heat = self.model(normalize(image, self.mean, self.std))
        return score.to(torch.float32), heat.to(torch.float32)
