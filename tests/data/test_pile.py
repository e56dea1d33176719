"""A pile of images: what is held out before anybody labels anything, and labels that come later."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.pile import divide_pile
from edgekit.data.source import ImageSource
from edgekit.data.splits import Splits, load_splits
from edgekit.data.template import recipe_text
from edgekit.errors import EdgekitError
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import save

COUNT = 40


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path)
    for i in range(COUNT):
        save(Path("pile") / f"{i:03}.png")


def splits(labels: str | float = 1.0, **more: object) -> Splits:
    return load_splits(
        DataConfig.model_validate(
            {"labeled": None, "pool": "pile", "test": 0.25, "image_size": 8, "labels": labels} | more
        )
    )


def write_labels(classes: dict[str, str], header: str = "file,class") -> str:
    Path("labels.csv").write_text("\n".join([header, *(f"{name},{value}" for name, value in classes.items())]) + "\n")
    return "labels.csv"


def some_labels(found: Splits) -> dict[str, str]:
    """Two classes among ten images that training may see, and among five that are held out."""
    seen, held = found.pool.names, sorted({f"{i:03}.png" for i in range(COUNT)} - set(found.pool.names))
    return {name: "odd" if i % 2 else "even" for i, name in enumerate([*seen[:10], *held[:5]])}


def test_without_labels_there_is_a_pool_alone() -> None:
    found = splits()
    assert len(found.pool) == COUNT - 10
    assert (len(found.labeled), len(found.test), len(found.probe), found.classes) == (0, 0, 0, [])


def test_labels_move_no_image() -> None:
    before = splits()
    labels = some_labels(before)
    after = splits(write_labels(labels))
    assert after.pool.digest == before.pool.digest
    assert after.classes == ["even", "odd"]
    assert len(after.labeled) == 10
    assert len(after.test) == 5
    for images in (after.labeled, after.test):
        assert images.labels is not None
        assert [after.classes[c] for c in images.labels] == [labels[name] for name in images.names]
    assert not set(after.test.digests) & set(after.pool.digests)


def test_a_renamed_file_and_a_new_one_leave_the_held_out_images_held_out() -> None:
    before = splits()
    Path("pile/000.png").rename("pile/zzz.png")
    save(Path("pile/new.png"))
    after = splits()
    held = {d for d in _contents() if d not in before.pool.digests}
    assert len(held & set(after.pool.digests)) <= 1


def _contents() -> set[str]:
    from edgekit.data.images import content_digest
    from edgekit.preprocess import open_image, to_rgb

    return {content_digest(to_rgb(open_image(path), None)) for path in Path("pile").iterdir()}


def test_copies_of_held_out_images_are_in_no_set_and_copies_share_a_label() -> None:
    before = splits()
    held = next(f"{i:03}.png" for i in range(COUNT) if f"{i:03}.png" not in before.pool.names)
    shutil.copy(Path("pile") / held, "pile/copy-of-held.png")
    shutil.copy(Path("pile") / before.pool.names[0], "pile/copy-of-seen.png")
    labels = some_labels(before)
    after = splits(write_labels(labels))
    assert "copy-of-held.png" not in after.pool.names
    assert any("took 1 copy of held-out images" in note for note in after.notes)
    assert after.labeled.labels is not None
    of = dict(zip(after.labeled.names, after.labeled.labels, strict=True))
    assert of["copy-of-seen.png"] == of[before.pool.names[0]]


def test_a_row_without_a_class_is_no_label_yet() -> None:
    before = splits()
    labels = some_labels(before) | {before.pool.names[20]: ""}
    assert len(splits(write_labels(labels)).labeled) == 10


def test_a_class_that_only_test_images_have_is_said() -> None:
    before = splits()
    labels = some_labels(before)
    held = [name for name in labels if name not in before.pool.names]
    found = splits(write_labels(labels | {held[0]: "rare"}))
    assert found.classes == ["even", "odd", "rare"]
    assert any("only test images have the class rare" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: {"no.png": "even"} | labels, "line 2: no.png is not an image of data.pool"),
        (lambda labels: dict.fromkeys(labels, ""), "no image has a class"),
        (lambda labels: dict.fromkeys(labels, "even"), r"labeled training images are of 1 class \(even\)"),
        (lambda labels: dict(list(labels.items())[:10]), "no held-out image has a label"),
        (lambda labels: labels | {next(iter(labels)): "Odd"}, "odd differ only in case|Odd and odd"),
    ],
)
def test_labels_of_no_use_are_one_clear_line(change: object, message: str) -> None:
    labels = change(some_labels(splits()))  # type: ignore[operator]
    with pytest.raises(EdgekitError, match=message) as caught:
        splits(write_labels(labels))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_an_image_with_two_classes_is_refused() -> None:
    before = splits()
    write_labels(some_labels(before))
    with Path("labels.csv").open("a") as stream:
        stream.write(f"{before.pool.names[0]},other\n")
    with pytest.raises(EdgekitError, match=r"line 17: .* has the class other, but an earlier line says even"):
        splits("labels.csv")


def test_a_file_without_the_column_file_is_refused() -> None:
    with pytest.raises(EdgekitError, match="has no column `file`"):
        splits(write_labels({"a": "b"}, "name,class"))


def test_a_pile_needs_a_pool() -> None:
    with pytest.raises(ValueError, match="labeled is null"):
        DataConfig.model_validate({"labeled": None})


@pytest.fixture
def own_test() -> str:
    """A test set of the classes even and odd, with a copy of the pile's image 003."""
    for name in ("even", "odd"):
        for i in range(3):
            save(Path("tests") / name / f"{i}.png")
    shutil.copy("pile/003.png", "tests/odd/copy.png")
    return "tests"


