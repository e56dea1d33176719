"""Whether images may be mirrored: digits may not, and neither labels nor the machine decide it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from edgekit import recipe as recipes
from edgekit.data.layout import inspect_folder
from edgekit.data.template import RecipePlan, recipe_text
from edgekit.recipe import Architecture
from edgekit.sizes import ImageSize
from edgekit.train import planning
from edgekit.train.analysis.symmetry import CLEARLY, SIDE, mirrored_told_apart


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """400 handwritten digits, a third of the images that there are of each, as their files would be read."""
    small = (load_digits().images[:400] * 15.9).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).convert("RGB").resize((SIDE, SIDE))) for image in small])


def tiles() -> NDArray[np.uint8]:
    """400 tiles of two photographs."""
    draws, found = np.random.default_rng(0), []
    for photograph in load_sample_images().images:
        rows, columns = draws.integers(0, 427 - 2 * SIDE, 200), draws.integers(0, 640 - 2 * SIDE, 200)
        found += [photograph[y : y + 2 * SIDE : 2, x : x + 2 * SIDE : 2] for y, x in zip(rows, columns, strict=True)]
    return np.stack(found)


def test_digits_have_a_left_and_a_right_and_tiles_of_photographs_have_none(digits: NDArray[np.uint8]) -> None:
    assert mirrored_told_apart(digits) >= CLEARLY
    assert mirrored_told_apart(tiles()) < CLEARLY - 0.1


def test_a_set_that_holds_its_mirror_images_is_symmetric(digits: NDArray[np.uint8]) -> None:
    half = digits[:200]
    draws = np.random.default_rng(1)
    either = np.where(draws.random((len(digits), 1, 1, 1)) < 0.5, digits, digits[:, :, ::-1])
    assert mirrored_told_apart(either) < CLEARLY - 0.1
    symmetric = np.maximum(half, half[:, :, ::-1])  # nothing to tell: the difference is zero
    assert mirrored_told_apart(symmetric) < CLEARLY


@pytest.mark.parametrize("which", ["digits", "tiles"])
def test_a_recipe_for_measured_images_flips_where_nothing_is_lost(
    which: str, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = digits if which == "digits" else tiles()
    for number, image in enumerate(images[:200]):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    planner = planning._Planner(inspect_folder(str(tmp_path / "photos")), None, 60.0, lambda text: None, 0.0)
    assert planner.mirrored is not None
    assert planner.flip == (which == "tiles")
    network = Architecture(name="resnet10")
    text = recipe_text(
        planner.layout, plan=RecipePlan(ImageSize(SIDE, SIDE), network, network, 1, 1, flip=planner.flip)
    )
    recipe = recipes.parse(recipes.read_yaml(text))
    stages = (recipe.pretrain, recipe.finetune, recipe.distill, recipe.supervised)
    assert {stage.augmentation.flip for stage in stages} == {0.5 if planner.flip else 0.0}


def test_too_few_images_decide_nothing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(12):
            Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    planner = planning._Planner(inspect_folder(str(tmp_path)), None, 60.0, lambda text: None, 0.0)
    assert planner.mirrored is None
    assert planner.flip
