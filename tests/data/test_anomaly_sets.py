"""Sets for anomaly detection: layouts, what is held out, masks, and one line for everything that is wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.anomaly_layouts import list_images
from edgekit.data.anomaly_sets import AnomalySets, load_anomaly_sets
from edgekit.data.splits import load_splits
from edgekit.data.textures import DEFECTS, texture, textures, write_textures
from edgekit.errors import DataError, RecipeError
from edgekit.recipe import DataConfig, Recipe, parse
from tests.helpers.image_folders import picture, save


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(normal: Path | str, **options: object) -> AnomalySets:
    return load_anomaly_sets(DataConfig.model_validate({"normal": str(normal), "image_size": 8, **options}))


def disc(width: int = 12, height: int = 10) -> Image.Image:
    """A mask with a few white pixels."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[2:5, 3:7] = 255
    return Image.fromarray(mask)


def mvtec(root: Path, train: int = 20, good: int = 3, each: int = 2) -> Path:
    for i in range(train):
        save(root / f"train/good/{i:03}.png")
    for i in range(good):
        save(root / f"test/good/{i:03}.png")
    for defect in ("hole", "scratch"):
        for i in range(each):
            save(root / f"test/{defect}/{i:03}.png")
            save(root / f"ground_truth/{defect}/{i:03}_mask.png", disc())
    return root


def table(path: Path, rows: list[dict[str, str]], columns: str = "file,label,mask,split") -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns.split(","), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_layout_of_mvtec_ad(tmp_path: Path) -> None:
    sets = load(mvtec(tmp_path), probe=0.25)
    assert (len(sets.normal), len(sets.held_out), len(sets.test)) == (15, 5, 7)
    assert sets.defects == ["good"] * 3 + ["hole"] * 2 + ["scratch"] * 2
    assert sets.labels.dtype == np.uint8
    assert sets.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert sets.test.labels is not None
    assert sets.test.labels.tolist() == sets.labels.tolist()
    assert sets.test.names[3] == "test/hole/000.png"
    assert {*sets.normal.names, *sets.held_out.names} == {f"train/good/{i:03}.png" for i in range(20)}
    assert sets.normal.labels is None
    for i, expected in ((0, 0), (3, 12)):
        mask = sets.mask(i)
        assert mask is not None
        assert (mask.dtype, mask.shape, int(mask.sum())) == (bool, (10, 12), expected)
    assert sets.notes == []


def test_which_images_are_held_out_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    first = load(mvtec(tmp_path))
    for i, name in enumerate(first.normal.names + first.held_out.names):
        (tmp_path / name).rename(tmp_path / "train/good" / f"x{99 - i}.png")
    assert {*load(tmp_path).held_out.digests} == {*first.held_out.digests}
    assert {*load(tmp_path, split_seed=1).held_out.digests} != {*first.held_out.digests}


