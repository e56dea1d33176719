"""Augmentation: torchvision's numbers where parameters are fixed, SimCLR's distributions where they are drawn."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage, stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from edgekit.data import augment
from edgekit.data.augment import Augment
from edgekit.data.augment.filters import blur_by_matrices, blur_by_shifts
from edgekit.data.augment.geometry import mirror_and_turn
from edgekit.recipe import Augmentation

OFF = {"crop": 0.0, "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "strength": 1.0}
EVERYTHING = Augmentation(rotate=0.5, blur=0.5, sobel=0.3, noise=0.3, cutout=0.5)


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


@pytest.mark.parametrize("size", [16, 64, 96])
def test_large_images_are_cropped_as_torchvision_does(size: int) -> None:
    """On a CPU their rows are gathered instead of multiplied with a matrix."""
    pixels = images(5, 110, 128)
    boxes = [[0, 0, 110, 128], [3, 5, 100, 20], [30, 40, 10, 8], [0, 0, 1, 1], [109, 0, 1, 128]]
    flips, turns = torch.tensor([False, True, False, True, True]), torch.tensor([0, 2, 1, 3, 0])
    ours = augment.crop_resize_flip(pixels, torch.tensor(boxes), flips, size, turns)
    for i, box in enumerate(boxes):
        image = pixels[i].permute(2, 0, 1).float() / 255
        theirs = F.resized_crop(image, *box, size=[size, size], antialias=True)
        theirs = F.horizontal_flip(theirs) if flips[i] else theirs
        torch.testing.assert_close(ours[i], torch.rot90(theirs, int(turns[i]), (1, 2)), atol=5e-6, rtol=0)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_crops_turn_as_torchvision_rotates(turns: int, flipped: bool) -> None:
    pixels, box = images(1), [3, 5, 20, 30]
    flips = torch.tensor([flipped])
    ours = augment.crop_resize_flip(pixels, torch.tensor([box]), flips, 16, torch.tensor([turns]))
    theirs = F.resized_crop(pixels[0].permute(2, 0, 1).float() / 255, *box, size=[16, 16], antialias=True)
    mirrored = F.horizontal_flip(theirs) if flipped else theirs
    torch.testing.assert_close(ours[0], F.rotate(mirrored, 90.0 * turns), atol=2e-6, rtol=0)
    uncropped = mirror_and_turn(theirs[None], flips, torch.tensor([turns]))
    assert torch.equal(uncropped[0], F.rotate(mirrored, 90.0 * turns))


def test_several_views_are_those_of_repeated_images() -> None:
    """The first n rows are the first view; both views take their pixels from the same image."""
    pixels = images(5, 32, 32)
    transform = Augment(EVERYTHING, 24, 0.5, 0.25)
    draws = transform.draw(10, 32, 32, torch.Generator().manual_seed(0))
    repeated = transform.apply(pixels.repeat(2, 1, 1, 1), draws)
    torch.testing.assert_close(transform.apply(pixels, draws), repeated, atol=1e-6, rtol=0)
    assert not torch.equal(repeated[:5], repeated[5:])


def test_no_crop_is_the_center_that_evaluation_sees() -> None:
    pixels = images(3, 40, 40)
    for size in (32, 40, 64):
        views = Augment(Augmentation(**OFF), size, 0.0, 1.0).views(pixels, torch.Generator().manual_seed(0), 2)
        center = F.center_crop(pixels.permute(0, 3, 1, 2).float() / 255, [min(size, 40)] * 2)
        expected = F.resize(center, [size, size], antialias=True)
        torch.testing.assert_close(views, expected.repeat(2, 1, 1, 1), atol=2e-6, rtol=0)


def test_float_images_give_the_views_of_the_same_bytes() -> None:
    pixels = images(4, 32, 32)
    for config in (EVERYTHING, Augmentation(**OFF)):
        transform = Augment(config, 32, 0.5, 0.25)
        draws = transform.draw(4, 32, 32, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            transform.apply(pixels.float() / 255, draws), transform.apply(pixels, draws), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (augment.adjust_brightness, F.adjust_brightness, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_contrast, F.adjust_contrast, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_saturation, F.adjust_saturation, [0.0, 0.3, 1.0, 1.2, 1.8, 0.9]),
        (augment.adjust_hue, F.adjust_hue, [-0.5, -0.2, 0.0, 0.05, 0.2, 0.5]),
    ],
)
def test_color_operations_equal_torchvision_image_by_image(ours, theirs, factors: list[float]) -> None:
    batch = floats()
    batch[0, :, :10] = 0.5  # grays have no hue
    batch[1, :, :10] = 0.0
    batch[2, :, :10] = 1.0
    result = ours(batch, torch.tensor(factors))
    for i, factor in enumerate(factors):
        torch.testing.assert_close(result[i], theirs(batch[i], factor), atol=1e-5, rtol=0)


def test_gray_equals_torchvision() -> None:
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


def test_a_gpus_blur_is_the_cpus() -> None:
    batch, taps = floats(), torch.rand(6, 9).softmax(dim=1)
    torch.testing.assert_close(blur_by_matrices(batch, taps), blur_by_shifts(batch, taps), atol=2e-6, rtol=0)


def test_sobel_equals_scipys() -> None:
    batch = floats()
    result = augment.sobel(batch)
    for i, image in enumerate(batch.numpy()):
        for channel in range(3):
            gradients = [ndimage.sobel(image[channel], axis, mode="mirror") / 4 for axis in (0, 1)]
            expected = torch.from_numpy(gradients[0] ** 2 + gradients[1] ** 2).sqrt().clamp(max=1)
            torch.testing.assert_close(result[i, channel], expected, atol=1e-6, rtol=0)
    assert (augment.sobel(torch.full((1, 3, 8, 8), 0.7)) < 1e-6).all()


def test_cutout_equals_torchvisions_erase_image_by_image() -> None:
    batch = floats()
    boxes = [[0, 0, 40, 48], [3, 5, 10, 20], [-4, -8, 16, 16], [35, 40, 16, 16], [20, 20, 1, 1], [0, 47, 5, 5]]
    result = augment.cut_out(batch, torch.tensor(boxes), 0.5)
    for i, (top, left, height, width) in enumerate(boxes):
        inside = [max(0, top), max(0, left), min(40, top + height), min(48, left + width)]
        theirs = F.erase(
            batch[i], inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1], torch.tensor(0.5)
        )
        assert torch.equal(result[i], theirs)


def test_noise_is_normal_with_the_deviation_asked_for_and_another_for_each_image() -> None:
    flat = torch.full((300, 16, 16, 3), 128, dtype=torch.uint8)
    transform = Augment(Augmentation(**{**OFF, "noise": 1.0, "noise_std": 0.05}), 16, 0.0, 1.0)
    noise = transform.views(flat, torch.Generator().manual_seed(0)) - 128 / 255
    assert stats.kstest(noise[::10].flatten().numpy(), stats.norm(0, 0.05).cdf).pvalue > 1e-4
    assert len(torch.unique(noise.flatten(1), dim=0)) == 300
    other = transform.views(flat, torch.Generator().manual_seed(1)) - 128 / 255
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]) < 0.02


def test_cutouts_centers_are_uniform_and_the_fill_is_zero_after_normalization() -> None:
    n, size = 4000, 16
    white = torch.full((n, size, size, 3), 255, dtype=torch.uint8)
    views = Augment(Augmentation(**{**OFF, "cutout": 1.0, "cutout_side": 0.25}), size, 0.5, 0.25)(
        white, torch.Generator().manual_seed(0)
    )
    assert set(views.unique().tolist()) == {0.0, 2.0}
    struck = (views[:, 0] == 0).double().mean(dim=0)
    # A pixel is covered from as many centers as the square has pixels, fewer at the border.
    covering = torch.tensor([min(i + 2, size - 1) - max(i - 2 + 1, 0) + 1 for i in range(size)]).double()
    expected = covering[:, None] * covering / size**2
    assert ((struck - expected).abs() < 5 * (expected / n).sqrt() + 1e-3).all()


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


def test_impossible_crops_fall_back_to_the_center_as_torchvisions() -> None:
    boxes = augment.random_boxes(5, 10, 100, (1.0, 1.0), (3 / 4, 4 / 3), torch.Generator().manual_seed(0))
    params = v2.RandomResizedCrop(8, (1.0, 1.0), (3 / 4, 4 / 3)).make_params([torch.zeros(3, 10, 100)])
    assert boxes.tolist() == [[params["top"], params["left"], params["height"], params["width"]]] * 5


@pytest.mark.parametrize(
    ("part", "probability"),
    [
        ("flip", 0.5), ("gray", 0.2), ("jitter", 0.8), ("blur", 0.5), ("rotate", 0.3), ("sobel", 0.1), ("noise", 0.6),
        ("cutout", 0.7), ("crop", 0.4),
    ],
)  # fmt: skip
def test_each_part_strikes_as_often_as_asked(part: str, probability: float) -> None:
    n = 1000
    pixels = images(1, 32, 32).repeat(n, 1, 1, 1)
    config = Augmentation(**{**OFF, "crop_scale": (0.2, 0.5), part: probability})
    views = Augment(config, 32, 0.0, 1.0).views(pixels, torch.Generator().manual_seed(3))
    untouched = pixels[:1].permute(0, 3, 1, 2).float() / 255
    struck = ((views - untouched).abs().amax(dim=(1, 2, 3)) > 1e-4).sum().item()
    assert stats.binomtest(struck, n, probability).pvalue > 1e-4


def test_quarter_turns_are_equally_frequent() -> None:
    n = 1200
    pixels = images(1, 16, 16).repeat(n, 1, 1, 1)
    views = Augment(Augmentation(**{**OFF, "rotate": 1.0}), 16, 0.0, 1.0).views(
        pixels, torch.Generator().manual_seed(0)
    )
    image = pixels[0].permute(2, 0, 1).float() / 255
    counts = [(views == torch.rot90(image, k, (1, 2))).all(dim=(1, 2, 3)).sum().item() for k in range(4)]
    assert counts[0] == 0
    assert sum(counts) == n
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


def test_all_orders_of_the_jitter_occur_for_all_images() -> None:
    """Images of a group share an order, and which images make a group is drawn: no place in the batch has its own order."""
    transform = Augment(Augmentation(**{**OFF, "jitter": 1.0}), 8, 0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    first_group, orders = set(), set()
    for _ in range(60):
        draws = transform.draw(8, 8, 8, generator)
        first_group |= set(draws.of("jitter")[0][:2].tolist())
        orders |= {tuple(order) for order in draws.orders}
    assert first_group == set(range(8))
    assert len(orders) == 24


def test_the_work_waits_for_nothing_on_the_device() -> None:
    """Fake tensors have no values: whatever asked a tensor for one (a wait, on a GPU) would fail."""
    transform = Augment(EVERYTHING, 24, 0.5, 0.25)
    draws = transform.draw(16, 32, 32, torch.Generator().manual_seed(0))
    assert draws.packed.dtype == torch.float32
    assert set(draws.counts) == {"jitter", "gray", "blur", "sobel", "noise", "cutout"}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = augment.Draws(mode.from_tensor(draws.packed), draws.columns, draws.counts, draws.orders, 0)
        views = transform.apply(torch.empty(8, 32, 32, 3, dtype=torch.uint8), fake)
    assert views.shape == (16, 3, 24, 24)


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
    """Brightness alone on flat gray: the view's value over the image's is the factor, uniform in [1 - 0.8 s, 1 + 0.8 s]."""
    n, strength = 2000, 0.5
    flat = torch.full((n, 8, 8, 3), 100, dtype=torch.uint8)  # contrast, saturation and hue leave flat gray alone
    config = Augmentation(flip=0, jitter=1.0, gray=0, blur=0, strength=strength)
    views = Augment(config, 8, 0.0, 1.0).views(flat, torch.Generator().manual_seed(0))
    factors = views[:, 0, 0, 0] / (100 / 255)
    assert stats.kstest(factors.numpy(), stats.uniform(1 - 0.8 * strength, 1.6 * strength).cdf).pvalue > 1e-4


def test_size_decides_the_defaults() -> None:
    assert (Augmentation().at(32).strength, Augmentation().at(32).blur) == (0.5, 0.0)
    assert (Augmentation().at(224).strength, Augmentation().at(224).blur) == (1.0, 0.5)
    assert Augmentation(strength=0.3, blur=0.1).at(224).strength == 0.3
