"""Decoding, content digests, and the cache: what it gives is what Pillow gives, whatever state it is in."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data import decode as decoding
from edgekit.data.decode import Decoded, decode
from edgekit.data.images import content_digest
from edgekit.data.sources import ImageSource, open_pool
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing, read_image
from tests.helpers.image_folders import class_folders, picture, save

SMALL = Preprocessing(image_size=8, resize_to=8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder / "images"


def expected(root: Path, source: ImageSource, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    return np.stack([preprocessing(read_image(root / name)) for name in source.names])


def unreadable(source: ImageSource) -> ImageSource:
    """The same source, whose every read fails: what comes out of it comes from the cache."""

    def fail(i: int) -> Image.Image:
        raise DataError(f"{source.names[i]}: was to come from the cache")

    return replace(source, read=fail)


def same(a: Decoded, b: Decoded) -> bool:
    return np.array_equal(a.images, b.images) and a.digests == b.digests and a.skipped == b.skipped


def test_images_are_what_the_preprocessing_makes_of_each_in_order(tmp_path: Path) -> None:
    for i in range(150):  # more than two blocks, of several formats and shapes
        save(tmp_path / f"{i % 7}/{i:03}.{('png', 'jpg', 'gif', 'tif')[i % 4]}", picture(str(i), 9 + i % 5, 11))
    source = open_pool(str(tmp_path))
    decoded = decode(source, SMALL, 0)
    assert np.array_equal(decoded.images, expected(tmp_path, source))
    assert decoded.digests == [content_digest(read_image(tmp_path / name)) for name in source.names]
    assert decoded.skipped == []


def test_the_digest_is_that_of_the_picture_not_of_the_file(tmp_path: Path) -> None:
    image = picture("a")
    for name in ("a.png", "b.bmp", "c.tif", "d.ppm"):
        save(tmp_path / name, image)
    save(tmp_path / "e.webp", image, lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "f.png", image.transpose(Image.Transpose.ROTATE_90), exif=turned)
    save(tmp_path / "g.png", image.convert("RGBA"))
    digests = decode(open_pool(str(tmp_path)), SMALL, 0).digests
    assert len(digests) == 7
    assert len(set(digests)) == 1
    assert len(digests[0]) == 32


def test_other_pixels_or_another_shape_is_another_digest() -> None:
    flat = Image.new("RGB", (6, 4))
    changed = flat.copy()
    changed.putpixel((5, 3), (0, 0, 1))
    assert len({content_digest(i) for i in (flat, changed, Image.new("RGB", (4, 6)), Image.new("RGB", (8, 3)))}) == 4


def test_the_second_time_nothing_is_decoded(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 70, "b": 3})
    save(tmp_path / "a/bad.png").write_bytes(b"no image")
    source = open_pool(str(tmp_path))
    first = decode(source, SMALL, 1)
    assert same(decode(unreadable(open_pool(str(tmp_path))), SMALL, 1), first)
    assert [s.path for s in first.skipped] == [f"{tmp_path}/a/bad.png"]


def test_a_changed_file_or_preprocessing_is_decoded_again(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 3})
    before = decode(open_pool(str(tmp_path)), SMALL, 0)
    save(tmp_path / "a/001.png", picture("other"))
    os.utime(tmp_path / "a/001.png", ns=(1, 1))
    after = decode(open_pool(str(tmp_path)), SMALL, 0)
    assert [a == b for a, b in zip(before.digests, after.digests, strict=True)] == [True, False, True]
    larger = decode(open_pool(str(tmp_path)), Preprocessing(image_size=9, resize_to=9), 0)
    assert larger.images.shape == (3, 9, 9, 3)


def test_two_folders_alike_in_names_sizes_and_times_are_not_confused(tmp_path: Path) -> None:
    for side in ("train", "test"):
        path = save(tmp_path / side / "0.bmp", picture(side))
        os.utime(path, ns=(0, 0))
    digests = [decode(open_pool(str(tmp_path / side)), SMALL, 0).digests for side in ("train", "test")]
    assert digests[0] != digests[1]


def test_what_is_written_into_the_array_never_reaches_the_cache(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 4})
    first = decode(open_pool(str(tmp_path)), SMALL, 0)
    kept = first.images.copy()
    first.images[:] = 0
    assert np.array_equal(decode(open_pool(str(tmp_path)), SMALL, 0).images, kept)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY garbage"),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text('{"schema": 1, "digests": null, "reasons": {}}'),
        lambda path: path.write_text('{"schema": 99, "digests": [], "reasons": {}}'),
        lambda path: np.save(path.open("wb"), np.zeros((3, 2, 2, 3))),
        lambda path: np.save(path.open("wb"), np.zeros((5, 8, 8), dtype=np.uint8)),
        Path.unlink,
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, cache: Path, suffix: str, damage: object) -> None:
    class_folders(tmp_path, {"a": 5})
    source = open_pool(str(tmp_path))
    first = decode(source, SMALL, 0)
    kept = first.images.copy()
    damage(next(cache.glob(f"*{suffix}")))  # type: ignore[operator]
    again = decode(source, SMALL, 0)
    assert np.array_equal(again.images, kept)
    assert again.digests == first.digests
    assert np.array_equal(decode(unreadable(source), SMALL, 0).images, kept)


def test_an_interrupted_writer_leaves_no_entry(tmp_path: Path, cache: Path) -> None:
    class_folders(tmp_path, {"a": 5})
    source = open_pool(str(tmp_path))

    def interrupt(i: int) -> Image.Image:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(replace(source, read=interrupt), SMALL, 0)
    assert list(cache.iterdir()) == []
    assert decode(source, SMALL, 0).skipped == []


def test_without_disk_space_the_images_stay_in_memory_and_a_note_says_so(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, {"a": 5})
    source = open_pool(str(tmp_path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 500))
    decoded = decode(source, SMALL, 0)
    assert np.array_equal(decoded.images, expected(tmp_path, source))
    assert any("kept in memory" in note and "500 bytes free" in note for note in decoded.notes)
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "data", {"a": 5})
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    source = open_pool(str(tmp_path / "data"))
    decoded = decode(source, SMALL, 0)
    assert np.array_equal(decoded.images, expected(tmp_path / "data", source))
    assert any("kept in memory" in note for note in decoded.notes)


def test_a_disk_that_fills_up_on_the_way_is_no_obstacle(tmp_path: Path, cache: Path) -> None:
    class_folders(tmp_path, {"a": 200})
    source = open_pool(str(tmp_path))
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # 200 images of 8x8 pixels take 38,400 bytes
    try:
        decoded = decode(source, SMALL, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert np.array_equal(decoded.images, expected(tmp_path, source))
    assert any("kept in memory" in note and "File too large" in note for note in decoded.notes)
    assert list(cache.iterdir()) == []


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"a": 5})
    source = open_pool(str(tmp_path))
    first = decode(source, SMALL, 0)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert same(decode(unreadable(source), SMALL, 0), first)


def test_more_than_disk_and_memory_hold_is_refused_before_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, {"a": 5})
    usage = namedtuple("usage", "total used free")
    machine = decoding.this_machine().model_copy(update={"memory_bytes": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 50))
    monkeypatch.setattr(decoding, "this_machine", lambda: machine)
    source = open_pool(str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"its 5 images need 960 bytes when decoded, but .* has 50 bytes free, and half of the memory is 50 bytes",
    ) as caught:
        decode(source, SMALL, 0)
    assert "set EDGEKIT_CACHE to a folder on a disk with 979 bytes free" in caught.value.hint
    assert "data.stream" not in caught.value.hint  # a test set is not streamed
    with pytest.raises(DataError) as caught:
        decode(source, SMALL, 0, stream=False)
    assert "set data.stream to true" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_entries_that_nothing_read_for_a_month_are_deleted(tmp_path: Path, cache: Path) -> None:
    for name in ("one", "two"):
        class_folders(tmp_path / name, {"a": 2})
    decode(open_pool(str(tmp_path / "one")), SMALL, 0)
    old = list(cache.iterdir())
    assert len(old) == 2
    for path in old:
        os.utime(path, (1e9, 1e9))
    decode(open_pool(str(tmp_path / "two")), SMALL, 0)
    assert not any(path.exists() for path in old)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_what_is_no_image_is_skipped_with_its_reason(tmp_path: Path, content: bytes) -> None:
    class_folders(tmp_path, {"a": 9})
    (tmp_path / "a/bad.png").write_bytes(content)
    source = open_pool(str(tmp_path))
    decoded = decode(source, SMALL, 0.1)
    (skipped,) = decoded.skipped
    assert skipped.path == f"{tmp_path}/a/bad.png"
    assert skipped.reason
    assert str(tmp_path) not in skipped.reason
    assert decoded.digests[9] == ""
    assert not decoded.images[9].any()


def test_a_truncated_jpeg_is_skipped(tmp_path: Path) -> None:
    save(tmp_path / "whole.jpg", picture("a", 200, 200))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    decoded = decode(open_pool(str(tmp_path)), SMALL, 0.5)
    assert [s.path for s in decoded.skipped] == [f"{tmp_path}/cut.jpg"]


def test_too_many_unreadable_files_are_refused_with_count_and_first_reasons(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 8})
    for i in range(4):
        (tmp_path / f"a/bad{i}.png").write_bytes(b"x")
    source = open_pool(str(tmp_path))
    with pytest.raises(
        DataError, match=r"4 of 12 images .* data\.max_skipped \(0\.3\).*bad0\.png: not an image.*and 1 more"
    ):
        decode(source, SMALL, 0.3)
    assert len(decode(source, SMALL, 4 / 12).skipped) == 4


def test_nothing_readable_is_refused_whatever_the_share(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no image can be read, of 1"):
        decode(open_pool(str(tmp_path)), SMALL, 1.0)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    image = picture("a")
    for mode, suffix in (("L", "png"), ("P", "gif"), ("1", "png"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "jpg")):
        save(tmp_path / f"{mode}.{suffix}", image.convert(mode))
    sixteen = np.asarray(image.convert("L")).astype(np.uint16) * 257
    save(tmp_path / "I16.png", Image.fromarray(sixteen))
    decoded = decode(open_pool(str(tmp_path)).ranged("dtype"), SMALL, 0)
    assert decoded.images.shape == (7, 8, 8, 3)
    assert all(len(np.unique(i)) > 1 for i in decoded.images)
    digests = dict(zip(open_pool(str(tmp_path)).names, decoded.digests, strict=True))
    assert digests["I16.png"] == digests["L.png"] == digests["LA.png"]


def test_a_bar_is_shown_for_what_takes_longer_than_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path, {"a": 200})
    monkeypatch.setattr("edgekit.data.workers.BAR_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("edgekit.progress._LINE_EVERY_SECONDS", 0.0)
    decode(open_pool(str(tmp_path)), SMALL, 0)
    said = capsys.readouterr().err
    assert "decode: 200/200 images" in said