def test_validation_good_is_held_out_in_place_of_a_share(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    for i in range(4):
        save(root / f"validation/good/{i:03}.png")
    sets = load(root)
    assert (len(sets.normal), len(sets.held_out)) == (20, 4)
    assert all(name.startswith("validation/") for name in sets.held_out.names)


def test_no_picture_is_in_two_sets(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "train/good/copy.png", Image.open(root / "test/good/000.png"))
    save(root / "train/good/bad.png", Image.open(root / "test/hole/000.png"))
    sets = load(root)
    assert not {*sets.normal.digests, *sets.held_out.digests} & {*sets.test.digests}
    assert not {*sets.normal.digests} & {*sets.held_out.digests}
    assert any("2 normal images" in note and "test set" in note for note in sets.notes)


def test_a_flat_folder_is_normal_and_has_no_test_set(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{'monday' if i % 2 else 'tuesday'}/{i}.jpg")
    sets = load(tmp_path, probe=0.2)
    assert (len(sets.normal), len(sets.held_out), len(sets.test)) == (8, 2, 0)
    assert sets.test.images.shape == (0, 8, 8, 3)
    assert sets.seen_masks() == []


def test_images_right_below_train_are_normal(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"train/{i}.png")
    assert len(load(tmp_path, probe=0).normal) == 5


def test_a_table_with_and_without_a_split(tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        save(tmp_path / f"images/{i}.png")
        label = ("good", "ok", "0", "Normal")[i % 4] if i < 17 else ("dent", "1", "dent")[i - 17]
        rows.append({"file": f"images/{i}.png", "label": label, "split": "test" if i >= 15 else "train"})
    rows[-1]["mask"] = "masks/a.png"
    save(tmp_path / "masks/a.png", disc())
    sets = load(table(tmp_path / "all.csv", rows), probe=0)
    assert (len(sets.normal), len(sets.test)) == (15, 5)
    assert sets.defects == ["good", "good", "dent", "anomalous", "dent"]
    assert [None if (m := sets.mask(i)) is None else int(m.sum()) for i in range(5)] == [0, 0, None, None, 12]
    assert sets.source.path(int(sets.test_rows[0])) == str(tmp_path / "images/15.png")

    drawn = load(table(tmp_path / "drawn.csv", rows, "file,label,mask"), probe=0, test=0.2)
    assert (len(drawn.normal), len(drawn.test)) == (14, 6)  # 3 of 17 normal images
    assert drawn.labels.sum() == 3
    for name in ("path", "image"):
        renamed = [{name: row["file"], **row} for row in rows]
        assert len(load(table(tmp_path / f"{name}.csv", renamed, f"{name},label,split")).test) == 5


def test_a_mask_follows_its_image_through_the_preprocessing(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    mask = np.zeros((40, 80), dtype=np.uint8)
    mask[:, 40:] = 255  # the right half; the center crop of 40 pixels halves it again
    save(root / "test/hole/000.png", picture("wide", 80, 40))
    save(root / "ground_truth/hole/000_mask.png", Image.fromarray(mask))
    sets = load(root, image_size=8, resize_to=8)
    seen = sets.seen_mask(3)
    assert seen is not None
    assert (seen.shape, seen[:, 4:].all(), seen[:, :4].any()) == ((8, 8), True, False)
    stretched = load(root, image_size=8, fit="stretch").seen_mask(3)
    assert stretched is not None
    assert (stretched[:, 4:].all(), stretched[:, :4].any()) == (True, False)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "I;16", "jpg"])
def test_masks_of_any_mode(tmp_path: Path, mode: str) -> None:
    root = mvtec(tmp_path)
    white = disc()
    path = root / "ground_truth/hole/000_mask.png"
    if mode == "jpg":
        path.unlink()
        big = np.kron(np.asarray(white), np.ones((8, 8), np.uint8))
        save(root / "test/hole/000.png", picture("big", 96, 80))
        save(path.with_suffix(".jpg"), Image.fromarray(big), quality=60)
    elif mode == "I;16":
        save(path, Image.fromarray(np.asarray(white).astype(np.uint16)))
    else:
        save(path, white.convert(mode))
    mask = load(root).mask(3)
    assert mask is not None
    share = float(mask.mean())
    assert share == pytest.approx(0.1, abs=0.01 if mode == "jpg" else 1e-9)


def test_a_turned_photograph_and_its_upright_mask(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    (root / "test/hole/000.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "test/hole/000.jpg", picture("turned", 12, 10), exif=exif)
    with pytest.raises(DataError, match=r"12 x 10 pixels, but its image 000\.jpg has 10 x 12"):
        load(root)
    save(root / "ground_truth/hole/000_mask.png", disc(10, 12))
    mask = load(root).mask(3)
    assert mask is not None
    assert mask.shape == (12, 10)


def test_pool_of_a_run_is_the_normal_images(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    data = DataConfig.model_validate({"normal": str(root), "image_size": 8, "resize_to": 10})
    sets, splits = load_anomaly_sets(data), load_splits(data)
    assert splits.pool.names == sets.normal.names
    assert splits.pool.digests == sets.normal.digests
    assert splits.pool.images.shape == (18, 10, 10, 3)
    assert np.array_equal(splits.pool.center_crop(8).images, sets.normal.images)
    assert (splits.classes, len(splits.labeled), len(splits.probe), len(splits.test)) == ([], 0, 0, 0)


def test_an_anomalous_image_without_a_mask_is_noted(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    (root / "ground_truth/hole/001_mask.png").unlink()
    sets = load(root)
    assert sets.mask(4) is None
    assert ["test/hole/001.png" in note for note in sets.notes] == [True]


def wrong(tmp_path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(tmp_path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return text


def test_defects_in_the_training_folder(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "train/scratch/1.png")
    assert "train/ must hold normal images alone" in wrong(root)
    assert "scratch/ (1 image)" in wrong(root)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "ground_truth/hole/000_mask.png", disc(12, 11))
    assert "000_mask.png has 12 x 11 pixels, but its image 000.png has 12 x 10" in wrong(root)


def test_a_mask_without_its_image(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "ground_truth/hole/777_mask.png", disc())
    assert "the mask ground_truth/hole/777_mask.png has no image test/hole/777.*" in wrong(root)


def test_a_mask_of_a_normal_image_and_two_masks_of_one(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "ground_truth/good/000_mask.png", disc())
    assert "belongs to a normal image" in wrong(root)
    (root / "ground_truth/good/000_mask.png").unlink()
    save(root / "ground_truth/hole/000.png", disc())
    assert "test/hole/000.png has two masks" in wrong(root)


def test_a_mask_that_is_no_image(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    (root / "ground_truth/hole/000_mask.png").write_bytes(b"no")
    assert "000_mask.png: not an image that Pillow can read" in wrong(root)


def test_images_that_are_none(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    (root / "test/hole/000.png").write_bytes(b"no")
    assert "1 of 27 images cannot be read" in wrong(root)
    sets = load(root, max_skipped=0.1)
    assert sets.defects == ["good"] * 3 + ["hole"] + ["scratch"] * 2
    mask = sets.mask(3)
    assert mask is not None
    assert mask.any()
    assert [skipped.path for skipped in sets.skipped] == [str(root / "test/hole/000.png")]


def test_no_normal_images(tmp_path: Path) -> None:
    (tmp_path / "a/train/good").mkdir(parents=True)
    assert "train/ holds no normal images" in wrong(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert "holds no images" in wrong(tmp_path / "b")
    assert "no such folder" in wrong(tmp_path / "c")
    root = mvtec(tmp_path / "d", train=1)
    save(root / "train/good/000.png", Image.open(root / "test/hole/000.png"))
    assert "no normal image is left" in wrong(root)


@pytest.mark.parametrize("folders", [["good", "scratch"], ["test/good"], ["ground_truth/x", "test/x"], ["OK", "NG"]])
def test_parts_of_a_layout_without_train(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        save(tmp_path / folder / "1.png")
    assert "but no train/" in wrong(tmp_path)


def test_a_folder_whose_name_says_that_it_holds_defects(tmp_path: Path) -> None:
    for folder in ("line1", "Defects"):
        save(tmp_path / "parts" / folder / "1.png")
    assert "holds Defects/, but must hold normal images alone" in wrong(tmp_path / "parts")
    assert "is named Defects, but must hold normal images alone" in wrong(tmp_path / "parts" / "Defects")
    assert list_images(DataConfig(normal=str(tmp_path / "parts" / "line1"))).parts == ["train"]


def test_test_images_in_no_folder(tmp_path: Path) -> None:
    root = mvtec(tmp_path)
    save(root / "test/loose.png")
    assert "nothing says whether it is normal" in wrong(root)


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        ("name,label", {}, "has no column `file`"),
        ("file,class", {}, "has no column `label`"),
        ("file,label", {"file": "no.png", "label": "good"}, "line 3: no.png: no such file"),
        ("file,label", {"file": "0.png", "label": "good"}, "line 3: 0.png is also on line 2"),
        ("file,label", {"file": "1.png", "label": " "}, "line 3: 1.png has no label"),
        ("file,label,split", {"file": "1.png", "label": "good", "split": "tset"}, "did you mean test?"),
        ("file,label,split", {"file": "1.png", "label": "dent", "split": "train"}, "1.png is anomalous (dent), but its split is train"),
        ("file,label,mask", {"file": "1.png", "label": "dent", "mask": "no.png"}, "the mask no.png: no such file"),
        ("file,label,mask", {"file": "1.png", "label": "good", "mask": "mask.png"}, "1.png is normal, but has a mask"),
        ("file,label,mask", {"file": "1.png", "label": "dent", "mask": "mask.png"}, "has 3 x 3 pixels"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path: Path, columns: str, row: dict[str, str], expected: str) -> None:
    for name in ("0.png", "1.png"):
        save(tmp_path / name)
    save(tmp_path / "mask.png", disc(3, 3))
    first = {"file": "0.png", "label": "good", "split": "train"}
    assert expected in wrong(table(tmp_path / "x.csv", [first, row], columns))


def test_a_table_without_normal_images_or_that_is_none(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    assert "lists no normal images" in wrong(
        table(tmp_path / "x.csv", [{"file": "0.png", "label": "dent"}], "file,label")
    )
    assert "no such file" in wrong(tmp_path / "missing.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in wrong(tmp_path / "bytes.csv")


def test_what_cannot_stand_beside_normal_in_a_recipe() -> None:
    for other in ({"labeled": "digits"}, {"pool": "photos"}, {"test": "photos"}):
        with pytest.raises(RecipeError, match=f"data.*{next(iter(other))}"):
            parse({"task": "anomaly", "data": {"normal": "textures", **other}})
    recipe = parse({"task": "anomaly", "data": {"normal": "textures"}})
    assert recipe.data.labeled is None
    assert Recipe.read(recipe.model_dump(mode="json", by_alias=True)) == recipe  # as a run stores it


def test_textures_are_the_same_every_time_and_masks_are_where_the_defect_is() -> None:
    names = textures()
    assert len(names) == len({name for name, _ in names}) == 160 + 40 + 50
    for defect in DEFECTS:
        for i in range(3):
            pixels, mask = texture(f"test/{defect}/{i:03}.png")
            again, _ = texture(f"test/{defect}/{i:03}.png")
            assert np.array_equal(pixels, again)
            assert 0 < mask.mean() < 0.2
    pixels, mask = texture("test/good/000.png")
    assert (pixels.shape, pixels.dtype, mask.any()) == ((128, 128, 3), np.uint8, False)
    assert not np.array_equal(pixels, texture("train/good/000.png")[0])
    assert not np.array_equal(pixels, texture("test/good/000.png", seed=1)[0])


@pytest.mark.parametrize("defect", ["scratch", "spot", "hole"])
def test_outside_its_mask_a_planted_defect_changes_next_to_nothing(defect: str) -> None:
    """The same draw without the defect differs inside the mask, and by little more than light and noise outside."""
    from edgekit.data import textures as module

    random = np.random.default_rng(5)
    plain = np.full((128, 128, 3), 120.0)
    changed, mask = getattr(module, f"_{defect}")(plain, random)
    difference = np.abs(changed - plain).max(axis=2)
    assert difference[mask].mean() > 20
    assert difference[~mask].max() <= 0.15 * 135 + 1e-9


def test_textures_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    write_textures(tmp_path / "set", train=20, test_good=2, test_each=1, contamination=0.1)
    sets = load(tmp_path / "set", image_size=128, resize_to=128)
    assert (len(sets.normal) + len(sets.held_out), len(sets.test)) == (20, 7)
    for i, name in enumerate(sets.test.names):
        pixels, mask = texture(name)
        assert np.array_equal(sets.test.images[i], pixels)
        assert np.array_equal(sets.mask(i), mask)
    changed = [
        i
        for i in range(20)
        if not np.array_equal(
            texture(f"train/good/{i:03}.png")[0], np.asarray(Image.open(tmp_path / f"set/train/good/{i:03}.png"))
        )
    ]
    assert len(changed) == 2
    with pytest.raises(DataError, match="is not empty"):
        write_textures(tmp_path / "set")
