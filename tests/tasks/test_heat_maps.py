"""Heat maps at their images' own size: where a model looked, and where it did not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.preprocess import Preprocessing
from edgekit.tasks.heat_maps import at_own_size, overlay, seen_box

FITS = [
    {"fit": "stretch"},
    {"fit": "crop"},
    {"fit": "crop", "geometry": "torchvision"},
    {"fit": "stretch", "geometry": "torchvision"},
    {"fit": "border", "geometry": "torchvision"},
]


@settings(max_examples=60)
@given(st.sampled_from(FITS), st.integers(40, 160), st.integers(40, 160), st.integers(0, 12), st.data())
def test_the_box_is_where_the_preprocessing_takes_its_pixels_from(
    fit: dict[str, str], width: int, height: int, margin: int, data: st.DataObject
) -> None:
    """A bright pixel-wide cross, far from the borders, is found again where the box says."""
    preprocessing = Preprocessing.model_validate({"image_size": 64, "resize_to": 64 + margin, **fit})
    left, top, right, bottom = seen_box(preprocessing, (width, height), (64, 64))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    assume(left + 3 < x < right - 4)
    assume(top + 3 < y < bottom - 4)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, x, 0] = image[y, :, 1] = 255
    seen = preprocessing(Image.fromarray(image)).astype(np.float64)
    column, row = ((seen[..., c].sum(axis=c) * np.arange(64)).sum() / seen[..., c].sum() for c in (0, 1))
    assert left + (column + 0.5) / 64 * (right - left) == pytest.approx(x + 0.5, abs=0.75 * max(1, (right - left) / 64))
    assert top + (row + 0.5) / 64 * (bottom - top) == pytest.approx(y + 0.5, abs=0.75 * max(1, (bottom - top) / 64))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(64, 64), (90, 60), (60, 90), (33, 200)])
def test_a_map_has_the_size_of_its_image_and_keeps_its_values(fit: dict[str, str], size: tuple[int, int]) -> None:
    preprocessing = Preprocessing.model_validate({"image_size": 16, "resize_to": 16, **fit})
    heat = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    own = at_own_size(heat, preprocessing, size)
    seen = ~np.isnan(own)
    assert own.shape == (size[1], size[0])
    assert seen.any()
    assert heat.min() - 1e-6 <= own[seen].min() <= own[seen].max() <= heat.max() + 1e-6
    assert np.allclose(at_own_size(np.full((16, 16), 3, np.float32), preprocessing, size)[seen], 3)
    cut = fit["fit"] == "crop" and size[0] != size[1]
    assert seen.all() != cut


def test_an_image_of_the_models_size_gets_its_map_as_it_is() -> None:
    heat = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    preprocessing = Preprocessing(image_size=16, resize_to=16)
    assert np.allclose(at_own_size(heat, preprocessing, (16, 16)), heat, atol=1e-6)


def test_half_of_a_wide_image_that_is_not_seen_is_dark_and_the_rest_has_color_from_the_threshold_on() -> None:
    preprocessing = Preprocessing(image_size=20, resize_to=20)
    image = np.full((20, 40, 3), 100, dtype=np.uint8)
    heat = np.zeros((20, 20), dtype=np.float32)
    heat[5:15, 5:15] = 4.0
    drawn = overlay(image, heat, preprocessing, threshold=2.0)
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    assert (drawn[:, :10] == 45).all()
    assert (drawn[:, 30:] == 45).all()
    assert (drawn[:4, 10:30] == 100).all()  # no heat, no color
    middle = drawn[10, 20].astype(int)
    assert middle[0] > 150 > middle[2]  # red
    assert (drawn[5, 20] == (0, 230, 255)).all()  # the outline
    without = overlay(image, heat, preprocessing)
    assert not (without == (0, 230, 255)).all(axis=2).any()
    assert (overlay(image, np.zeros_like(heat), preprocessing)[:, 10:30] == 100).all()  # an even map has no color
