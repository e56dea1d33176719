"""A picture of what the augmentation does: images and their random views, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgekit.data.augment import Augment, OneBranch, TiledAugment
from edgekit.data.images import ImageSet
from edgekit.files import write_bytes
from edgekit.recipe import Augmentation, DataConfig, Recipe
from edgekit.recipe.methods import SimCLRConfig
from edgekit.train.loop.loader import seed_for

_IMAGES, _VIEWS = 8, 7
_TILE, _LARGEST = 64, 128  # pixels of the longer side of a tile, at least and at most


def augmentation_of(recipe: Recipe, stage: str) -> Augment | OneBranch | TiledAugment:
    """Return the augmentation with which a stage trains: pretrain, finetune, distill or supervised."""
    config, data = getattr(recipe, stage).augmentation, recipe.data
    if stage == "pretrain" and recipe.pretrain.one_branch is not None:
        return OneBranch(config, recipe.pretrain.one_branch, data.image_size, data.mean, data.std)
    if stage == "pretrain" and isinstance(recipe.pretrain, SimCLRConfig) and recipe.pretrain.tiles is not None:
        return TiledAugment(config, recipe.pretrain.tiles, data.image_size, data.mean, data.std)
    return augment_for(config, data)


def augment_for(config: Augmentation, data: DataConfig) -> Augment:
    """Return an augmentation for the images of a recipe: with their size and normalization."""
    return Augment(config, data.image_size, data.mean, data.std)


def draw_views(pool: ImageSet, augment: Augment | OneBranch | TiledAugment, seed: int, path: Path) -> None:
    """Write a PNG: one row an image of the pool, the image first, then random views of it."""
    chosen = np.random.default_rng(seed).choice(len(pool), size=min(_IMAGES, len(pool)), replace=False)
    pixels = torch.tensor(pool.images[np.sort(chosen)])
    generator = torch.Generator().manual_seed(seed_for(seed, "views"))
    views = [
        (augment.views(pixels, generator) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for _ in range(_VIEWS)
    ]
    longer, gap = max(augment.size), 2
    scale = min(max(_TILE, longer), _LARGEST) / longer
    height, width = (max(1, round(side * scale)) for side in augment.size)
    size = ((_VIEWS + 1) * (width + gap) - gap, len(pixels) * (height + gap) - gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for row in range(len(pixels)):
        for column, image in enumerate([pixels[row].numpy(), *(v[row] for v in views)]):
            smaller = image.shape[0] < height
            resized = Image.fromarray(image).resize(
                (width, height), Image.Resampling.NEAREST if smaller else Image.Resampling.BILINEAR
            )
            sheet.paste(resized, (column * (width + gap), row * (height + gap)))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    write_bytes(path, stream.getvalue())
