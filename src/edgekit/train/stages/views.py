"""The random views that a stage trains on, and a picture of them: images and their views, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgekit.data.augment import Augment, OneBranch, TiledAugment
from edgekit.data.images import ImageSet
from edgekit.errors import RecipeError, reason_of
from edgekit.files import write_bytes
from edgekit.models.encoders import Encoder
from edgekit.models.trial import run_once
from edgekit.recipe import Augmentation, DataConfig, Recipe, Tiles
from edgekit.recipe.methods import SimCLRConfig
from edgekit.train.loop.loader import seed_for

_IMAGES, _VIEWS = 8, 7
_TILE, _LARGEST = 64, 128  # pixels of the longer side of a tile, at least and at most


def augmentation_of(recipe: Recipe, stage: str) -> Augment | OneBranch | TiledAugment:
    """Return the augmentation with which a stage trains: pretrain, finetune, distill or supervised."""
    config, data = getattr(recipe, stage).augmentation, recipe.data
    if stage == "pretrain" and recipe.pretrain.one_branch is not None:
        return OneBranch(config, recipe.pretrain.one_branch, data.image_size, data.mean, data.std)
    if stage == "pretrain" and (tiles := _tiles(recipe)) is not None:
        return TiledAugment(config, tiles, data.image_size, data.mean, data.std)
    return augment_for(config, data)


def augment_for(config: Augmentation, data: DataConfig) -> Augment:
    """Return an augmentation for the images of a recipe: with their size and normalization."""
    return Augment(config, data.image_size, data.mean, data.std)


def check_tiles(recipe: Recipe, encoder: Encoder) -> None:
    """Refuse tiles that the encoder of the pretraining cannot see.

    Raises:
        RecipeError: its layers leave nothing of so small images, or it takes images of one size only.
    """
    tiles = _tiles(recipe)
    if tiles is None:
        return
    side = tiles.pixels(recipe.data.image_size.shorter)
    try:
        run_once(encoder, torch.zeros(1, 3, side, side))
    except Exception as error:  # whatever the library's code raises
        name, reason = recipe.pretrain.encoder.name, reason_of(error, 120)
        raise RecipeError(
            f"pretrain.tiles: pretrain.encoder {name} does not take tiles of {side} px: {reason}",
            "raise pretrain.tiles.side, or choose a convolutional network such as resnet18",
        ) from error


def _tiles(recipe: Recipe) -> Tiles | None:
    return recipe.pretrain.tiles if isinstance(recipe.pretrain, SimCLRConfig) else None


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