def test_a_pile_beside_a_test_set_of_its_own(own_test: str) -> None:
    before = splits(test=own_test)
    assert (len(before.pool), len(before.labeled), len(before.test)) == (COUNT - 1, 0, 7)
    assert "003.png" not in before.pool.names
    assert before.classes == ["even", "odd"]
    assert any("took 1 image of pile out of the pool: also in the test set" in note for note in before.notes)
    after = splits(write_labels({"000.png": "odd", "001.png": "even", "002.png": "odd"}), test=own_test)
    assert after.pool.digest == before.pool.digest
    assert (after.labeled.names, after.test.digest) == (["000.png", "001.png", "002.png"], before.test.digest)
    assert after.labeled.labels is not None
    assert [after.classes[c] for c in after.labeled.labels] == ["odd", "even", "odd"]


def test_labels_that_the_test_set_does_not_know_are_refused(own_test: str) -> None:
    with pytest.raises(EdgekitError, match=r"the class prime is not in tests \(even, odd\)"):
        splits(write_labels({"000.png": "odd", "001.png": "prime"}), test=own_test)


def test_init_takes_a_pool_beside_a_test_set(own_test: str) -> None:
    from edgekit import recipe as recipes
    from edgekit.data.layout import inspect_folder

    Path("whole").mkdir()
    shutil.move("pile", "whole/pool")
    shutil.move(own_test, "whole/test")
    layout = inspect_folder("whole")
    assert (layout.labeled, layout.pool_images, layout.test_images) == (None, COUNT, 7)
    data = recipes.parse(recipes.read_yaml(recipe_text(layout)), where="recipe").data
    assert (data.labeled, data.pool, data.test) == (None, layout.pool, layout.test)
    assert len(load_splits(data).test) == 7
    (Path("whole") / "dogs").mkdir()
    save(Path("whole") / "dogs" / "0.png")
    with pytest.raises(EdgekitError, match=r"holds pool/ and dogs/, but no train/"):
        inspect_folder("whole")


def test_init_writes_a_recipe_for_a_pile_and_for_dated_folders() -> None:
    from edgekit import recipe as recipes
    from edgekit.data.layout import inspect_folder

    for month in ("may", "june"):
        save(Path("camera") / month / "a.png")
    for layout, count in ((inspect_folder("pile"), COUNT), (inspect_folder("camera", unlabeled=True), 2)):
        assert (layout.labeled, layout.pool_images) == (None, count)
        recipe = recipes.parse(recipes.read_yaml(recipe_text(layout)), where="recipe")
        assert recipe.data.labeled is None
        assert recipe.data.pool == layout.pool


def test_the_work_of_holding_out_grows_with_the_images_and_not_with_their_square() -> None:
    class Counted(str):
        hashed = 0

        def __hash__(self) -> int:
            Counted.hashed += 1
            return super().__hash__()

        def __eq__(self, other: object) -> bool:
            return str(self) == str(other)

    def hashed(count: int) -> int:
        names, digests = [f"{i}.png" for i in range(count)], [Counted(f"{i:032x}") for i in range(count)]
        source = ImageSource("images", names, lambda i: Image.new("RGB", (1, 1)))
        Counted.hashed = 0
        assert (
            len(divide_pile(DataConfig(labeled=None, pool="images", test=0.5), source, digests).held_out) == count // 2
        )
        return Counted.hashed

    assert hashed(2000) <= 11 * hashed(200)


def test_what_is_held_out_is_near_the_share() -> None:
    held = [COUNT - len(splits(split_seed=seed).pool) for seed in range(3)]
    assert held == [10, 10, 10]
    assert len({tuple(splits(split_seed=seed).pool.names) for seed in range(3)}) == 3
    assert np.array_equal(splits().pool.images, splits().pool.images)
