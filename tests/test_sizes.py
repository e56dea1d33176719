"""The size of images: one side for a square, as files have always had it, and [height, width] otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import RecipeError
from edgekit.files import digest_of
from edgekit.preprocess import Preprocessing
from edgekit.recipe import dump, load, parse
from edgekit.recipe.plain_yaml import read_yaml
from edgekit.sizes import ImageSize, parse_image_size

SIDES = st.integers(4, 1024)


@given(SIDES, SIDES)
def test_a_size_has_one_form_in_files_and_one_value(height: int, width: int) -> None:
    size = ImageSize.of((height, width))
    assert size.plain == (height if height == width else [height, width])
    assert ImageSize.of(size.plain) == size == ImageSize.of(size)
    assert hash(ImageSize.of(size.plain)) == hash(size)
    assert parse_image_size(size.option) == size
    assert (size == height) == (height == width)
    assert list(size) == [height, width]
    assert size.transposed.transposed == size
    scaled = size.with_shorter(2 * min(height, width))
    assert scaled == ImageSize(2 * height, 2 * width)


@given(SIDES, SIDES)
def test_a_recipe_comes_back_as_it_was(height: int, width: int) -> None:
    recipe = parse({"data": {"image_size": [height, width]}})
    content: Any = read_yaml(dump(recipe))
    assert content["data"]["image_size"] == (height if height == width else [height, width])
    assert parse(content) == recipe


def test_a_square_keeps_its_digest_however_it_is_written() -> None:
    """Records of older runs hold a number: another form would train their stages again."""
    old = {"image_size": 96, "resize_to": 110, "fit": "crop", "interpolation": "bilinear"}
    for size in (96, [96, 96], (96, 96), ImageSize(96, 96)):
        now = Preprocessing.model_validate({**old, "image_size": size})
        assert now.model_dump() == now.model_dump(mode="json") == old
        assert json.loads(now.model_dump_json()) == old
        assert digest_of(now.model_dump()) == digest_of(old)
    recipe = parse({"data": {"image_size": [32, 32]}})
    assert recipe == parse({})
    assert type(recipe.model_dump()["data"]["image_size"]) is int


def test_the_command_line_overrides_it(tmp_path: Any) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {labeled: digits, image_size: 32}\n")
    recipe = load(tmp_path / "recipe.yaml", ["data.image_size=[96,128]"])
    assert recipe.data.image_size == ImageSize(96, 128)
    assert recipe.data.preprocessing().resize_to == 110
    with pytest.raises(
        RecipeError, match=r"data\.image_size: must be a whole number, or \[height, width\].*got '96x128'"
    ):
        load(tmp_path / "recipe.yaml", ["data.image_size=96x128"])


@pytest.mark.parametrize("wrong", [0, -3, True, 2.5, "96", [96], [96, 96, 3], [0, 5], ["a", 3], None, {}, [True, 4]])
def test_what_is_no_size_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="an image size is a number of pixels, or"):
        ImageSize.of(wrong)


@pytest.mark.parametrize("wrong", ["", "96x128", "96,", "0", "-3", "96,128,3", "a", "9" * 5000, "96.5", "٣"])
def test_what_is_no_option_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a size in pixels: write it like 96, or like 96,128"):
        parse_image_size(wrong)


def test_the_schema_of_a_recipe_names_both_forms() -> None:
    from edgekit.recipe import DataConfig

    schema = DataConfig.model_json_schema()["properties"]["image_size"]
    side = {"type": "integer", "minimum": 4, "maximum": 1024}
    assert schema["anyOf"] == [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]
    assert schema["default"] == 32
