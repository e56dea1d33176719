"""Any image file comes out as the same upright RGB, and the pixels that a model takes are always of the promised shape."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from edgekit.errors import DataError
from edgekit.image_files import open_image
from edgekit.preprocess import Preprocessing, read_image, to_rgb


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(source: bytes | Path) -> np.ndarray:
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


# A picture whose corners are told apart, 4 wide and 2 high.
CORNERS = np.array([[[250, 0, 0]] * 2 + [[0, 250, 0]] * 2, [[0, 0, 250]] * 2 + [[250, 250, 250]] * 2], dtype=np.uint8)


def test_gray_becomes_three_equal_channels() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.array_equal(pixels(encoded(Image.fromarray(gray))), np.stack([gray] * 3, axis=2))


def test_one_bit_becomes_black_and_white() -> None:
    bits = np.array([[True, False], [False, True]])
    assert np.array_equal(pixels(encoded(Image.fromarray(bits)))[:, :, 1], np.where(bits, 255, 0))


def test_palette_without_transparency_becomes_its_colors() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert pixels(encoded(image)).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def with_transparency(png: bytes, values: bytes) -> bytes:
    """A PNG with other bytes in its tRNS chunk, the opacity of each color of its palette."""
    out, at = png[:8], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        body = values if kind == b"tRNS" else body
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + length
    return out


def test_more_opacities_than_colors_are_those_of_the_colors(tmp_path: Path) -> None:
    """Found by fuzzing: Pillow refuses them (`palette index out of range`), which ended a training at the first such file."""
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.putdata([0, 1, 2, 3])
    good = encoded(image, transparency=bytes([0, 255, 128, 255]))
    many = with_transparency(good, bytes([0, 255, 128, 255, 7]) + bytes(200))
    assert pixels(many).tolist() == pixels(good).tolist()
    opened = Image.open(io.BytesIO(many))
    before = opened.info["transparency"]
    to_rgb(opened)
    assert opened.info["transparency"] == before, "the caller's image was changed"


def test_what_pillow_cannot_convert_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    path.write_bytes(encoded(Image.new("L", (2, 2))))
    image = open_image(path)
    image.info["transparency"] = "x"  # no opacity: stands for what a decoder lets through
    with pytest.raises(DataError, match=r"gray\.png: cannot be converted to RGB: "):
        to_rgb(image)


def test_palette_with_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    data = encoded(image, transparency=bytes([255, 0, 255]))
    assert pixels(data).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


@pytest.mark.parametrize(("alpha", "expected"), [(255, 100), (0, 255), (51, 224)])
def test_rgba_is_laid_over_white(alpha: int, expected: int) -> None:
    rgba = np.array([[[100, 100, 100, alpha]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(rgba))).tolist() == [[[expected] * 3]]


def test_gray_with_alpha_is_laid_over_white() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 1), 40), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))])
    assert pixels(encoded(image))[0, :, 0].tolist() == [40, 255]


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(form: str) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red ink
    red, green, blue = pixels(encoded(image, form))[4, 4].astype(int)
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_the_high_byte(form: str) -> None:
    values = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(values), form))[0, :, 0].tolist() == [0, 0, 1, 127, 128, 255]


def test_big_endian_16_bit_equals_little_endian() -> None:
    values = np.arange(0, 60000, 10000, dtype=np.uint16).reshape(2, 3)
    little = Image.frombytes("I;16", (3, 2), values.astype("<u2").tobytes())
    big = Image.frombytes("I;16B", (3, 2), values.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(to_rgb(little)), np.asarray(to_rgb(big)))
    assert np.asarray(to_rgb(little))[:, :, 0].tolist() == (values >> 8).tolist()


def test_32_bit_containers_of_16_bit_gray_are_clipped_not_wrapped() -> None:
    image = Image.fromarray(np.array([[-5, 0, 0x1234, 0xFFFF, 0x20000]], dtype=np.int32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 0, 0x12, 255, 255]


def test_floats_are_shares_or_bytes_and_never_garbage() -> None:
    shares = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(to_rgb(shares))[0, :, 0].tolist() == [0, 127, 255]
    values = Image.fromarray(np.array([[-1.0, 128.0, 300.0, np.nan]], dtype=np.float32))
    assert np.asarray(to_rgb(values))[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "RGBX",
        "RGBa",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "LA",
        "PA",
        "I;16",
        "I;16B",
    ],
)
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    image = to_rgb(Image.new(mode, (5, 4)))
    assert (image.mode, image.size) == ("RGB", (5, 4))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # What a camera stores for each orientation (EXIF 2.32, tag 0x0112), as operations on the upright picture.
    stored = {
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.transpose(1, 0, 2),
        6: np.rot90(CORNERS, 1),
        7: CORNERS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(CORNERS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(pixels(data), CORNERS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(Image.new("RGB", (8, 8), (200, 10, 10)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert pixels(data).shape == (8, 8, 3)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_bytes_and_path_give_the_same(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)), "JPEG")
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    assert np.array_equal(pixels(data), pixels(path))
    assert np.array_equal(pixels(path), np.asarray(read_image(str(path))))


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg.*truncated"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"thing\.png: "):
        read_image(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused() -> None:
    with pytest.raises(DataError, match="too many pixels"):
        read_image(encoded(Image.new("L", (20, 20))), max_pixels=399)
    assert read_image(encoded(Image.new("L", (20, 20))), max_pixels=400).size == (20, 20)


def two_steps(preprocessing: Preprocessing, image: Image.Image) -> np.ndarray:
    """The definition: resize the whole image so that the shorter side is `resize_to`, then cut the center out."""
    size = preprocessing.image_size.height
    scale = preprocessing.resize_to / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@settings(max_examples=60)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(4, 48),
    more=st.integers(0, 16),
    fit=st.sampled_from(["crop", "stretch"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
def test_any_shape_becomes_the_square(
    width: int, height: int, size: int, more: int, fit: str, interpolation: str
) -> None:
    preprocessing = Preprocessing(image_size=size, resize_to=size + more, fit=fit, interpolation=interpolation)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    got = preprocessing(image)
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    if fit == "crop" and interpolation == "bilinear":
        # At most a rounding step in each of the two passes away from the definition.
        assert np.abs(got.astype(int) - two_steps(preprocessing, image)).max() <= 3


def test_a_constant_image_stays_constant() -> None:
    for fit in ("crop", "stretch"):
        got = Preprocessing(image_size=9, resize_to=13, fit=fit)(Image.new("RGB", (31, 57), (7, 130, 255)))
        assert (got == np.array([7, 130, 255])).all()


def test_an_image_of_the_models_size_is_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    assert np.array_equal(Preprocessing(image_size=12, resize_to=12)(Image.fromarray(noise)), noise)


def test_long_and_thin_images_stay_small_in_memory() -> None:
    # Resized as a whole, this one would be 256 x 15,360,000 pixels: 11 GB.
    got = Preprocessing(image_size=224, resize_to=256)(Image.new("RGB", (1, 60000), (1, 2, 3)))
    assert got.shape == (224, 224, 3)
    assert (got == np.array([1, 2, 3])).all()


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValidationError, match="resize_to"):
        Preprocessing(image_size=32, resize_to=31)
