"""CSV files with the classes of images, in each form; images with one class and with several; and what is wrong with a file, one line each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data.label_table import read_label_table
from edgekit.data.sources import in_classes_of, open_labeled, open_pool
from edgekit.errors import DataError
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import save
from tests.helpers.shapes import CLASSES, random_labels, write_labels

SEVERAL = DataConfig(labeled="labels.csv", classes_per_image="any")


def written(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        save(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("form", [";", "|", ",", "pairs", "columns"])
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_every_form_says_the_same(tmp_path_factory: pytest.TempPathFactory, form: str, seed: int) -> None:
    labels = random_labels(12, seed)
    labels[:3] = np.eye(3)  # so that each class is somewhere
    labels[3] = 0
    names = [f"{i}.png" for i in range(12)]
    path = tmp_path_factory.mktemp("forms") / "labels.csv"
    if form == ",":
        cells = [",".join(CLASSES[c] for c in np.flatnonzero(row)) for row in labels]
        written(
            path.parent,
            "file,classes\n" + "".join(f'{name},"{cell}"\n' for name, cell in zip(names, cells, strict=True)),
        )
    else:
        write_labels(path, names, labels, form)  # type: ignore[arg-type]
    table = read_label_table(path, "labels.csv")
    expected = form if form in {"pairs", "columns"} else "separated"
    if form in {";", "|", ","} and labels.sum(axis=1).max() < 2:
        expected = "pairs"  # without a single separator
    assert table.form == expected
    assert table.classes == CLASSES
    assert table.files == names
    assert np.array_equal(table.found, labels.astype(bool))
    assert not table.one_each


def test_a_source_has_the_labels_of_the_file_whatever_the_names_look_like(pictures: Path) -> None:
    text = "note,image_name,tags\nx,images/a.png,cat;dog\nx,b.png,\nx,./images\\c.png,dog\nx,d,cat\n"
    source = open_labeled(str(written(pictures, text)), "data.labeled", SEVERAL)
    assert source.names == [f"images/{name}.png" for name in "abcd"]
    assert source.classes == ["cat", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]
    assert source.read(1).size == (12, 10)
    assert source.notes == [
        f"{pictures}/labels.csv: one column of class names, separated by ;; 2 classes, 4 images, 1.00 classes an image, "
        "1 image with several (line 2), 1 image without any (line 3)"
    ]
    pool = open_pool(str(pictures / "labels.csv"))
    assert pool.labels is None
    assert pool.names == source.names


def test_a_file_with_one_class_for_each_image_serves_a_classification(pictures: Path) -> None:
    path = written(pictures, "file,class\na.png,cat\nb.png,dog\nc.png,cat\n")
    source = open_labeled(str(path), "data.labeled")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0]
    one_hot = written(pictures, "file,cat,dog\na.png,1,0\nb.png,0,1\n", "onehot.csv")
    source = open_labeled(str(one_hot), "data.labeled")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1]
    assert open_labeled(str(one_hot), "", SEVERAL).labels is not None, "columns speak of several classes themselves"


@pytest.mark.parametrize(
    ("text", "several", "message"),
    [
        ("file,classes\na.png,cat;dog\na.png,cat\nb.png,dog\n", True, r"line 3: a\.png has cat, but line 2 says cat, dog"),
        ("file,cat,dog\na.png,1,0\na.png,0,0\nb.png,1,1\n", True, r"line 3: a\.png has no class, but line 2 says cat"),
        ("file,class\na.png,cat\na.png,\nb.png,dog\n", True, r"line 3: a\.png has no class, but line 2 says cat"),
        ("file,class\na.png,\na.png,dog\nb.png,cat\n", True, r"line 3: a\.png has dog, but line 2 says no class"),
        ("file,classes\na.png,cat;dog\nimages/a.png,cat\n", True, r"line 3: images/a\.png is the image of line 2"),
        ("file,classes\na.png,cat;dog\nz.png,cat\n", True, r"line 3: z\.png is not an image in"),
        ("file,classes\na.png,cat;dog\n,cat\n", True, "line 3: names no image"),
        ("file,cat,dog\na.png,1,0\nb.png,0,0\n", True, "no image has the class dog"),
        ("file,cat,dog\na.png,1,2\n", True, "line 2: the column dog has 2, which is not 0 or 1"),
        ("file,classes\na.png,\nb.png,\n", True, "no image has a class"),
        ("file,class\na.png,cat\nb.png,dog\n", True, "each of its 2 images has exactly one class.*"),
        ("file,classes\na.png,cat\nb.png,cat;dog\n", False, r"line 3: b\.png has 2 classes \(cat, dog\)"),
        ("file,classes\na.png,cat;\nb.png,;\n", False, r"line 3: b\.png has no class, but a classification"),
        ("file,class\na.png,cat\n", False, r"holds only one class \(cat\)"),
        ("file,classes\na.png,cat;Cat\n", True, "the classes Cat and cat differ only in case"),
        ("file\na.png\n", True, "has 1 column"),
        ("images/a.png,cat\nb.png,dog\nc.png,cat\n", False, "has no header: its first line names the image images/a.png"),
        ("a,cat\nb,dog\nc,cat\n", False, "has no header: its first line names the image a"),
        ("file,classes\na.png,cat,dog\nb.png,cat\n", True, "line 2 has more values than the header has columns"),
        ("file,classes\n", True, "has no row below its header"),
        ("file,classes,classes\na.png,cat,cat\n", True, "two columns named classes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_in_one_line(pictures: Path, text: str, several: bool, message: str) -> None:
    path = written(pictures, text)
    with pytest.raises(DataError, match=message) as error:
        open_labeled(str(path), "data.labeled", SEVERAL if several else DataConfig())
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_spreadsheet_may_separate_by_semicolons_or_tabs_and_begin_with_empty_lines(
    pictures: Path, mark: str, end: str
) -> None:
    lines = ["", "", "file,class,note", "a.png,cat,1", "", "b.png,dog,2", "c.png,,3"]
    path = pictures / "labels.csv"
    path.write_bytes(("\ufeff" + end.join(line.replace(",", mark) for line in lines)).encode())
    source = open_labeled(str(path), "data.labeled", SEVERAL)
    assert source.labels is not None
    assert source.labels.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert "1 image without any (line 7)" in source.notes[0]


def test_an_absolute_path_names_an_image_of_the_folder(pictures: Path) -> None:
    (pictures / "link").symlink_to(pictures / "images")
    images = pictures / "images"
    path = written(images, f"file,class\n{images / 'a.png'},cat\n{images / 'b.png'},dog\n")
    for folder in ("images", "link"):
        source = open_labeled(str(pictures / folder / path.name), "data.labeled")
        assert source.names == ["a.png", "b.png"]
    path = written(images, f"file,class\n{pictures / 'x.png'},cat\nb.png,dog\n")
    with pytest.raises(DataError, match=r"line 2: .*/x\.png is not an image in"):
        open_labeled(str(path), "data.labeled")


def test_a_column_of_splits_is_not_ignored_in_silence(pictures: Path) -> None:
    path = written(pictures, "file,class,Split\na.png,cat,train\nb.png,dog,test\n")
    assert "its column split is not used" in open_labeled(str(path), "data.labeled").notes[1]


def test_a_class_that_is_not_listed_is_refused(pictures: Path) -> None:
    names = written(pictures, "dog\ncat\n", "names.txt")
    data = SEVERAL.model_copy(update={"class_names": str(names)})
    with pytest.raises(DataError, match=r"line 3: cta is not one of the 2 classes") as error:
        open_labeled(str(written(pictures, "file,classes\na.png,cat;dog\nb.png,cta\n")), "data.labeled", data)
    assert error.value.hint == "did you mean cat?"
    source = open_labeled(str(written(pictures, "file,classes\na.png,cat;dog\nb.png,cat\n")), "data.labeled", data)
    assert source.classes == ["dog", "cat"], "in the order of the list"


def test_a_file_is_missing_or_a_folder_is_given(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"data\.labeled: .*/none\.csv: no such file"):
        open_labeled(str(pictures / "none.csv"), "data.labeled", SEVERAL)
    with pytest.raises(DataError, match="multilabel takes a CSV file"):
        open_labeled(str(pictures), "data.labeled", SEVERAL)


def test_test_images_may_lack_a_class_but_have_no_other(pictures: Path) -> None:
    training = open_labeled(str(written(pictures, "file,classes\na.png,cat;dog\nb.png,emu\n")), "", SEVERAL)
    test = open_labeled(str(written(pictures, "file,classes\nc.png,emu;cat\nd.png,\n", "test.csv")), "", SEVERAL)
    aligned = in_classes_of(test, training)
    assert aligned.classes == ["cat", "dog", "emu"]
    assert aligned.labels is not None
    assert aligned.labels.tolist() == [[1, 0, 1], [0, 0, 0]]
    other = open_labeled(str(written(pictures, "file,classes\nc.png,emux;cat\nd.png,\n", "test.csv")), "", SEVERAL)
    with pytest.raises(
        DataError, match=r"data\.test: .*test\.csv: no image of .*labels\.csv has the class emux"
    ) as error:
        in_classes_of(other, training)
    assert error.value.hint == "did you mean emu?"
