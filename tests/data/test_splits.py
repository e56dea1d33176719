"""Splits: who may see which image, whatever the folders hold."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.data.decode import decode
from edgekit.data.divide import divide
from edgekit.data.images import ImageSet
from edgekit.data.sources import ImageSource, open_labeled
from edgekit.data.splits import Splits, _chosen, load_splits, training_preprocessing, write_splits
from edgekit.errors import DataError
from edgekit.preprocess import read_image
from edgekit.recipe import DataConfig
from edgekit.sizes import ImageSize
from tests.helpers.image_folders import class_folders, picture, save

COUNTS = {"cat": 20, "dog": 20, "eel": 20}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", COUNTS)


def load(labeled: Path | str, **keys: Any) -> Splits:
    return load_splits(DataConfig(**{"labeled": str(labeled), "image_size": 8, "labels": 2, **keys}))


def per_class(images: ImageSet, classes: int = 3) -> list[int]:
    assert images.labels is not None
    return np.bincount(images.labels, minlength=classes).tolist()


def assert_apart(splits: Splits) -> None:
    training = set(splits.pool.digests) | set(splits.labeled.digests)
    for a, b in combinations((set(splits.test.digests), set(splits.probe.digests), training), 2):
        assert not a & b


def assert_pixels(images: ImageSet, root: Path, preprocessing: Callable[[Any], np.ndarray]) -> None:
    """Each row holds the pixels, digest and label of its own name."""
    for i, name in enumerate(images.names):
        assert np.array_equal(images.images[i], preprocessing(read_image(root / name)))


def test_shares_of_one_folder(photos: Path) -> None:
    splits = load(photos, test=0.2, probe=0.1, labels=0.1)
    assert splits.classes == ["cat", "dog", "eel"]
    assert per_class(splits.test) == [4, 4, 4]
    assert per_class(splits.probe) == [2, 2, 2]
    assert per_class(splits.labeled) == [2, 2, 2]  # 0.1 of the 16 that are not in the test set, rounded
    assert len(splits.pool) == 60 - 12 - 6
    assert splits.pool.labels is None
    assert set(splits.labeled.digests) <= set(splits.pool.digests)
    assert_apart(splits)
    assert (splits.skipped, splits.notes) == ([], [])


def test_every_row_has_the_pixels_and_the_label_of_its_name(photos: Path) -> None:
    data = DataConfig(labeled=str(photos), image_size=8, resize_to=9, labels=3)
    splits = load_splits(data)
    evaluation = data.preprocessing()
    training = evaluation.model_copy(update={"image_size": ImageSize(9, 9)})
    for images, preprocessing in (
        (splits.pool, training), (splits.labeled, training), (splits.probe, evaluation), (splits.test, evaluation),
    ):  # fmt: skip
        assert images.size == preprocessing.image_size
        assert_pixels(images, photos, preprocessing)
        with pytest.raises((TypeError, ValueError)):
            images.images[0] = 0  # type: ignore[index]
        assert np.asarray(images.images).flags.c_contiguous
        if images.labels is not None:
            assert [splits.classes[c] for c in images.labels] == [name.split("/")[0] for name in images.names]


def spoiling(images: np.ndarray, rows: np.ndarray) -> tuple[list[int], np.ndarray]:
    """How sets were made until version 0.1.0: images from beyond the new length fill the gaps before it, in place."""
    order = np.arange(len(rows))
    gaps = np.setdiff1d(order, rows, assume_unique=True)
    order[gaps] = rows[rows >= len(rows)]
    images[gaps] = images[order[gaps]]
    return order.tolist(), images[: len(rows)]


@pytest.mark.parametrize("stream", [False, True])
def test_sets_of_one_decoded_source_do_not_spoil_each_other(photos: Path, stream: bool) -> None:
    data = DataConfig(labeled=str(photos), image_size=8, labels=3)
    source = open_labeled(str(photos), "data.labeled", data)
    decoded = decode(source, training_preprocessing(data), 0, stream)
    before = decoded.images[:].copy()
    draws = np.random.default_rng(0)
    for count in (1, 30, 59, 60, 31):
        rows = np.sort(draws.permutation(60)[:count])
        chosen = _chosen(source, decoded, rows)
        # The order stays that of older runs: a set's digest depends on it, and with it whether a stage is current.
        order, expected = spoiling(before.copy(), rows)
        assert chosen.names == [source.names[i] for i in order]
        assert chosen.digests == [decoded.digests[i] for i in order]
        assert chosen.labels is not None
        assert chosen.labels.tolist() == source.labels[order].tolist()
        assert np.array_equal(chosen.images, expected)
        assert np.array_equal(chosen.subset([0, -1]).images, expected[[0, -1]])
        assert np.array_equal(chosen.center_crop(4).images, expected[:, 2:6, 2:6])
        assert np.array_equal(decoded.images[:], before)


def test_stretched_images_are_stored_at_the_models_size(photos: Path) -> None:
    data = DataConfig(labeled=str(photos), image_size=8, resize_to=12, fit="stretch", labels=3)
    splits = load_splits(data)
    for images in (splits.pool, splits.labeled, splits.probe, splits.test):
        assert images.size == 8
        assert_pixels(images, photos, data.preprocessing())


def test_test_and_pool_may_be_folders(photos: Path, tmp_path: Path) -> None:
    test = class_folders(tmp_path / "exam", {"cat": 3, "dog": 4, "eel": 5})
    pool = class_folders(tmp_path / "pool", {"2024": 7})
    save(pool / "flat.png")
    splits = load(photos, test=str(test), pool=str(pool))
    assert per_class(splits.test) == [3, 4, 5]
    assert len(splits.pool) == 8
    assert_pixels(splits.test, test, DataConfig(image_size=8).preprocessing())
    assert_pixels(splits.pool, pool, DataConfig(image_size=8).preprocessing())
    assert_apart(splits)


def test_a_test_image_under_another_name_and_format_leaves_labeled_and_pool(photos: Path, tmp_path: Path) -> None:
    test = class_folders(tmp_path / "exam", {"cat": 2, "dog": 2, "eel": 2})
    pool = class_folders(tmp_path / "pool", {"x": 5})
    for folder, suffix in ((photos / "cat", "bmp"), (pool / "x", "tif")):
        save(folder / f"leak.{suffix}", read_image(test / "cat/000.png"))
    separate = load(photos, test=str(test), pool=str(pool))
    assert len(separate.pool) == 5
    assert any("took 1 image out of" in n and "also in the test set" in n and "photos" in n for n in separate.notes)
    assert "took 1 image out of the pool: also in the test set" in separate.notes
    assert "cat/leak.bmp" not in load(photos, test=str(test)).pool.names
    assert_apart(separate)


def test_a_probe_image_leaves_the_pool(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "pool")
    save(tmp_path / "pool/new.png")
    splits = load(photos, pool=str(tmp_path / "pool"))
    assert len(splits.pool) == 61 - 12 - 6
    assert any("took 6 images out of the pool: also in the probe set" in note for note in splits.notes)
    assert_apart(splits)


def test_copies_in_the_pool_are_kept_and_counted_and_pictures_of_two_classes_are_noted(
    photos: Path, tmp_path: Path
) -> None:
    pool = class_folders(tmp_path / "pool", {"x": 3})
    shutil.copy(pool / "x/000.png", pool / "x/copy.png")
    save(photos / "cat/both.png", picture("both"))
    save(photos / "dog/both.png", picture("both"))
    splits = load(photos, pool=str(pool))
    assert len(splits.pool) == 4
    assert "kept in the pool: 1 image that is a copy of another one" in splits.notes
    where = "cat/both.png = dog/both.png"
    assert any("1 image is in more than one class" in note and where in note for note in splits.notes)


@given(
    pictures=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=30, max_size=120),
    exam=st.none() | st.lists(st.integers(0, 60), max_size=20),
    test=st.floats(0.05, 0.4),
    probe=st.floats(0.05, 0.4),
    labels=st.floats(0.01, 1.0, exclude_max=True),
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_no_picture_is_on_two_sides_whatever_is_copied_where(
    pictures: list[tuple[int, int]],
    exam: list[int] | None,
    test: float,
    probe: float,
    labels: float,
    seeds: tuple[int, int],
) -> None:
    digests = [f"{content:032x}" if content else "" for _, content in pictures]  # content 0: unreadable
    classes = np.array([c for c, _ in pictures])
    source = ImageSource(
        "photos", [f"{i}" for i in range(len(pictures))], lambda i: picture(""), labels=classes, classes=list("abc")
    )
    data = DataConfig(labeled="photos", test=test, probe=probe, labels=labels, split_seed=seeds[0], label_seed=seeds[1])
    taken = [f"{content:032x}" for content in exam] if exam is not None else None
    try:
        division = divide(data, source, digests, taken)
    except DataError:
        return  # a class ran out of images: refused, not mixed
    test_set = set(taken) if taken is not None else {digests[i] for i in division.test}
    probe_set = {digests[i] for i in division.probe}
    training = {digests[i] for i in division.training}
    assert not test_set & probe_set
    assert not test_set & training
    assert not probe_set & training
    assert "" not in training | probe_set | ({digests[i] for i in division.test})
    assert set(division.budget) <= set(division.training)
    assert set(classes[division.budget]) == {0, 1, 2}
    for rows in (division.test, division.probe, division.budget, division.training):
        assert (np.diff(rows) > 0).all()


def test_the_label_seed_changes_the_labels_alone(photos: Path) -> None:
    a, b = (load(photos, label_seed=seed) for seed in (0, 1))
    assert a.labeled.names != b.labeled.names
    assert (a.test.names, a.probe.names) == (b.test.names, b.probe.names)
    assert sorted(a.pool.names) == sorted(b.pool.names)
    c = load(photos, split_seed=1)
    assert c.test.names != a.test.names
    assert c.probe.names != a.probe.names


def test_a_smaller_budget_of_a_seed_lies_in_a_larger_one(photos: Path) -> None:
    budgets = [set(load(photos, labels=labels).labeled.names) for labels in (0.05, 0.2, 5, 0.5, 1.0)]
    assert [len(b) for b in budgets] == [3, 9, 15, 24, 42]
    assert all(small < large for small, large in pairwise(budgets))


def test_all_labels_and_the_pool_are_one_array_in_memory(photos: Path) -> None:
    splits = load(photos, labels=1.0)
    assert np.shares_memory(splits.pool.images, splits.labeled.images)
    assert splits.pool.labels is None


def test_the_second_load_is_equal_and_so_is_its_digest(photos: Path) -> None:
    a, b = load(photos), load(photos)
    for name in ("pool", "labeled", "probe", "test"):
        first, second = getattr(a, name), getattr(b, name)
        assert np.array_equal(first.images, second.images)
        assert first.digest == second.digest


def test_a_set_s_digest_depends_on_pictures_labels_and_side_and_not_on_names(photos: Path) -> None:
    images = load(photos).labeled
    assert images.labels is not None
    other_names = ImageSet(images.images, [f"x{n}" for n in images.names], images.digests, images.labels)
    other_labels = ImageSet(images.images, images.names, images.digests, 2 - images.labels)
    no_labels = ImageSet(images.images, images.names, images.digests)
    smaller = ImageSet(images.images[:, :4, :4].copy(), images.names, images.digests, images.labels)
    turned = images.subset(np.arange(len(images))[::-1])
    assert other_names.digest == images.digest
    assert len({s.digest for s in (images, other_labels, no_labels, smaller, turned, images.subset([0, 1]))}) == 6


def test_a_subset_is_a_copy_in_the_order_asked_for(photos: Path) -> None:
    images = load(photos).test
    part = images.subset([3, 1])
    assert part.names == [images.names[3], images.names[1]]
    assert np.array_equal(part.images, images.images[[3, 1]])
    assert len(images.subset([])) == 0
    mask = np.zeros(len(images), dtype=bool)
    mask[2] = True
    assert images.subset(mask).names == [images.names[2]]


def test_a_set_whose_parts_do_not_fit_is_refused() -> None:
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="differ in length"):
        ImageSet(pixels, ["a"], ["0", "1"])
    for wrong in (pixels.astype(np.float32), pixels[..., :1], pixels[0]):
        with pytest.raises(ValueError, match="must be"):
            ImageSet(wrong, ["a", "b"], ["0", "1"])


def test_without_a_probe_the_set_is_empty(photos: Path) -> None:
    for keys in ({}, {"resize_to": 12}):
        splits = load(photos, probe=0, **keys)
        assert len(splits.probe) == 0
        assert splits.probe.images.shape == (0, 8, 8, 3)
        assert len(splits.pool) == 48


def test_a_label_file_names_the_budget_and_the_probe_goes_round_it(photos: Path, tmp_path: Path) -> None:
    source = open_labeled(str(photos))
    outside = sorted(set(source.names) - set(load(photos).test.names))
    path = tmp_path / "mine.csv"
    path.write_text("file\n" + "\n".join(outside) + "\n")
    kept = [name for name in outside if not name.endswith(("5.png", "6.png", "7.png"))]
    path.write_text("file\n" + "\n".join(kept) + "\n")
    splits = load(photos, labels=str(path))
    assert splits.labeled.names == kept
    assert per_class(splits.probe) == [2, 2, 2]
    assert_apart(splits)


def test_a_label_file_that_names_a_test_image_or_an_unreadable_one_is_refused(photos: Path, tmp_path: Path) -> None:
    test = load(photos).test.names
    path = tmp_path / "mine.csv"
    path.write_text("file\ncat/000.png\ncat/001.png\ndog/000.png\ndog/001.png\neel/000.png\n" + "\n".join(test))
    with pytest.raises(DataError, match=r"mine\.csv: .* is in the test set \(and \d+ more\)"):
        load(photos, labels=str(path))
    (photos / "cat/bad.png").write_bytes(b"x")
    path.write_text("file\ncat/bad.png\ndog/000.png\neel/000.png\n")
    with pytest.raises(DataError, match=r"cat/bad\.png cannot be decoded"):
        load(photos, labels=str(path), max_skipped=0.5, test=str(class_folders(tmp_path / "exam", COUNTS)))


def test_a_written_label_file_gives_the_same_budget_again(photos: Path, tmp_path: Path) -> None:
    first = load(photos, labels=0.2)
    write_splits(first, tmp_path / "out")
    again = load(photos, labels=str(tmp_path / "out/labels.csv"))
    assert again.labeled.digest == first.labeled.digest
    assert again.probe.digest == first.probe.digest
    assert again.test.digest == first.test.digest


def test_skipped_files_are_listed_once_whatever_is_decoded_twice(photos: Path) -> None:
    (photos / "cat/bad.png").write_bytes(b"x")
    splits = load(photos, resize_to=12, max_skipped=0.1)
    assert [s.path for s in splits.skipped] == [f"{photos}/cat/bad.png"]
    assert load(photos, pool=str(photos), max_skipped=0.1).skipped == splits.skipped
    names = [*splits.pool.names, *splits.probe.names, *splits.test.names]
    assert len(names) == 60
    assert "cat/bad.png" not in names
    with pytest.raises(DataError, match=r"1 of 61 images cannot be read, more than data\.max_skipped \(0\.01\)"):
        load(photos)


def test_what_is_written_can_be_read(photos: Path, tmp_path: Path) -> None:
    (photos / "cat/bad, or not.png").write_bytes(b"x")
    splits = load(photos, max_skipped=0.1)
    files = write_splits(splits, tmp_path / "out")
    assert sorted(files) == sorted(p.name for p in (tmp_path / "out").iterdir())
    for name, images in (("labels", splits.labeled), ("probe", splits.probe), ("test", splits.test)):
        with open(tmp_path / f"out/{name}.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["file"] for row in rows] == images.names
        assert [row["digest"] for row in rows] == images.digests
        assert [row["class"] for row in rows] == [n.split("/")[0] for n in images.names]
    with open(tmp_path / "out/skipped.csv", newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == [f"{photos}/cat/bad, or not.png"]
    summary = json.loads((tmp_path / "out/splits.json").read_text())
    assert summary["classes"] == splits.classes
    assert summary["pool"] == {"images": 42, "side": 8, "digest": splits.pool.digest}
    assert summary["labels"]["per_class"] == {"cat": 2, "dog": 2, "eel": 2}
    assert summary["skipped"] == 1


def test_digits_divide_like_any_other(tmp_path: Path) -> None:
    splits = load("digits", image_size=16, labels=0.1)
    assert [len(s) for s in (splits.test, splits.probe)] == [359, 179]
    assert len(splits.pool) == 1797 - 359 - 179
    assert 140 <= len(splits.labeled) <= 150
    assert_apart(splits)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test": "exam"}, r"data\.test: its classes .* only .*exam has fox; only .*photos has eel"),
        ({"test": "nope"}, r"data\.test: nope: no such folder"),
        ({"pool": "nope"}, r"data\.pool: nope: no such folder"),
        ({"pool": "inside"}, r"data\.pool: .*inside: all its images are in the test or probe set"),
        (
            {"labels": 15},
            r"data\.labels: the class cat has 14 .* needs 15",
        ),
        ({"labels": 0.95}, r"data\.labels: the class cat has 14 .* needs 15"),
        ({"labels": "nope.csv"}, r"data\.labels: nope\.csv: no such file"),
        ({"labeled": "tiny"}, r"data\.labeled: tiny: none of the 2 images of the class b is left"),
        ({"labeled": "broken"}, r"data\.labeled: broken: no image of the class b can be read"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(Path("exam"), {"cat": 2, "dog": 2, "fox": 2})
    class_folders(Path("tiny"), {"a": 9, "b": 2})
    class_folders(Path("broken"), {"a": 9})
    save(Path("broken/b/x.png")).write_bytes(b"x")
    for name in load("photos").test.names[:2]:
        save(Path("inside") / Path(name).name, read_image(photos / name))
    with pytest.raises(DataError, match=message) as caught:
        load(**{"labeled": "photos", "max_skipped": 0.5, **keys})
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_images_of_any_shape_are_stored_for_crops_and_evaluated_whole(tmp_path: Path, fit: Any) -> None:
    for i in range(24):
        save(tmp_path / "frames" / "ab"[i % 2] / f"{i}.png", picture(str(i), 40, 30))
    data = DataConfig(labeled=str(tmp_path / "frames"), image_size=[12, 16], resize_to=15, labels=4, fit=fit)
    splits, size = load_splits(data), ImageSize(12, 16)
    stored = ImageSize(15, 20) if fit == "crop" else size
    assert (splits.pool.size, splits.labeled.size) == (stored, stored)
    assert (splits.probe.size, splits.test.size) == (size, size)
    for images, preprocessing in (
        (splits.pool, training_preprocessing(data)), (splits.test, data.preprocessing()),
    ):  # fmt: skip
        expected = [preprocessing(read_image(tmp_path / "frames" / name)) for name in images.names]
        assert np.array_equal(images.images, np.stack(expected))
    cropped = splits.pool.center_crop(size)
    assert cropped.size == size
    if fit == "crop":
        assert np.array_equal(cropped.images, np.asarray(splits.pool.images)[:, 1:13, 2:18])
    streamed = load_splits(data.model_copy(update={"stream": True}))
    assert np.array_equal(streamed.pool.center_crop(size).images, cropped.images)
    twice = streamed.pool.center_crop((12, 20)).center_crop((10, 30)).images
    top = (stored.height - 12) // 2 + 1
    assert np.array_equal(twice[:2], splits.pool.images[:2][:, top : top + 10])
    assert (streamed.pool.digest, streamed.test.digest) == (splits.pool.digest, splits.test.digest)


def test_a_center_that_is_one_pixel_smaller_is_cut_out_too(photos: Path) -> None:
    """Evaluation of training images must have the models' size: a ViT takes no other."""
    splits = load_splits(DataConfig(labeled=str(photos), image_size=8, resize_to=9, labels=3))
    assert splits.labeled.center_crop(8).size == 8
    assert np.array_equal(splits.pool.center_crop(8).images, np.asarray(splits.pool.images)[:, :8, :8])
