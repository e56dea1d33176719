"""Tiles: windows of images as instances, against a naive cut of the same places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.data.augment import Augment, TiledAugment
from edgekit.recipe import Augmentation, Tiles

OFF = {"crop": 0, "flip": 0, "jitter": 0, "gray": 0, "blur": 0}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def numbered(n: int, height: int, width: int) -> torch.Tensor:
    """Images whose every pixel says where it is: the image, the row, the column."""
    image, row, column = np.mgrid[:n, :height, :width]
    return torch.from_numpy(np.stack([image, row, column], axis=3).astype(np.uint8))


@pytest.mark.parametrize(("height", "width"), [(40, 40), (32, 56), (56, 32)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_window_is_a_square_of_one_image(height: int, width: int, count: int) -> None:
    """The pixel in its corner says which: the rest is what a slice of that image gives."""
    images = numbered(20, height, width)
    tiled = TiledAugment(Augmentation(), Tiles(side=0.25, count=count), (height, width), 0.5, 0.25)
    windows = tiled.windows(images, seeded())
    side = min(height, width) // 4
    assert windows.shape == (20 * count, side, side, 3)
    for i, window in enumerate(windows):
        image, top, left = window[0, 0].tolist()
        assert image == i % 20
        assert torch.equal(window, images[image, top : top + side, left : left + side])


def test_places_are_uniform_up_to_the_border() -> None:
    """Of 9 rows of corners each has a ninth of the draws; a count beyond 5 standard deviations is no chance."""
    images = torch.zeros(4000, 12, 24, 3, dtype=torch.uint8)
    images[..., 1], images[..., 2] = torch.arange(12)[:, None], torch.arange(24)
    corners = TiledAugment(Augmentation(), Tiles(side=1 / 3, count=1), (12, 24), 0.5, 0.25).windows(images, seeded())[
        :, 0, 0
    ]
    for column, places in ((1, 9), (2, 21)):
        found = np.bincount(corners[:, column].numpy(), minlength=places)
        assert len(found) == places
        expected, spread = 4000 / places, np.sqrt(4000 / places)
        assert (np.abs(found - expected) < 5 * spread).all()


def test_views_are_those_of_the_windows() -> None:
    """The windows, augmented as images of their size: both views are of one window, at the image's own scale."""
    images = torch.randint(0, 256, (6, 40, 40, 3), dtype=torch.uint8, generator=seeded())
    tiles = Tiles(side=0.5, count=2)
    generator = seeded()
    expected = Augment(Augmentation(), 20, 0.5, 0.25)(
        TiledAugment(Augmentation(), tiles, 40, 0.5, 0.25).windows(images, generator), generator, 2
    )
    views = TiledAugment(Augmentation(), tiles, 40, 0.5, 0.25)(images, seeded(), 2)
    assert views.shape == (2 * 12, 3, 20, 20)
    assert torch.equal(views, expected)
    plain = TiledAugment(Augmentation(**OFF), tiles, 40, 0.5, 0.25)
    first, second = plain.views(images, seeded(), 2).chunk(2)
    windows = plain.windows(images, seeded()).permute(0, 3, 1, 2) / 255
    assert torch.equal(first, second)
    torch.testing.assert_close(first, windows)


def test_larger_images_than_the_models_give_windows_of_the_same_share() -> None:
    """Where images are kept larger than the model takes them, a window is resized with them."""
    images = torch.full((3, 80, 80, 3), 90, dtype=torch.uint8)
    tiled = TiledAugment(Augmentation(**OFF), Tiles(side=0.5, count=1), 40, 0.0, 1.0)
    assert tiled.windows(images, seeded()).shape == (3, 40, 40, 3)
    assert tiled(images, seeded()).shape == (3, 3, 20, 20)
