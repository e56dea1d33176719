"""Augmentation where height and width differ: torchvision's numbers, and distributions in the shape of the result."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as F

from edgekit.data import augment
from edgekit.data.augment import Augment, OneBranch
from edgekit.data.augment.geometry import central_box
from edgekit.recipe import Augmentation
from edgekit.sizes import ImageSize
from tests.data.test_augment import EVERYTHING, OFF, images

WIDE = ImageSize(24, 40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (80, 96), (8, 64)])
@pytest.mark.parametrize(
    "stored", [(40, 48), (110, 128)]
)  # from 64 rows on, they are gathered instead of multiplied with a matrix
def test_crops_are_torchvision_s_image_by_image(size: tuple[int, int], stored: tuple[int, int]) -> None:
    height, width = stored
    pixels = images(5, height, width)
    boxes = [[0, 0, height, width], [3, 5, 20, 30], [20, 30, 10, 8], [0, 0, 1, 1], [height - 1, 0, 1, width]]
    flips, turns = torch.tensor([False, True, False, True, True]), torch.tensor([0, 2, 1, 3, 1])
    plain = augment.crop_resize_flip(pixels, torch.tensor(boxes), flips, size)
    turned = augment.crop_resize_flip(pixels, torch.tensor(boxes), flips, size, turns)
    assert plain.shape == turned.shape == (5, 3, *size)
    for i, box in enumerate(boxes):
        image = pixels[i].permute(2, 0, 1).float() / 255
        for found, turn in ((plain[i], 0), (turned[i], int(turns[i]))):
            before = size[::-1] if turn % 2 else size  # the shape before the turn
            theirs = F.resized_crop(image, *box, size=list(before), antialias=True)
            theirs = F.horizontal_flip(theirs) if flips[i] else theirs
            torch.testing.assert_close(found, torch.rot90(theirs, turn, (1, 2)), atol=5e-6, rtol=0)


def test_random_crops_keep_the_shape_of_the_result() -> None:
    """The ratio of `crop_ratio` is relative to the result's: log-uniform around it, as torchvision draws it around 1."""
    boxes = augment.random_boxes(4000, 400, 400, (0.02, 0.1), (3 / 4, 4 / 3), generator(), WIDE.aspect).double()
    relative = boxes[:, 3] / boxes[:, 2] / WIDE.aspect
    low, high = torch.tensor([3 / 4, 4 / 3]).log().tolist()
    rounding = 0.02  # sides are whole pixels
    assert float(relative.log().min()) > low - rounding
    assert float(relative.log().max()) < high + rounding
    assert stats.kstest(relative.log().numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_a_ratio_of_one_distorts_nothing() -> None:
    boxes = augment.random_boxes(500, 96, 160, (0.2, 1.0), (1.0, 1.0), generator(), WIDE.aspect)
    height, width = boxes[:, 2], boxes[:, 3]
    assert int((height * WIDE.width - width * WIDE.height).abs().max()) <= WIDE.width  # less than a pixel of each side
    assert bool(((boxes[:, 0] + height <= 96) & (boxes[:, 1] + width <= 160)).all())


def test_an_image_that_no_box_fits_gives_its_largest_part_of_the_right_shape() -> None:
    """A tall image, and a wide result: torchvision's fallback, the widest allowed box at the center."""
    boxes = augment.random_boxes(50, 200, 40, (1.0, 1.0), (1.0, 1.0), generator(), 2.0)
    assert boxes.tolist() == [[90, 0, 20, 40]] * 50


@pytest.mark.parametrize(
    ("stored", "box"),
    [((40, 60), (8, 10, 24, 40)), ((24, 40), (0, 0, 24, 40)), ((12, 40), (0, 10, 12, 20)), ((60, 20), (24, 0, 12, 20))],
)
def test_without_a_crop_the_center_is_taken(stored: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert central_box(*stored, WIDE) == box
    pixels = images(3, *stored)
    views = Augment(Augmentation(**OFF), WIDE, 0.0, 1.0).views(pixels, generator(), 2)
    top, left, height, width = box
    center = F.crop(pixels.permute(0, 3, 1, 2).float() / 255, top, left, height, width)
    expected = F.resize(center, [*WIDE], antialias=True)
    torch.testing.assert_close(views, expected.repeat(2, 1, 1, 1), atol=2e-6, rtol=0)


def test_a_turned_view_shows_the_center_of_the_turned_image() -> None:
    n = 400
    pixels = images(1, 40, 40).repeat(n, 1, 1, 1)
    views = Augment(Augmentation(**{**OFF, "rotate": 1.0}), WIDE, 0.0, 1.0).views(pixels, generator())
    image = pixels[0].permute(2, 0, 1).float() / 255
    turned = [F.center_crop(torch.rot90(image, k, (1, 2)), [*WIDE]) for k in range(4)]
    counts = [int(((views - one).abs().amax(dim=(1, 2, 3)) < 1e-5).sum()) for one in turned]
    assert counts[0] == 0
    assert sum(counts) == n
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


def test_turned_crops_have_the_shape_too() -> None:
    """Before an odd number of quarter turns a box is as tall as the view is wide, so that nothing is distorted."""
    config = Augmentation(**{**OFF, "crop": 1.0, "crop_ratio": (1.0, 1.0), "crop_scale": (0.1, 0.3), "rotate": 0.7})
    boxes, _, turns = Augment(config, WIDE, 0.0, 1.0).draw(400, 160, 160, generator()).geometry()
    odd = turns % 2 == 1
    assert 0.2 < float(odd.float().mean()) < 0.7
    ratio = boxes[:, 3] / boxes[:, 2]
    torch.testing.assert_close(ratio[~odd], torch.full_like(ratio[~odd], WIDE.aspect), atol=0.1, rtol=0)
    torch.testing.assert_close(ratio[odd], torch.full_like(ratio[odd], 1 / WIDE.aspect), atol=0.05, rtol=0)


def test_a_cutout_is_a_square_of_the_shorter_side_around_any_pixel() -> None:
    n = 6000
    transform = Augment(Augmentation(**{**OFF, "cutout": 1.0, "cutout_side": 0.25}), WIDE, 0.0, 1.0)
    _, boxes = transform.draw(n, 24, 40, generator()).of("cutout")
    assert torch.equal(boxes[:, 2:], torch.full((n, 2), 6.0))
    centers = (boxes[:, :2] + 3).long()
    for axis, extent in enumerate(WIDE):
        assert stats.chisquare(torch.bincount(centers[:, axis], minlength=extent).numpy()).pvalue > 1e-4
    white = torch.full((n, 24, 40, 3), 255, dtype=torch.uint8)
    holes = (transform.views(white, generator()) == 0).all(1)
    assert int(holes.sum((1, 2)).max()) == 36


def test_every_operation_takes_the_shape() -> None:
    pixels = images(8, 30, 50)
    transform = Augment(EVERYTHING, WIDE, 0.5, 0.25)
    assert transform(pixels, generator(), 2).shape == (16, 3, *WIDE)
    both = [transform(pixels, generator(), 2) for _ in range(2)]
    assert torch.equal(*both)
    branch = OneBranch(EVERYTHING, ["crop", "cutout", "blur", "rotate"], WIDE, 0.5, 0.25)
    assert branch(pixels, generator(), 2).shape == (16, 3, *WIDE)
