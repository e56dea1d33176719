"""Preprocessing where height and width differ, beside a plain Pillow and NumPy reference, and beside timm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from edgekit.export.importers.modules import timm_pixels
from edgekit.preprocess import Preprocessing
from edgekit.sizes import ImageSize
from tests.helpers.pillow_order import order_of_pillow_12

sides, small = st.integers(1, 300), st.integers(4, 48)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """A picture without edges, of which parts can be resized alone with little difference."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    return Image.fromarray(
        np.stack([127 + 120 * np.sin(x), 127 + 120 * np.cos(y), 127 + 100 * np.sin(x + y)], 2).astype(np.uint8)
    )


def two_steps(image: Image.Image, height: int, width: int, resize_to: int) -> np.ndarray:
    """The rule: resize the whole image so that it covers the area of `resize_to`, then cut out the center."""
    shorter = min(height, width)
    scale = max(width * resize_to / shorter / image.width, height * resize_to / shorter / image.height)
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    whole = np.asarray(image.resize((across, down), Image.Resampling.BILINEAR))
    top, left = (down - height) // 2, (across - width) // 2
    return whole[top : top + height, left : left + width]


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), small, small, st.integers(0, 24))
def test_an_image_covers_the_area_and_its_center_is_cut_out(
    across: int, down: int, height: int, width: int, more: int
) -> None:
    resize_to = min(height, width) + more
    preprocessing = Preprocessing(image_size=[height, width], resize_to=resize_to)
    found = preprocessing(smooth(across, down))
    assert found.shape == (height, width, 3)
    difference = np.abs(found.astype(int) - two_steps(smooth(across, down), height, width, resize_to))
    assert difference.max() <= 3  # a part is resized alone: rounded elsewhere


def test_where_nothing_is_rounded_every_pixel_is_that_of_the_reference() -> None:
    image = noise(160, 120)
    for size, resize_to in (((48, 64), 48), ((48, 64), 60), ((96, 128), 96), ((60, 80), 120)):
        preprocessing = Preprocessing(image_size=size, resize_to=resize_to)
        with order_of_pillow_12():
            assert np.array_equal(preprocessing(image), two_steps(image, *size, resize_to))


@settings(max_examples=40, deadline=None)
@given(sides, sides, small, small)
def test_stretching_takes_the_whole_image(across: int, down: int, height: int, width: int) -> None:
    image = noise(across, down)
    found = Preprocessing(image_size=[height, width], resize_to=max(height, width), fit="stretch")(image)
    with order_of_pillow_12():
        assert np.array_equal(found, np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))


def test_nothing_is_lost_of_a_camera_s_frame_and_a_square_loses_its_ends() -> None:
    """A 4:3 frame whose left and right tenths are white."""
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[:, :16] = frame[:, -16:] = 255
    own = Preprocessing(image_size=[48, 64], resize_to=48)(Image.fromarray(frame))
    square = Preprocessing(image_size=48, resize_to=48)(Image.fromarray(frame))
    assert (own > 127).mean() == pytest.approx(0.2, abs=0.02)
    assert (square > 127).mean() == 0


@settings(max_examples=80, deadline=None)
@given(
    sides, sides, st.integers(8, 40), st.integers(8, 40), st.sampled_from([0.5, 0.8, 0.9, 1.0]),
    st.sampled_from(["center", "squash", "border"]), st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_every_pixel_is_timm_s(
    across: int, down: int, height: int, width: int, share: float, mode: str, interpolation: str
) -> None:
    assume(height != width)  # squares: test_preprocess_geometry
    config = {
        "input_size": (3, height, width), "interpolation": interpolation, "crop_pct": share, "crop_mode": mode,
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    pixels = timm_pixels(config)
    assert pixels.size == ImageSize(height, width)
    area = [side * math.floor(min(height, width) / share) // min(height, width) for side in (height, width)]
    # timm rounds both sides of the area on their own, edgekit the longer one from the shorter one.
    assume(area == [math.floor(side / share) for side in (height, width)])
    how = Preprocessing(
        image_size=pixels.size, resize_to=pixels.resize, interpolation=interpolation, geometry="torchvision",
        fit=pixels.fit, fill=pixels.fill or (0, 0, 0),
    )  # fmt: skip
    transform = create_transform(**config, is_training=False, normalize=False)
    resize = transform.transforms[0]
    assume(getattr(resize.interpolation, "value", interpolation) == interpolation)  # timm 1.0.20 leaves it at bilinear
    image = noise(across, down)
    try:
        with order_of_pillow_12():
            expected = transform(image).permute(1, 2, 0).numpy()
    except ValueError:  # a side of 0 pixels, where timm itself fails
        return
    assert np.array_equal(Preprocessing.model_validate_json(how.model_dump_json())(image), expected)
