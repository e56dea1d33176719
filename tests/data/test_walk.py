"""One rule for what is an image in a folder, for training and the device; what is none by its name is counted and said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgekit.data.decode import decode
from edgekit.data.sources import open_labeled, open_pool
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing, read_image
from edgekit.recipe import DataConfig
from edgekit.runtimes.sources import image_files, listed
from edgekit.walk import Walk, is_system
from tests.helpers.image_folders import class_folders, save

Edgekit = Callable[..., tuple[int, str, str]]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, and what lies beside images in practice."""
    root = class_folders(tmp_path / "photos", {"cat": 3, "dog": 3})
    for name in (
        "cat/1.heic", "cat/2.HEIC", "dog/scan.dcm", "dog/none", "dog/old.png.1", "notes.txt",
    ):  # fmt: skip
        put(root / name)
    for name in (
        "@eaDir/cat/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB.jpg", "__MACOSX/cat/a.png", ".thumbnails/x.png",
        "lost+found/y.png", "$RECYCLE.BIN/z.png", ".ipynb_checkpoints/c-checkpoint.png", "#recycle/d.png", "System Volume Information/e.png",
    ):  # fmt: skip
        save(root / name)
    for name in ("cat/._000.png", "cat/Thumbs.db", "dog/desktop.ini", "dog/.DS_Store"):
        put(root / name)
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


IMAGES = [f"{name}/{i:03}.png" for name in ("cat", "dog") for i in range(3)]


def test_training_and_device_find_the_same(photos: Path) -> None:
    assert open_labeled(str(photos)).names == IMAGES
    assert open_labeled(str(photos)).classes == ["cat", "dog"]
    assert open_pool(str(photos)).names == IMAGES
    assert image_files([photos]) == [photos / name for name in IMAGES]
    with os.fdopen(_pipe(f"{photos}\n".encode()), "rb") as stream:
        assert list(listed(stream)) == [photos / name for name in IMAGES]


def _pipe(content: bytes) -> int:
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    return read


def test_what_is_no_image_by_its_name_is_said_in_one_line(photos: Path) -> None:
    heic = Counter({".heic": 2, ".dcm": 1, "": 1, ".1": 1, ".txt": 1})
    for source in (open_labeled(str(photos)), open_pool(str(photos))):
        (note,) = source.notes
        if ".heic" in note:  # pillow-heif may be installed here
            assert note == (
                f"skipped 6 files that are no image by their name in {photos}: 2 .heic, 1 without an extension, 1 .1, 1 .dcm, 1 .txt "
                "(.heic and the like need the extra [heic])"
            )
        else:
            assert "skipped 4 files" in note
    left_out: Counter[str] = Counter()
    image_files([photos], left_out)
    assert left_out in (heic, heic - Counter({".heic": 2}))


def test_nothing_is_said_where_only_a_system_s_own_files_are_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "a", {"cat": 2, "dog": 2})
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "@eaDir/x.jpg", "cat/._000.png"):
        put(root / name)
    assert open_labeled(str(root)).notes == []
    assert Walk().notes("x") == []


def test_training_init_and_predict_say_it(photos: Path, tmp_path: Path, edgekit: Edgekit) -> None:
    from tests.helpers.tiny_bundle import make_bundle

    assert any("skipped" in note for note in load_splits(DataConfig(labeled=str(photos), image_size=8, labels=1)).notes)
    code, out, err = edgekit("init", photos, "--no-measure")
    assert code == 0
    assert "labeled:" in out
    assert err.count("files that are no image by their name") == 1
    bundle = make_bundle(tmp_path / "bundle", openvino=False)
    code, out, err = edgekit("predict", bundle.path, photos, "--top", 1)
    assert (code, len(out.splitlines())) == (0, 6)
    assert err.count("files that are no image by their name") == 1
    assert "6 images, " in err


def test_a_folder_of_other_files_alone_says_of_which(tmp_path: Path) -> None:
    put(tmp_path / "a/x.dcm")
    put(tmp_path / "b/y.dcm")
    for open_ in (open_labeled, open_pool, lambda where: image_files([Path(where)])):
        with pytest.raises(DataError, match=r"no image.*skipped 2 files .*2 \.dcm"):
            open_(str(tmp_path))


def test_linked_folders_are_followed_once_by_both_and_loops_end(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    far = save(tmp_path / "elsewhere/far.png").parent
    (root / "dog/linked").symlink_to(far, target_is_directory=True)
    (root / "cat/up").symlink_to(root, target_is_directory=True)
    (root / "cat/self").symlink_to(root / "cat/self")
    (root / "self").symlink_to("self")
    (root / "dog/itself.png").symlink_to("itself.png")
    names = ["cat/000.png", "dog/000.png", "dog/itself.png", "dog/linked/far.png"]
    assert open_pool(str(root)).names == names
    assert open_labeled(str(root)).names == names
    assert image_files([root]) == [root / name for name in names]
    decoded = decode(open_pool(str(root)), Preprocessing(image_size=8, resize_to=8), 0.5)
    assert [skipped.path for skipped in decoded.skipped] == [f"{root}/dog/itself.png"]
    (tmp_path / "linked").symlink_to(root, target_is_directory=True)
    assert image_files([tmp_path / "linked"]) == [tmp_path / "linked" / name for name in names]


def test_the_same_folder_twice_is_answered_twice(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 1})
    assert image_files([root, root]) == [root / "cat/000.png"] * 2


def test_a_link_to_itself_does_not_stop_init(tmp_path: Path, edgekit: Edgekit) -> None:
    root = class_folders(tmp_path / "photos", {"cat": 3, "dog": 3})
    (root / "loop").symlink_to("loop")
    code, out, err = edgekit("init", root, "--no-measure")
    assert (code, "labeled:" in out) == (0, True), err


def test_shards_beside_a_system_s_folder_are_shards(tmp_path: Path) -> None:
    import tarfile

    class_folders(tmp_path / "images", {"cat": 1, "dog": 1})
    shards = tmp_path / "shards"
    save(shards / "@eaDir/x.jpg")
    with tarfile.open(shards / "a.tar", "w") as tar:
        for i, name in enumerate(("cat", "dog")):
            tar.add(tmp_path / f"images/{name}/000.png", f"{i}.png")
            tar.add(put(tmp_path / "label").parent / "images", f"@eaDir/{i}.png", recursive=False)
        tar.add(tmp_path / "images/cat/000.png", "__MACOSX/2.png")
    assert open_pool(str(shards)).names == ["a.tar/0.png", "a.tar/1.png"]


@pytest.mark.parametrize(
    "name", ["._x.jpg", "@eaDir", "@EADIR", "Thumbs.db", "lost+found", ".git", "$RECYCLE.BIN", "Icon\r"]
)
def test_names_of_systems(name: str) -> None:
    assert is_system(name)


@pytest.mark.parametrize("name", ["x.jpg", "eaDir", "thumbs", "recycle", "found", "@home"])
def test_names_of_people(name: str) -> None:
    assert not is_system(name)


def test_heic_names_the_extra_that_reads_it_or_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.heic"
    try:
        import pillow_heif
    except ImportError:
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        with pytest.raises(DataError, match=r"x\.heic: HEIC needs pillow-heif .*\[heic\]"):
            read_image(path)
        with pytest.raises(DataError, match=r"HEIC needs pillow-heif"):
            read_image(path.read_bytes())
        return
    pillow_heif.register_heif_opener()
    Image.new("RGB", (64, 48), (200, 10, 10)).save(path)
    assert read_image(path).size == (64, 48)
    assert image_files([tmp_path]) == [path]
