"""A picture of what the augmentation does: images and their random views, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgekit.data.augment import Augment, OneBranch
from edgekit.data.images import ImageSet
from edgekit.files import write_bytes
from edgekit.recipe import Augmentation, DataConfig, Recipe
from edgekit.train.loop.loader import seed_for

_IMAGES, _VIEWS, _TILE = 8, 7, 64


def augmentation_of(recipe: Recipe, stage: str) -> Augment | OneBranch:
    """Return the augmentation with which a stage trains: pretrain, finetune, distill or supervised."""
    config, data = getattr(recipe, stage).augmentation, recipe.data
    if stage == "pretrain" and recipe.pretrain.one_branch is not None:
        return OneBranch(config, recipe.pretrain.one_branch, data.image_size, data.mean, data.std)
    return augment_for(config, data)


def augment_for(config: Augmentation, data: DataConfig) -> Augment:
    """Return an augmentation for the images of a recipe: with their size and normalization."""
    return Augment(config, data.image_size, data.mean, data.std)


def draw_views(pool: ImageSet, augment: Augment | OneBranch, seed: int, path: Path) -> None:
    """Write a PNG: one row an image of the pool, the image first, then random views of it."""
    chosen = np.random.default_rng(seed).choice(len(pool), size=min(_IMAGES, len(pool)), replace=False)
    pixels = torch.tensor(pool.images[np.sort(chosen)])
    generator = torch.Generator().manual_seed(seed_for(seed, "views"))
    views = [
        (augment.views(pixels, generator) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for _ in range(_VIEWS)
    ]
    tile, gap = max(_TILE, augment.size if augment.size <= 128 else 128), 2
    sheet = Image.new("RGB", ((_VIEWS + 1) * (tile + gap) - gap, len(pixels) * (tile + gap) - gap), (255, 255, 255))
    for row in range(len(pixels)):
        for column, image in enumerate([pixels[row].numpy(), *(v[row] for v in views)]):
            smaller = image.shape[0] < tile
            resized = Image.fromarray(image).resize(
                (tile, tile), Image.Resampling.NEAREST if smaller else Image.Resampling.BILINEAR
            )
            sheet.paste(resized, (column * (tile + gap), row * (tile + gap)))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    write_bytes(path, stream.getvalue())
