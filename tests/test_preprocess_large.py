"""A small file may hold a huge image: its size is read before anything is decoded, and what is decoded at once is bounded."""

from __future__ import annotations

import io
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit import image_files
from edgekit.data.decode import decode
from edgekit.data.sources import open_pool
from edgekit.errors import DataError, EdgekitError
from edgekit.image_files import MAX_PIXELS, bounded_decoding, open_image
from edgekit.preprocess import Preprocessing, read_image, to_rgb
from edgekit.recipe import DataConfig, parse
from tests.helpers.image_folders import picture, save

SMALL = Preprocessing(image_size=8, resize_to=8)


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it is so large; nothing of it can be decoded."""
    import struct
    import zlib

    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + b"\xff" * 64) + chunk(b"IEND")


@pytest.mark.parametrize("size", [(12000, 14000), (10001, 10000), (60000, 60000)])
def test_a_huge_image_is_refused_by_its_header_in_one_line(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning would be one
        tracemalloc.start()
        with pytest.raises(
            DataError, match=rf"too many pixels: {size[0]} x {size[1]} is over the limit of 100,000,000"
        ) as caught:
            read_image(png_of(*size))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "--max-pixels" in caught.value.hint
    assert peak < 5_000_000


def test_the_limit_is_the_caller_s_and_pillow_s_own_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="over the limit of 399"):
        open_image(save_bytes(Image.new("L", (20, 20))), 399)
    assert open_image(save_bytes(Image.new("L", (20, 20))), 400).size == (20, 20)
    with pytest.raises(DataError) as caught:  # past the check: a raised limit is one
        open_image(png_of(12000, 14000), 200_000_000)
    assert "too many" not in caught.value.message
    assert before == Image.MAX_IMAGE_PIXELS


def save_bytes(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_looks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save_bytes(smooth(800, 608), "JPEG", quality=95)
    whole = open_image(data)
    assert whole.size == (800, 608)
    for limit, size in (
        (800 * 608, (800, 608)),
        (800 * 608 - 1, (400, 304)),
        (400 * 304 - 1, (200, 152)),
        (10_000, (100, 76)),
    ):
        monkeypatch.setattr(image_files, "MAX_PIXELS", limit)
        reduced = open_image(data, MAX_PIXELS)  # no option changes what a model sees of it
        assert reduced.size == size
        small = Preprocessing(image_size=32, resize_to=36)
        assert np.abs(small(reduced).astype(int) - small(whole)).mean() < 5
    with pytest.raises(
        DataError, match=r"too many pixels: 800 x 608, at 1/8 of its size 100 x 76, is over the limit of 7,000"
    ):
        open_image(data, 7_000)


def test_transparent_images_are_laid_over_white_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 20, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    whole = np.asarray(to_rgb(image))
    palette = image.convert("RGB").quantize(16)
    palette.info["transparency"] = 3
    whole_palette = np.asarray(to_rgb(palette))
    monkeypatch.setattr("edgekit.preprocess._STRIP", 100)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)
    assert np.array_equal(np.asarray(to_rgb(palette)), whole_palette)


def test_threads_together_hold_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads decode images of 400 pixels with room for 1,000: two at a time, and one that is larger than the room alone."""
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    lock, holding, most = threading.Lock(), [], []

    def work(side: int) -> None:
        with bounded_decoding():
            image = open_image(save_bytes(Image.new("L", (side, side))), 10_000)
            with lock:
                holding.append(image.width * image.height)
                most.append(sum(holding))
                assert sum(holding) <= 1000 or len(holding) == 1
            time.sleep(0.005)
            with lock:
                holding.remove(image.width * image.height)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [20, 20, 20, 50, 20, 10, 20, 50, 20, 20] * 3))
    assert max(most) == 2500
    assert image_files._space.in_use == 0


def test_who_keeps_images_outside_a_bound_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    kept = [open_image(save_bytes(Image.new("L", (30, 30))), 10_000) for _ in range(5)]
    with bounded_decoding():
        kept += [open_image(save_bytes(Image.new("L", (30, 30))), 10_000) for _ in range(5)]
    assert len(kept) == 10
    assert image_files._space.in_use == 0


def test_room_is_given_back_where_an_image_is_damaged() -> None:
    data = save_bytes(picture("x", 64, 64), "PNG")
    for _ in range(3):
        with pytest.raises(DataError), bounded_decoding():
            open_image(data[: len(data) // 2])
    assert image_files._space.in_use == 0


def test_a_recipe_s_limit_counts_large_images_as_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "pool/a.png", picture("a", 20, 20))
    save(tmp_path / "pool/b.png", picture("b", 40, 20))
    source = open_pool(str(tmp_path / "pool"), data=DataConfig(max_pixels=400))
    decoded = decode(source, SMALL, 0.5)
    assert [(s.path, "over the limit of 400" in s.reason) for s in decoded.skipped] == [
        (f"{tmp_path}/pool/b.png", True)
    ]
    with pytest.raises(EdgekitError, match=r"data\.max_pixels"):
        parse({"data": {"max_pixels": 0}})


def test_predict_refuses_a_huge_image_goes_on_and_takes_a_limit(
    tmp_path: Path, edgekit: Callable[..., tuple[int, str, str]]
) -> None:
    from tests.helpers.tiny_bundle import make_bundle

    bundle = make_bundle(tmp_path / "bundle", openvino=False)
    save(tmp_path / "photos/a.png", picture("a", 20, 20))
    (tmp_path / "photos/huge.png").write_bytes(png_of(12000, 14000))
    code, out, err = edgekit("predict", bundle.path, tmp_path / "photos")
    assert (code, len(out.splitlines())) == (1, 1)
    assert "huge.png: too many pixels: 12000 x 14000 is over the limit of 100,000,000 (raise the limit" in err
    assert "DecompressionBomb" not in err
    code, out, err = edgekit("predict", bundle.path, tmp_path / "photos/a.png", "--max-pixels", 399)
    assert code == 1
    assert "over the limit of 399" in err


def test_init_tells_of_deep_and_large_images(tmp_path: Path, edgekit: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / f"photos/{name}/{i}.png", picture(f"{name}{i}", 20, 20))
    (tmp_path / "photos/cat/huge.png").write_bytes(png_of(12000, 14000))
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "photos/dog/deep.png")
    code, _, err = edgekit("init", tmp_path / "photos", "--no-measure")
    assert code == 0
    assert "1 of 8 sampled images" in err
    assert "data.pixel_range" in err
    assert "data.max_pixels" in err
