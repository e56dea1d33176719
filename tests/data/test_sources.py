"""What is found in a folder, and what is said where nothing of use is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.image_folders import write_class_folders
from edgekit.data.sources import extensions, open_labeled, open_pool
from edgekit.errors import DataError
from tests.helpers.image_folders import class_folders, picture, save


def test_classes_are_the_first_level_and_images_may_lie_deeper(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    save(tmp_path / "cat/indoor/2024/b.jpg")
    save(tmp_path / "dog/c.webp")
    source = open_labeled(str(tmp_path))
    assert source.classes == ["cat", "dog"]
    assert source.names == ["cat/a.png", "cat/indoor/2024/b.jpg", "dog/c.webp"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    assert source.notes == []


def test_only_images_that_are_not_hidden_count_whatever_the_extension_s_case(tmp_path: Path) -> None:
    for name in ("a/1.PNG", "a/2.JpG", "b/3.bmp"):
        save(tmp_path / name)
    for name in ("a/.hidden.png", "a/.git/x.png", "b/Thumbs.db", "b/notes.txt", "b/.DS_Store", "b/no_extension"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert open_labeled(str(tmp_path)).names == ["a/1.PNG", "a/2.JpG", "b/3.bmp"]
    assert open_pool(str(tmp_path)).names == ["a/1.PNG", "a/2.JpG", "b/3.bmp"]


def test_a_pool_may_be_flat_nested_or_both(tmp_path: Path) -> None:
    for name in ("z.png", "deep/er/y.png", "deep/x.png"):
        save(tmp_path / name)
    source = open_pool(str(tmp_path))
    assert source.names == ["deep/er/y.png", "deep/x.png", "z.png"]
    assert source.labels is None


def test_the_common_formats_are_known_and_what_pillow_cannot_decode_is_not() -> None:
    assert {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".tga"} <= extensions()
    assert not {".pdf", ".eps", ".mpeg", ".h5", ".txt", ".db", ""} & extensions()


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"b": 3, "a": 3})
    expected = open_labeled(str(tmp_path)).names
    assert expected == sorted(expected)
    real = os.scandir

    class Reversed:
        def __init__(self, folder: os.PathLike[str]) -> None:
            self.entries = real(folder)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return list(self.entries)[::-1]

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Reversed)
    assert open_labeled(str(tmp_path)).names == expected


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", {"a": 1, "b": 1})
    save(tmp_path / "elsewhere/far.png")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data/a", target_is_directory=True)
    (tmp_path / "data/b/up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/b/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/c").symlink_to(tmp_path / "data/a", target_is_directory=True)
    source = open_labeled(str(tmp_path / "data"))
    assert source.names == ["a/000.png", "b/000.png", "b/linked/far.png"]
    assert any("data/c holds no images" in note for note in source.notes)


def test_a_link_to_nothing_is_listed_so_that_it_is_counted_as_unreadable(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nowhere.png")
    source = open_labeled(str(tmp_path))
    assert source.names[1] == "a/gone.png"
    with pytest.raises(DataError, match="no such file"):
        source.read(1)


def test_a_pipe_with_an_image_s_name_does_not_hang(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    os.mkfifo(tmp_path / "a/pipe.png")
    assert len(open_labeled(str(tmp_path)).names) == 2


def test_what_lies_beside_the_classes_is_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "loose.png")
    (tmp_path / "empty").mkdir()
    notes = open_labeled(str(tmp_path)).notes
    assert any("1 image " in note and "no class folder" in note for note in notes)
    assert any("empty holds no images" in note for note in notes)


def test_digits_are_rgb_over_the_whole_range() -> None:
    source = open_labeled("digits")
    assert source.classes == [str(i) for i in range(10)]
    assert len(source.names) == len(set(source.names)) == 1797
    assert source.labels is not None
    assert source.names[5].startswith(f"{source.labels[5]}/")
    image = source.read(0)
    pixels = np.asarray(image)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert (pixels.min(), max(np.asarray(source.read(i)).max() for i in range(20))) == (0, 255)
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert open_pool("digits").labels is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (lambda root: root.mkdir(), "holds no images"),
        (lambda root: class_folders(root, {"cat": 2}), r"only one class \(cat\)"),
        (lambda root: save(root / "loose.png"), "1 image but no sub-folder with images"),
        (lambda root: class_folders(root, {"Cat": 1, "cat": 1}), "Cat and cat differ only in case"),
    ],
)
def test_a_labeled_folder_of_no_use_is_one_clear_line(tmp_path: Path, make: object, message: str) -> None:
    root = tmp_path / "photos"
    make(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"data\.labeled: .*photos: .*{message}") as caught:
        open_labeled(str(root), "data.labeled")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", ["missing", "file", "empty", "texts"])
def test_a_pool_of_no_use_is_one_clear_line(tmp_path: Path, state: str) -> None:
    root = tmp_path / "pool"
    if state == "file":
        save(tmp_path / "pool.png").rename(root)
    elif state != "missing":
        root.mkdir()
        (root / "a.txt").write_text("x") if state == "texts" else None
    said = {"missing": "no such folder", "file": "is not a folder", "empty": "no images", "texts": "no images"}[state]
    with pytest.raises(DataError, match=rf"data\.pool: .*pool: .*{said}"):
        open_pool(str(root), "data.pool")


def test_a_class_whose_name_is_no_utf8_is_refused_and_a_file_is_not(tmp_path: Path) -> None:
    class_folders(tmp_path / "files", {"a": 1, "b": 1})
    try:
        picture("x").save(os.fsencode(tmp_path / "files/a") + b"/\xff.png", format="PNG")
        os.makedirs(os.fsencode(tmp_path / "folders") + b"/\xff")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(open_labeled(str(tmp_path / "files")).names) == 3
    with open(os.fsencode(tmp_path / "folders") + b"/\xff/a.png", "wb") as stream:
        picture("x").save(stream, format="PNG")
    with pytest.raises(DataError, match="is not UTF-8"):
        open_labeled(str(tmp_path / "folders"))


def test_some_digits_and_their_folders(tmp_path: Path) -> None:
    source = open_labeled("digits:6-9")
    assert (source.classes, len(source.names)) == ([*"6789"], 714)
    assert source.labels is not None
    assert {int(name[0]) - 6 for name in source.names} == {0, 1, 2, 3}
    assert [int(name[0]) - 6 for name in source.names] == source.labels.tolist()
    few = source.subset([0, 1, 2, 3, 4])
    write_class_folders(few, tmp_path / "new")
    back = open_labeled(str(tmp_path / "new"))
    assert back.labels is not None
    assert few.labels is not None
    assert sorted(back.classes[c] for c in back.labels) == sorted(few.classes[c] for c in few.labels)
    pictures = {few.rgb(i).tobytes() for i in range(5)}
    assert {back.rgb(i).tobytes() for i in range(5)} == pictures
    with pytest.raises(DataError, match="is not an empty folder"):
        write_class_folders(few, tmp_path / "new")
    with pytest.raises(DataError, match="has no labels"):
        write_class_folders(open_pool("digits:6-9"), tmp_path / "other")
