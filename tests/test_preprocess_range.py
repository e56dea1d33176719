"""Images of more than 8 bits: the range of their values is found from the data set, stated, and the same on the device."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydantic import ValidationError

from edgekit.data.decode import decode
from edgekit.data.ranges import find_range, of_run, with_range
from edgekit.data.sources import open_pool
from edgekit.data.splits import load_splits, write_splits
from edgekit.errors import EdgekitError
from edgekit.pixel_range import Extent, PixelRange, parse_pixel_range, to_gray
from edgekit.preprocess import Preprocessing, open_image, read_image, to_rgb
from edgekit.recipe import DataConfig, parse
from edgekit.run import Run
from tests.helpers.image_folders import class_folders, picture

SMALL = Preprocessing(image_size=8, resize_to=8)
RAMP = np.add.outer(np.arange(64), np.arange(64)) / 126.0
KINDS: dict[str, tuple[str, float, float, type, PixelRange]] = {
    "12bit": ("png", 0, 4095, np.uint16, (0, 4095)),
    "10bit": ("png", 0, 1023, np.uint16, (0, 1023)),
    "thermal": ("png", 7000, 7900, np.uint16, (7000, 7900)),
    "int32": ("tif", 0, 255, np.int32, (0, 255)),
    "float-0-4095": ("tif", 0, 4095, np.float32, (0, 4095)),
    "float-signed": ("tif", -1, 1, np.float32, (-1, 1)),
    "ct": ("tif", -1024, 3071, np.int32, (-1024, 3071)),
    "16bit": ("png", 0, 65535, np.uint16, (0, 65535)),
    "float-0-1": ("tif", 0, 1, np.float32, (0, 1)),
    "float-0-255": ("tif", 0, 255, np.float32, (0, 255)),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def ramp(low: float, high: float, dtype: type) -> Image.Image:
    return Image.fromarray((low + RAMP * (high - low)).astype(dtype))


def save_kind(folder: Path, kind: str, count: int = 1) -> PixelRange:
    """Pictures of one kind: each a part of the values that the set holds, so that no image alone tells the range."""
    suffix, low, high, dtype, expected = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        part = (high - low) / count
        ramp(low + i * part, low + (i + 1) * part, dtype).save(folder / f"{i}.{suffix}")
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_reaches_the_network_with_all_its_gray_levels(tmp_path: Path, kind: str) -> None:
    expected = save_kind(tmp_path, kind)
    source = open_pool(str(tmp_path))
    big = Preprocessing(image_size=64, resize_to=64)
    decoded, found = with_range("auto", [[source]], lambda known: decode(source.ranged(known), big, 0))
    assert found == expected
    assert len(np.unique(decoded.images)) > 100  # the ramp has 127 steps
    assert (decoded.images.min(), decoded.images.max()) == (0, 255)
    # The device, which has the file and the bundle, sees the same.
    (path,) = tmp_path.iterdir()
    preprocessing = Preprocessing.model_validate_json(big.model_copy(update={"pixel_range": found}).model_dump_json())
    assert np.array_equal(preprocessing.read(path), decoded.images[0])
    assert np.array_equal(preprocessing(open_image(path.read_bytes())), decoded.images[0])


@pytest.mark.parametrize("kind", ["12bit", "thermal", "float-signed", "ct"])
def test_the_range_is_of_the_set_and_not_of_each_image(tmp_path: Path, kind: str) -> None:
    expected = save_kind(tmp_path, kind, count=4)
    source = open_pool(str(tmp_path))
    found = find_range([source])
    assert found == pytest.approx(expected, rel=2e-3)
    ranged = source.ranged(found)
    means = [float(np.asarray(ranged.rgb(i)).mean()) for i in range(4)]
    assert means == sorted(means)
    assert means[3] - means[0] > 150


@given(arrays(np.uint16, (7, 9)))
@settings(max_examples=50)
def test_full_range_16_bits_keep_the_high_byte_as_before(values: np.ndarray) -> None:
    image = Image.fromarray(values)
    for pixel_range in ((0.0, 65535.0), "dtype", None):
        assert np.array_equal(np.asarray(to_rgb(image, pixel_range))[..., 0], values >> 8)


@given(arrays(np.float32, (5, 4), elements=st.floats(0, 1, width=32)))
@settings(max_examples=50)
def test_floats_in_0_to_1_and_in_bytes_are_as_before(values: np.ndarray) -> None:
    image = Image.fromarray(values)
    before = np.clip(values * 255.0, 0, 255).astype(np.uint8)
    assert np.array_equal(np.asarray(to_rgb(image, (0.0, 1.0)))[..., 0], before)
    in_bytes = values * np.float32(255)
    assert np.array_equal(to_gray(in_bytes, (0.0, 255.0)), in_bytes.astype(np.uint8))


@given(arrays(np.int32, (6, 6), elements=st.integers(-5000, 70000)), st.integers(-3000, 3000), st.integers(1, 70000))
@settings(max_examples=100)
def test_whole_numbers_fall_into_bins_of_equal_width(values: np.ndarray, low: int, width: int) -> None:
    expected = [min(255, max(0, (int(v) - low) * 256 // (width + 1))) for v in values.flat]  # Python's exact integers
    assert to_gray(values, (float(low), float(low + width))).ravel().tolist() == expected


def test_8_bit_images_are_untouched_by_any_range(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture("a").save(path)
    for pixel_range in (None, "dtype", (0.0, 10.0)):
        assert np.array_equal(np.asarray(read_image(path, pixel_range)), np.asarray(picture("a")))
    source = open_pool(str(tmp_path))
    _, found = with_range("auto", [[source]], lambda known: decode(source.ranged(known), SMALL, 0))
    assert found is None


def test_a_few_hot_pixels_do_not_set_the_range(tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((300, 300)) * 4095).astype(np.uint16)
    values[5, 5] = values[200, 7] = 65535  # 2 of 90,000
    Image.fromarray(values).save(tmp_path / "a.png")
    source = open_pool(str(tmp_path))
    found = find_range([source])
    assert found == (0, 4095)
    decoded = decode(source.ranged(found), SMALL, 0)
    assert any("2.2e-05 of the pixels are outside and are clipped" in note for note in decoded.notes)


def test_nan_is_the_lowest_and_infinity_is_clipped_and_both_are_said(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, -2.0, 0.0, 2.0, np.inf]], np.float32)
    assert to_gray(values, (-2.0, 2.0)).tolist() == [[0, 0, 0, 127, 255, 255]]
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "b.tif")
    source = open_pool(str(tmp_path))
    assert find_range([source]) == (-2, 2)
    decoded = decode(source.ranged((-2.0, 2.0)), SMALL, 0)
    assert any("2 images" in note and "NaN or infinite" in note for note in decoded.notes)
    assert find_range([source.subset([1])]) == "dtype"


def test_an_image_of_one_value_has_a_range() -> None:
    extent = Extent()
    extent.add(Image.fromarray(np.full((3, 3), 7000, np.uint16)))
    assert extent.pixel_range() == (7000, 7001)


def test_a_set_that_uses_under_a_tenth_of_a_stated_range_is_noted(tmp_path: Path) -> None:
    save_kind(tmp_path, "thermal")
    decoded = decode(open_pool(str(tmp_path)).ranged("dtype"), SMALL, 0)
    assert any("use 4 of the 256 gray levels" in note and "data.pixel_range" in note for note in decoded.notes)
    again = decode(open_pool(str(tmp_path)).ranged("dtype"), SMALL, 0)  # from the cache
    assert again.notes == decoded.notes


def test_16_bits_a_color_are_read_as_8_and_said(tmp_path: Path) -> None:
    """Pillow has no such mode: it keeps the high bytes, so that 12-bit colors come out dark."""
    (tmp_path / "a.png").write_bytes(_png_of_16_bit_rgb())
    decoded = decode(open_pool(str(tmp_path)), SMALL, 0)
    assert any("1 image of" in note and "16 bits per color" in note for note in decoded.notes)


def _png_of_16_bit_rgb() -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    values = np.full((8, 8, 3), 4095, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- recipes and runs -------------------------------------------------------------------------------------------------


def classes_of_12_bits(root: Path, count: int = 6) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng([i, len(name), ord(name[0])]).integers(0, 4096, (12, 12), dtype=np.uint16)
            Image.fromarray(noise).save(root / name / f"{i}.png")
    return root


def test_a_recipe_s_images_are_read_with_the_range_that_is_found(tmp_path: Path) -> None:
    photos = classes_of_12_bits(tmp_path / "photos")
    data = DataConfig(labeled=str(photos), image_size=8, labels=2)
    splits = load_splits(data)
    assert splits.pixel_range == (0, 4095)
    assert len(np.unique(splits.pool.images)) > 100
    assert any("[0, 4095] becomes the gray levels 0 to 255" in note for note in splits.notes)
    assert data.preprocessing(splits.pixel_range).pixel_range == (0, 4095)
    write_splits(splits, tmp_path)
    assert '"pixel_range": [\n    0.0,\n    4095.0\n  ]' in (tmp_path / "splits.json").read_text()
    for stream in (False, True):  # the second time from the caches; and streamed
        again = load_splits(data.model_copy(update={"stream": stream}))
        assert again.pixel_range == splits.pixel_range
        assert np.array_equal(again.pool.images[:], splits.pool.images)


def test_a_stated_range_is_used_and_8_bit_images_beside_deep_ones_are_said(tmp_path: Path) -> None:
    photos = classes_of_12_bits(tmp_path / "photos")
    class_folders(photos, {"cat": 3, "dog": 3})
    data = DataConfig(labeled=str(photos), image_size=8, labels=2, pixel_range=(0, 2047))
    splits = load_splits(data)
    assert splits.pixel_range == (0, 2047)
    assert any("12 of the 18 images" in note and "others have 8 bits" in note for note in splits.notes)
    assert load_splits(data.model_copy(update={"pixel_range": "auto"})).pixel_range == (0, 4095)


def test_one_deep_image_among_many_of_8_bits_is_never_crushed(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 90, "dog": 3})
    ramp(0, 4095, np.uint16).save(photos / "dog/zz.png")
    splits = load_splits(DataConfig(labeled=str(photos), image_size=8, labels=2))
    assert splits.pixel_range == (0, 4095)


def test_deep_images_in_the_test_set_alone_have_their_own_range(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", {"cat": 5, "dog": 5})
    test = classes_of_12_bits(tmp_path / "test")
    assert load_splits(DataConfig(labeled=str(train), test=str(test), image_size=8, labels=2)).pixel_range == (0, 4095)


def test_a_run_that_is_older_than_ranges_keeps_the_pixels_it_was_trained_with(tmp_path: Path) -> None:
    photos = classes_of_12_bits(tmp_path / "photos")
    data = DataConfig(labeled=str(photos), image_size=8, labels=2)
    run = Run(tmp_path / "run")
    (run.path / "data").mkdir(parents=True)
    (run.path / "data/splits.json").write_text('{"classes": ["cat", "dog"]}')
    old = load_splits(data, run)
    assert old.pixel_range is None
    assert len(np.unique(old.pool.images)) <= 16  # >> 8
    assert any("of the 256 gray levels" in note for note in old.notes)
    (run.path / "data/splits.json").write_text('{"classes": ["cat", "dog"], "pixel_range": [0, 4095]}')
    assert load_splits(data, run).pixel_range == (0, 4095)


def test_a_run_tells_the_range_of_its_images(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    (run.path / "data").mkdir(parents=True)
    for recipe, summary, expected in (
        ("{data: {labeled: digits}}", '{"pixel_range": [0, 4095]}', (0, 4095)),
        ("{data: {labeled: digits}}", '{"pixel_range": null}', None),
        ("{data: {labeled: digits}}", '{"pixel_range": "dtype"}', "dtype"),
        ("{data: {labeled: digits}}", "{}", None),
        ("{data: {labeled: digits}}", "damaged", None),
        ("{data: {labeled: digits, pixel_range: [1, 2]}}", '{"pixel_range": [0, 4095]}', (1, 2)),
    ):
        run.recipe_path.write_text(recipe)
        (run.path / "data/splits.json").write_text(summary)
        assert of_run(run) == expected, (recipe, summary)


def test_an_upgrade_retrains_nothing(tmp_path: Path) -> None:
    """What stages are known by has no key that older versions did not write, unless it says something new."""
    from edgekit.train.records.inputs import stage_inputs

    photos = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    recipe = parse({"data": {"labeled": str(photos), "image_size": 8, "labels": 2}})
    splits, run = load_splits(recipe.data), Run(tmp_path / "run")
    data, pretrain = (stage_inputs(stage, recipe, splits, run) for stage in ("data", "pretrain"))
    assert not {"pixel_range", "max_pixels"} & data["data"].keys()
    assert pretrain["pixels"]["preprocessing"] == {
        "image_size": 8, "resize_to": 8, "fit": "crop", "interpolation": "bilinear",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["[4095, 0]", "[0, 0]", "[0, .inf]", "[.nan, 1]", "[0]", "[0, 1, 2]", "lots", "true", "null", "[a, b]"]
)
def test_a_range_that_is_none_is_refused_with_its_key(text: str) -> None:
    from edgekit.recipe import read_yaml

    with pytest.raises(EdgekitError, match=r"data\.?\S* ?.*pixel_range"):
        parse(read_yaml(f"data: {{pixel_range: {text}}}"))


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", "auto"), ("dtype", "dtype"), ("0,4095", (0, 4095)), ("[-1, 1]", (-1, 1))]
)
def test_the_option_s_words(text: str, expected: object) -> None:
    assert parse_pixel_range(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1", "1,2,3", "2,1", "0,inf", "nan,1"])
def test_the_option_refuses_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_pixel_range(text)


def test_a_bundle_with_an_impossible_range_is_refused() -> None:
    for bad in ([5, 5], [0, float("nan")], "all"):
        with pytest.raises(ValidationError, match="pixel_range"):
            Preprocessing(image_size=8, resize_to=8, pixel_range=bad)


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_large_deep_images_are_mapped_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (33, 20), dtype=np.uint16)
    whole = np.asarray(to_rgb(Image.fromarray(values), (0.0, 4095.0)))
    monkeypatch.setattr("edgekit.pixel_range._ROWS", 100)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values), (0.0, 4095.0))), whole)
    assert np.array_equal(whole[..., 0], values >> 4)


def test_the_predictor_applies_the_bundle_s_range_and_warns_where_it_states_none(
    tmp_path: Path, edgekit: Callable[..., tuple[int, str, str]]
) -> None:
    from edgekit.bundle import Bundle, write_manifest
    from edgekit.pixel_range import PixelRangeWarning
    from edgekit.runtimes.predictor import Predictor
    from tests.helpers.tiny_bundle import make_bundle

    bundle = make_bundle(tmp_path / "export", openvino=False)
    ramp(0, 4095, np.uint16).save(tmp_path / "a.png")
    code, _, err = edgekit("predict", bundle.path, tmp_path / "a.png")
    assert code == 0
    assert "use 16 of the 256 gray levels" in err
    assert "has no pixel_range" in err
    with pytest.warns(PixelRangeWarning, match="has no pixel_range"):
        Predictor(bundle).predict(tmp_path / "a.png")
    ranged = bundle.manifest.preprocessing.model_copy(update={"pixel_range": (0.0, 4095.0)})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"preprocessing": ranged}))
    opened = Bundle.open(bundle.path)
    code, _, err = edgekit("predict", opened.path, tmp_path / "a.png")
    assert (code, "gray levels:" in err) == (0, False)
    predictor = Predictor(opened)
    right = predictor.predict_pixels(ranged(open_image(tmp_path / "a.png"))[None])[0].classes
    assert predictor.predict(tmp_path / "a.png").classes == right
    assert predictor.predict(encoded(ramp(0, 4095, np.uint16))).classes == right
    ((_, answer),) = predictor.predict_many([tmp_path / "a.png"])
    assert getattr(answer, "classes", None) == right
