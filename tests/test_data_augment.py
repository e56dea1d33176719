"""Augmentation: torchvision's numbers where parameters are fixed, SimCLR's distributions where they are drawn."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from edgekit.data import augment
from edgekit.data.augment import Augment
from edgekit.recipe import Augmentation


def images(n: int = 6, height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    """Random pictures with structure at several scales, uint8 (n, h, w, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 6, generator=generator)
    fine = torch.rand(n, 3, height, width, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return ((0.7 * smooth + 0.3 * fine) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def floats(n: int = 6, seed: int = 0) -> torch.Tensor:
    return images(n, seed=seed).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("size", [8, 32, 64])
def test_crop_resize_flip_equals_torchvision_image_by_image(size: int) -> None:
    pixels = images()
    boxes = torch.tensor(
        [[0, 0, 40, 48], [3, 5, 10, 20], [30, 40, 10, 8], [0, 0, 1, 1], [7, 9, 32, 32], [39, 0, 1, 48]]
    )
    flips = torch.tensor([False, True, False, True, True, False])
    ours = augment.crop_resize_flip(pixels, boxes, flips, size)
    for i in range(len(pixels)):
        image = pixels[i].permute(2, 0, 1).float() / 255
        theirs = F.resized_crop(image, *boxes[i].tolist(), size=[size, size], antialias=True)
        if flips[i]:
            theirs = F.horizontal_flip(theirs)
        torch.testing.assert_close(ours[i], theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (augment.adjust_brightness, F.adjust_brightness, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_contrast, F.adjust_contrast, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_saturation, F.adjust_saturation, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_hue, F.adjust_hue, [-0.5, -0.2, 0.0, 0.05, 0.2, 0.5]),
    ],
)
def test_colour_operations_equal_torchvision_image_by_image(ours, theirs, factors: list[float]) -> None:
    batch = floats()
    batch[0, :, :10] = 0.5  # greys have no hue
    batch[1, :, :10] = 0.0
    batch[2, :, :10] = 1.0
    result = ours(batch, torch.tensor(factors))
    for i, factor in enumerate(factors):
        torch.testing.assert_close(result[i], theirs(batch[i], factor), atol=1e-5, rtol=0)


def test_grey_equals_torchvision() -> None:
    batch = floats()
    torch.testing.assert_close(augment.luma(batch), F.rgb_to_grayscale(batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [3, 9, 23])
def test_blur_equals_torchvision_image_by_image(kernel: int) -> None:
    batch = floats()
    sigmas = torch.tensor([0.1, 0.4, 0.8, 1.0, 1.5, 2.0])
    result = augment.gaussian_blur(batch, sigmas, kernel)
    for i, sigma in enumerate(sigmas.tolist()):
        torch.testing.assert_close(
            result[i], F.gaussian_blur(batch[i], [kernel, kernel], [sigma, sigma]), atol=2e-6, rtol=0
        )


def test_random_boxes_are_distributed_as_torchvisions() -> None:
    n, scale, ratio = 4000, (0.08, 1.0), (3 / 4, 4 / 3)
    ours = augment.random_boxes(n, 40, 48, scale, ratio, torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    image = torch.zeros(3, 40, 48)
    crop = v2.RandomResizedCrop(32, scale, ratio)
    drawn = [crop.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    for column in range(4):
        result = stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy())
        assert result.pvalue > 1e-4, f"column {column} differs: {result}"
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 40).all()
    assert (ours[:, 1] + ours[:, 3] <= 48).all()


def test_impossible_crops_fall_back_to_the_centre_as_torchvisions() -> None:
    boxes = augment.random_boxes(5, 10, 100, (1.0, 1.0), (3 / 4, 4 / 3), torch.Generator().manual_seed(0))
    params = v2.RandomResizedCrop(8, (1.0, 1.0), (3 / 4, 4 / 3)).make_params([torch.zeros(3, 10, 100)])
    assert boxes.tolist() == [[params["top"], params["left"], params["height"], params["width"]]] * 5


@pytest.mark.parametrize(("part", "probability"), [("flip", 0.5), ("grey", 0.2), ("jitter", 0.8), ("blur", 0.5)])
def test_each_part_strikes_as_often_as_asked(part: str, probability: float) -> None:
    n = 3000
    off = {
        "flip": 0.0,
        "jitter": 0.0,
        "grey": 0.0,
        "blur": 0.0,
        "crop_scale": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "strength": 1.0,
    }
    pixels = images(1, 32, 32).repeat(n, 1, 1, 1)
    views = Augment(Augmentation(**{**off, part: probability}), 32, 0.0, 1.0).views(
        pixels, torch.Generator().manual_seed(3)
    )
    untouched = pixels[:1].permute(0, 3, 1, 2).float() / 255
    struck = ((views - untouched).abs().amax(dim=(1, 2, 3)) > 1e-4).sum().item()
    assert stats.binomtest(struck, n, probability).pvalue > 1e-4


def test_views_are_random_for_each_image_and_repeat_with_the_seed() -> None:
    pixels = images(1, 32, 32).repeat(16, 1, 1, 1)
    transform = Augment(Augmentation(), 32, 0.5, 0.25)
    first = transform(pixels, torch.Generator().manual_seed(7))
    again = transform(pixels, torch.Generator().manual_seed(7))
    other = transform(pixels, torch.Generator().manual_seed(8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == 16
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_autocast_leaves_the_views_alone() -> None:
    pixels = images(16, 32, 32)
    transform = Augment(Augmentation(blur=0.5), 32, 0.5, 0.25)
    plain = transform(pixels, torch.Generator().manual_seed(7))
    with torch.autocast("cpu", torch.bfloat16):
        cast = transform(pixels, torch.Generator().manual_seed(7))
    assert torch.equal(plain, cast)


def test_jitter_factors_span_simclrs_range() -> None:
    """Brightness alone on flat grey: the view's value over the image's is the factor, uniform in [1 - 0.8 s, 1 + 0.8 s]."""
    n, strength = 2000, 0.5
    flat = torch.full((n, 8, 8, 3), 100, dtype=torch.uint8)  # contrast, saturation and hue leave flat grey alone
    config = Augmentation(flip=0, jitter=1.0, grey=0, blur=0, strength=strength)
    views = Augment(config, 8, 0.0, 1.0).views(flat, torch.Generator().manual_seed(0))
    factors = views[:, 0, 0, 0] / (100 / 255)
    assert stats.kstest(factors.numpy(), stats.uniform(1 - 0.8 * strength, 1.6 * strength).cdf).pvalue > 1e-4


def test_size_decides_the_defaults() -> None:
    assert (Augmentation().at(32).strength, Augmentation().at(32).blur) == (0.5, 0.0)
    assert (Augmentation().at(224).strength, Augmentation().at(224).blur) == (1.0, 0.5)
    assert Augmentation(strength=0.3, blur=0.1).at(224).strength == 0.3
