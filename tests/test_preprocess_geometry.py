"""Networks of torchvision and timm see exactly the pixels of their own transforms; edgekit's own keep those that they were trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from timm.data import create_transform
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from edgekit.export.importers.import_model import _merged, _preprocessing
from edgekit.export.importers.modules import timm_pixels
from edgekit.export.importers.request import PixelFormat, model_request
from edgekit.preprocess import Preprocessing
from tests.helpers.pillow_order import order_of_pillow_12

FILTERS = ("bilinear", "bicubic", "lanczos")
sides = st.integers(1, 400)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def of_torchvision(image: Image.Image, resize: int, size: int, interpolation: str) -> np.ndarray:
    with order_of_pillow_12():
        resized = Resize(resize, interpolation=InterpolationMode[interpolation.upper()])(image)
        return np.asarray(CenterCrop(size)(resized))


def of_timm(image: Image.Image, config: Mapping[str, Any], size: int | None = None) -> np.ndarray:
    transform = create_transform(
        input_size=(3, size, size) if size is not None else config["input_size"],
        interpolation=config["interpolation"], crop_pct=config["crop_pct"], crop_mode=config["crop_mode"],
        mean=config["mean"], std=config["std"], is_training=False, normalize=False,
    )  # fmt: skip
    with order_of_pillow_12():
        return transform(image).permute(1, 2, 0).numpy()


def of_edgekit(image: Image.Image, config: Mapping[str, Any], **options: Any) -> np.ndarray:
    """As `edgekit export timm:NAME` describes the preprocessing in the bundle, and the device applies it after reading that."""
    said = _merged(model_request("timm:x", **options).pixels, timm_pixels(config))
    described = _preprocessing(said, PixelFormat(), "timm:x").model_dump_json()
    return Preprocessing.model_validate_json(described)(image)


@settings(max_examples=150)
@given(sides, sides, st.integers(4, 48), st.integers(-8, 24), st.sampled_from(FILTERS))
def test_every_pixel_is_torchvision_s(width: int, height: int, size: int, more: int, interpolation: str) -> None:
    resize = max(4, size + more)  # also a smaller one, which torchvision pads
    preprocessing = Preprocessing(
        image_size=size, resize_to=resize, interpolation=interpolation, geometry="torchvision"
    )
    image = noise(width, height)
    assert np.array_equal(preprocessing(image), of_torchvision(image, resize, size, interpolation))


@settings(max_examples=150)
@given(
    sides, sides, st.integers(8, 48), st.sampled_from([0.5, 0.875, 0.9, 0.95, 0.965, 1.0, 1.15]),
    st.sampled_from(["center", "squash", "border", None]), st.sampled_from(FILTERS), st.none() | st.integers(8, 60),
)  # fmt: skip
def test_every_pixel_is_timm_s(
    width: int, height: int, size: int, crop_pct: float, mode: str | None, interpolation: str, other: int | None
) -> None:
    config = {
        "input_size": (3, size, size), "interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": mode,
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    resized = math.floor((other or size) / crop_pct)
    assume(mode != "border" or round(min(width, height) * resized / max(width, height)) > 0)  # where timm itself fails
    image = noise(width, height)
    expected = of_timm(image, config, other)
    assert np.array_equal(of_edgekit(image, config, **({"size": other} if other else {})), expected)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "convnext_tiny.fb_in22k_ft_in1k_384", "vit_tiny_patch16_224"])
def test_the_case_that_was_a_pixel_away(name: str) -> None:
    """1001 x 667, of which torchvision's longer side is cut down and its margin rounded up."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name).to_dict()
    image = noise(1001, 667)
    assert np.array_equal(of_edgekit(image, config), of_timm(image, config))
    own = Preprocessing(image_size=224, resize_to=256)(image)
    assert not np.array_equal(own, of_torchvision(image, 256, 224, "bilinear"))


@settings(max_examples=80)
@given(
    sides, sides, st.integers(4, 40), st.integers(0, 12), st.sampled_from(["crop", "stretch"]), st.sampled_from(FILTERS)
)
def test_edgekit_s_own_networks_keep_their_pixels(
    width: int, height: int, size: int, more: int, fit: str, interpolation: str
) -> None:
    image = noise(width, height)
    now = Preprocessing(image_size=size, resize_to=size + more, fit=fit, interpolation=interpolation)(image)
    with order_of_pillow_12():
        assert np.array_equal(now, _before(image, fit, interpolation, size, size + more))


def _before(image: Image.Image, fit: str, interpolation: str, size: int, resize_to: int) -> np.ndarray:
    """Word for word what edgekit did before there were geometries."""
    resampling = Image.Resampling[interpolation.upper()]
    if fit == "stretch":
        return np.asarray(image.resize((size, size), resampling))
    width, height = image.size
    scale = resize_to / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return np.asarray(image.resize((size, size), resampling, box=box))


def test_long_and_thin_images_stay_small_in_memory() -> None:
    # As torchvision does it, this one would be 256 x 15,360,000 pixels on the way.
    image = Image.new("RGB", (1, 60000), (1, 2, 3))
    got = Preprocessing(image_size=224, resize_to=256, geometry="torchvision")(image)
    assert got.shape == (224, 224, 3)
    assert (got == np.array([1, 2, 3])).all()
    padded = Preprocessing(image_size=224, resize_to=200, geometry="torchvision", fill=(9, 9, 9))(image)
    assert (padded[:, 12:212] == np.array([1, 2, 3])).all()
    assert (np.delete(padded, range(12, 212), axis=1) == 9).all()


def test_what_older_versions_do_not_know_is_written_only_where_it_matters() -> None:
    old = {"image_size": 32, "resize_to": 37, "fit": "crop", "interpolation": "bilinear"}
    own = Preprocessing(**old)
    assert own.model_dump() == old
    assert own.model_dump(mode="json") == old
    assert Preprocessing.model_validate_json(own.model_dump_json()) == own
    theirs = own.model_copy(update={"geometry": "torchvision", "pixel_range": (0.0, 4095.0)})
    assert theirs.model_dump() == {**old, "geometry": "torchvision", "pixel_range": (0.0, 4095.0)}
    assert Preprocessing.model_validate_json(theirs.model_dump_json()) == theirs
    assert "geometry" in Preprocessing.model_json_schema()["properties"]


def test_impossible_geometries_are_refused() -> None:
    with pytest.raises(ValidationError, match="resize_to"):
        Preprocessing(image_size=32, resize_to=31)
    with pytest.raises(ValidationError, match="border"):
        Preprocessing(image_size=32, resize_to=32, fit="border")


def test_a_foreign_network_that_says_nothing_has_torchvision_s_rule_and_the_user_s_where_there_is_one() -> None:
    said = PixelFormat(size=224)
    assert _preprocessing(said, PixelFormat(), "x").geometry == "torchvision"
    assert _preprocessing(said, PixelFormat(), "x").resize_to == 256
    own = _merged(model_request("x", resize_rule="edgekit").pixels, said)
    assert _preprocessing(own, PixelFormat(), "x").geometry == "edgekit"
    stretched = _merged(model_request("x", fit="stretch").pixels, said)
    assert _preprocessing(stretched, PixelFormat(), "x").resize_to == 224
