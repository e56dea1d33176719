"""SimCLR's asymmetric setting: one crop for both branches, the transformations on the first alone, in their order."""

from __future__ import annotations

import pytest
import torch

from edgekit.data.augment import OneBranch, gaussian_blur, sobel
from edgekit.recipe import Augmentation, Transformation


def pixels(n: int = 6, side: int = 40) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def branches(
    *transformations: Transformation, images: torch.Tensor | None = None, **strengths: object
) -> list[torch.Tensor]:
    """The two views of each image, in [0, 1]."""
    images = pixels() if images is None else images
    augment = OneBranch(Augmentation(**strengths), transformations, 24, 0.5, 0.25)
    return list(augment.views(images, torch.Generator().manual_seed(1), 2).chunk(2))


def test_transformations_follow_each_other_on_the_first_branch_alone() -> None:
    first, second = branches("sobel", "blur", blur_sigma=(1.0, 1.0))
    torch.testing.assert_close(first, gaussian_blur(sobel(second), torch.ones(6), 3), atol=1e-6, rtol=0)
    first, second = branches("blur", "sobel", blur_sigma=(1.0, 1.0))
    torch.testing.assert_close(first, sobel(gaussian_blur(second, torch.ones(6), 3)), atol=1e-6, rtol=0)


def test_both_branches_share_the_crop() -> None:
    """Where nothing but a square is cut out, the branches are equal outside it."""
    first, second = branches("cutout", cutout_side=0.25)
    changed = (first != second).any(dim=1)
    assert changed.flatten(1).any(dim=1).all()
    assert changed.double().mean() <= 0.25**2
    assert (first.permute(0, 2, 3, 1)[changed] == 0.5).all()


def test_a_crop_alone_is_a_crop_of_the_shared_crop() -> None:
    """On a ramp from left to right the values say where a crop lies."""
    ramp = (torch.arange(40) * 6).to(torch.uint8)[None, None, :, None].expand(6, 40, 40, 3)
    first, second = branches("crop", images=ramp)
    assert (first.amin(dim=(1, 2, 3)) >= second.amin(dim=(1, 2, 3)) - 1e-5).all()
    assert (first.amax(dim=(1, 2, 3)) <= second.amax(dim=(1, 2, 3)) + 1e-5).all()
    assert not torch.equal(first, second)
    whole, shared = branches("crop", crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    torch.testing.assert_close(whole, shared, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["crop", "cutout", "color", "sobel", "noise", "blur", "rotate", "flip", "jitter", "gray"]
)
def test_every_transformation_acts_whatever_the_recipes_probabilities_are(name: Transformation) -> None:
    """The strengths are the recipe's; its probabilities switch the parts of its own pipeline."""
    off = {"crop": 0, "flip": 0, "jitter": 0, "gray": 0, "blur": 0}
    first, second = branches(name, images=pixels(20), **off)
    struck = (first - second).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert struck.double().mean() > (0.1 if name == "flip" else 0.7)


def test_views_are_normalized_and_in_the_networks_layout() -> None:
    augment = OneBranch(Augmentation(), ["color"], 24, 0.5, 0.25)
    views = augment(pixels(), torch.Generator().manual_seed(1), 2)
    plain = augment.views(pixels(), torch.Generator().manual_seed(1), 2)
    torch.testing.assert_close(views, (plain - 0.5) / 0.25)
    assert views.is_contiguous(memory_format=torch.channels_last)
