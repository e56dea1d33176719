"""Parquet tables of images: Hugging Face's and plain ones, damaged ones counted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.decode import decode
from edgekit.data.images import content_digest
from edgekit.data.sources import open_labeled, open_pool
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import picture, save

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SMALL = Preprocessing(image_size=8, resize_to=8)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def png(seed: str) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def hugging_face(path: Path, labels: list[int | None], names: list[str], images: list[Any] | None = None) -> Path:
    """A table as `datasets` writes it: a struct of bytes and path, whole numbers, and the classes' names in the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = images or [{"bytes": png(f"{path.name}{i}"), "path": f"{i}.png"} for i in range(len(labels))]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.table({"image": rows, "label": labels}, schema=schema), path, row_group_size=3)
    return path


def test_a_table_of_hugging_face_has_its_images_and_class_names(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "train.parquet", [2, 0, 0, 2, 1, 2, 0], ["cat", "dog", "eel"])
    source = open_labeled(str(path))
    assert source.classes == ["cat", "dog", "eel"]
    assert source.labels is not None
    assert source.labels.tolist() == [2, 0, 0, 2, 1, 2, 0]
    assert source.names[6] == "train.parquet/0000006"
    decoded = decode(source, SMALL, 0)
    assert decoded.digests == [content_digest(picture(f"train.parquet{i}")) for i in range(7)]
    assert np.array_equal(decoded.images[5], SMALL(picture("train.parquet5")))


def test_plain_columns_of_other_names(tmp_path: Path) -> None:
    rows = [png(str(i)) for i in range(4)]
    for name, labels in (("text", ["b", "a", "b", "a"]), ("dictionary", pa.array(list("baba")).dictionary_encode())):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"jpeg": rows, "species": labels}), path)
        data = DataConfig(image_column="jpeg", label_column="species")
        source = open_labeled(str(path), data=data)
        assert source.labels is not None
        assert (source.classes, source.labels.tolist()) == (["a", "b"], [1, 0, 1, 0])
    names = tmp_path / "classes.txt"
    names.write_text("ant\nbee\n")
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 1, 0]}), tmp_path / "numbers.parquet")
    numbers = open_labeled(str(tmp_path / "numbers.parquet"), data=DataConfig(class_names=str(names)))
    assert numbers.classes == ["ant", "bee"]


def test_files_globs_and_folders(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        for i in range(count):
            hugging_face(tmp_path / f"hf/{split}-{i:05}-of-{count:05}.parquet", [0, 1, 0, 1], ["cat", "dog"])
    assert len(open_labeled(f"{tmp_path}/hf/train-*.parquet").names) == 8
    with pytest.raises(DataError, match=r"holds several splits \(test, train\)") as caught:
        open_labeled(f"{tmp_path}/hf", "data.labeled")
    assert "train-*.parquet" in caught.value.hint
    next(tmp_path.glob("hf/test*")).unlink()
    source = open_pool(f"{tmp_path}/hf")
    assert source.names == open_labeled(f"{tmp_path}/hf/train-*.parquet").names
    assert source.labels is None


def test_a_damaged_row_is_skipped_and_counted_like_a_file(tmp_path: Path) -> None:
    save(tmp_path / "beside.png", picture("beside"))
    images: list[Any] = [{"bytes": png(f"{i}"), "path": None} for i in range(20)]
    images[3] = {"bytes": b"no image", "path": "x.png"}
    images[5] = {"bytes": None, "path": "beside.png"}
    images[7] = {"bytes": None, "path": "nowhere.png"}
    images[8] = None
    labels: list[int | None] = [0, 1] * 10
    labels[11] = None
    labels[12] = 9
    path = hugging_face(tmp_path / "t.parquet", labels, ["cat", "dog"], images)
    source = open_labeled(str(path))
    assert len(source.names) == 18
    decoded = decode(source, SMALL, 0.25)
    assert {s.path.rpartition("/")[2]: s.reason for s in decoded.skipped} == {
        "0000011": "its label is empty",
        "0000012": "its label is empty",
        "0000003": "not an image that Pillow can read",
        "0000007": f"{tmp_path}/nowhere.png: no such file",
        "0000008": "it is empty",
    }
    assert decoded.digests[source.names.index("t.parquet/0000005")] == content_digest(picture("beside"))
    with pytest.raises(DataError, match=r"5 of 20 images cannot be read, more than data\.max_skipped \(0\.2\)"):
        decode(source, SMALL, 0.2)


def test_a_row_group_that_is_damaged_is_skipped(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "t.parquet", [0, 1] * 6, ["cat", "dog"])
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    decoded = decode(open_labeled(str(path)), SMALL, 0.5)
    assert [s.path.rpartition("/")[2] for s in decoded.skipped] == ["0000003", "0000004", "0000005"]
    assert all("row group cannot be read" in s.reason for s in decoded.skipped)


def test_a_table_trains_and_is_not_streamed(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "t.parquet", [0, 1] * 20, ["cat", "dog"])
    splits = load_splits(DataConfig(labeled=str(path), image_size=8, labels=2))
    assert (splits.classes, len(splits.test), len(splits.labeled)) == (["cat", "dog"], 8, 4)
    assert not {*splits.pool.digests, *splits.probe.digests} & set(splits.test.digests)
    with pytest.raises(DataError, match="a table cannot be streamed") as caught:
        load_splits(DataConfig(labeled=str(path), image_size=8, labels=2, stream=True))
    assert "WebDataset shards" in caught.value.hint


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"img": [b"x"], "label": [0]}, {}, r"has no column image, its columns are img, label"),
        ({"image": [b"x"], "lable": [0]}, {}, r"has no column label.*did you mean lable"),  # codespell:ignore
        ({"image": [1], "label": [0]}, {}, r"its column image is of type int64"),
        ({"image": [b"x"], "label": [0.5]}, {}, r"its column label is of type double"),
        ({"image": [b"x", b"y"], "label": [3, 3]}, {}, r"holds one class only \(3\)"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, {}, r"holds no labeled rows"),
    ],
)
def test_a_table_of_no_use_is_one_clear_line(
    tmp_path: Path, columns: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=message) as caught:
        open_labeled(str(path), "data.labeled", DataConfig(**data))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_what_is_no_table_is_one_clear_line(tmp_path: Path) -> None:
    for content in (b"", b"PAR1 and nothing else"):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"t\.parquet: is no readable Parquet table"):
            open_pool(str(tmp_path / "t.parquet"), "data.pool")
