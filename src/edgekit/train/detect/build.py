"""Build a detector from an encoder and normal images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.data.images import ImageSet
from edgekit.errors import DataError, RecipeError
from edgekit.machine import memory_bytes
from edgekit.models.anomaly.detector import Detector, HeadSpec
from edgekit.models.anomaly.grids import HeatMap, PatchGrid
from edgekit.models.anomaly.heads import PaDiM, PatchCore, StudentTeacher
from edgekit.models.anomaly.levels import chosen_levels, feature_maps
from edgekit.models.encoders import Encoder
from edgekit.progress import progress
from edgekit.recipe import Anomaly
from edgekit.sizes import ImageSize, SizeLike
from edgekit.train.detect.coreset import bank_size, greedy_coreset, nearest_of, projected
from edgekit.train.detect.gaussians import draw_channels, fit_gaussians
from edgekit.train.detect.trimming import kept_images, unusual
from edgekit.train.evaluate import outputs

_BATCH = 32  # images whose maps are in memory at a time
_SHARE = 0.25  # of the memory that is free, for the patches of all images
_FEWEST = 2  # images: one has no covariance, and nothing to be compared with

Train = Callable[[Encoder, list[str], ImageSet], Encoder]  # encoder, modules and normal images -> the student


@dataclass(frozen=True)
class Source:
    """What a detector is built from.

    Attributes:
        encoder: on any device; it is not changed.
        images: normal images with evaluation preprocessing.
        mean, std: of their normalization, for pixels in [0, 1].
        device: where the encoder runs.
        seed: of every draw.
    """

    encoder: Encoder
    images: ImageSet
    mean: float
    std: float
    device: torch.device
    seed: int


@dataclass(frozen=True)
class Built:
    """A detector and what it was built from.

    Attributes:
        detector: in evaluation mode, on the CPU.
        unusualness: of each training image, (n,); None where nothing was trimmed.
        kept: rows of the training images that it was built from.
    """

    detector: Detector
    unusualness: NDArray[np.float64] | None
    kept: NDArray[np.int64]


def head_spec(config: Anomaly, encoder: Encoder, image_size: SizeLike, where: str) -> HeadSpec:
    """Describe the head that a recipe asks for.

    Args:
        config: the recipe's part.
        encoder: whose maps it compares.
        image_size: size of the images, in pixels.
        where: the key of the encoder, for messages.

    Raises:
        RecipeError: the encoder does not have these levels.
    """
    image_size = ImageSize.of(image_size)
    levels = chosen_levels(encoder, image_size, config.chosen_levels, where, optional=config.levels is None)
    spec = HeadSpec.of(config.method, levels, (image_size.height, image_size.width), config.sigma(image_size.shorter))
    if config.method != "padim":
        return spec
    widths = [level.channels for level in levels]
    return spec.model_copy(update={"channels": [len(c) for c in draw_channels(widths, config.features, 0)]})


def require_images(count: int) -> None:
    """Refuse too few training images.

    Raises:
        DataError: there are fewer than two.
    """
    if count < _FEWEST:
        raise DataError(
            f"data.normal: {count} training image; a detector needs two or more",
            "add normal images, or lower data.probe",
        )


def build_detector(config: Anomaly, source: Source, train: Train) -> Built:
    """Build a detector.

    Args:
        config: the recipe's part.
        source: encoder and images.
        train: trains the student of stfpm.

    Raises:
        DataError: there are fewer than two images.
        RecipeError: the bank, or the patches of all images, do not fit into memory.
    """
    images = source.images
    require_images(len(images))
    spec = head_spec(config, source.encoder, images.size, "anomaly")
    channels = _channels(config, spec, source.seed)
    grid = spec.patches(channels)
    patches = _patches(source, spec, grid) if config.method != "stfpm" or config.trim else None
    unusualness = None
    if config.trim and patches is not None:
        small = projected(patches.flatten(0, 1), source.seed).unflatten(0, patches.shape[:2])
        unusualness = unusual(small, source.seed)
    kept = np.arange(len(images)) if unusualness is None else kept_images(unusualness, config.trim)
    student: Encoder | None = None
    head: PatchCore | PaDiM | StudentTeacher
    if config.method == "stfpm":
        student = train(source.encoder, [level.module for level in spec.levels], images.subset(kept))
        head = StudentTeacher([HeatMap(level.size, spec.image, spec.sigma) for level in spec.levels])
    else:
        assert patches is not None
        heat, own = HeatMap(spec.grid, spec.image, spec.sigma), patches[torch.from_numpy(kept)]
        if config.method == "padim":
            head = PaDiM(grid, heat, *fit_gaussians(own, config.regularization))
        else:
            bank = _bank(config, own.flatten(0, 1), spec.places, source.seed)
            neighbors = nearest_of(bank, min(config.neighbors, len(bank)))
            spec = spec.model_copy(update={"bank": len(bank), "neighbors": neighbors.shape[1]})
            head = PatchCore(grid, heat, bank, neighbors)
    detector = Detector(source.encoder, spec, head, student).cpu().eval().requires_grad_(False)
    return Built(detector, unusualness, kept)


def _channels(config: Anomaly, spec: HeadSpec, seed: int) -> list[Tensor] | None:
    if config.method != "padim":
        return None
    drawn = draw_channels([level.channels for level in spec.levels], config.features, seed)
    return [torch.from_numpy(channels) for channels in drawn]


def _bank(config: Anomaly, patches: Tensor, places: int, seed: int) -> Tensor:
    count = bank_size(config.coreset, len(patches), patches.shape[1], places)
    return patches[greedy_coreset(projected(patches, seed), count, seed)]


class _Patches(nn.Module):
    def __init__(self, encoder: Encoder, modules: list[str], grid: PatchGrid) -> None:
        super().__init__()
        self.encoder, self.read, self.grid = encoder, modules, grid

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.grid(feature_maps(self.encoder, self.read, images))
        return patches


def _patches(source: Source, spec: HeadSpec, grid: PatchGrid) -> Tensor:
    """The patches of all images, float32 (n, places, features); of PatchCore a part of each image's places where all take too much memory.

    Raises:
        RecipeError: they do not fit.
    """
    images, places, features = source.images, spec.places, spec.features
    free = memory_bytes(key="MemAvailable")
    most = places if free is None else int(_SHARE * free / (4 * features * len(images)))
    if most < places and (spec.method != "patchcore" or most < 1):
        raise RecipeError(
            f"anomaly: the patches of {len(images)} images take {4 * features * len(images) * places / 1e9:.2g} GB, more than a quarter of the "
            "free memory",
            "use fewer images, coarser levels, or fewer anomaly.features",
        )
    model = _Patches(source.encoder, [level.module for level in spec.levels], grid)
    generator = np.random.default_rng(source.seed)
    kept = torch.empty(len(images), min(most, places), features)
    with progress("patches", len(images), unit="images") as advance:
        for start in range(0, len(images), _BATCH):
            pixels = images.images[start : start + _BATCH]
            found = outputs(model, pixels, source.mean, source.std, source.device).cpu()
            for i, own in enumerate(found):
                rows = generator.permutation(places)[:most] if most < places else np.arange(places)
                kept[start + i] = own[torch.from_numpy(np.sort(rows))]
            advance(len(found))
    return kept
