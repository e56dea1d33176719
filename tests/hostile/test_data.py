"""Tables, shards, CSV files and lists of classes that somebody damaged or forged: refused in one line, or read as far as they go."""

from __future__ import annotations

import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.labels import read_label_file
from edgekit.data.sources import open_labeled
from edgekit.errors import DataError, EdgekitError
from edgekit.export.importers.classes import read_classes
from edgekit.foreign import MOST_JSON, Unreadable, read_csv, read_text
from tests.helpers import hostile

_CHANGES = 40


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 20, 90, 30)).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for i in range(6):
            for name, content in ((f"{i:04}.png", png(i)), (f"{i:04}.cls", str(i % 2).encode())):
                member = tarfile.TarInfo(name if i else f"{'long' * 40}/{name}")  # a header of its own for the name
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def table(path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": png(i), "path": None} for i in range(8)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1] * 4}), path, row_group_size=3)


def _use(path: Path) -> None:
    """Open it and decode all of its images; an image that cannot be read is one line of its own."""
    source = open_labeled(str(path))
    for i in range(len(source.names)):
        try:
            source.read(i)
        except DataError as error:
            _check(error)


def _check(error: EdgekitError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 900


def refusals(path: Path, use: Callable[[Path], object], seed: int) -> int:
    """How many of some changed files are refused; anything but an error of edgekit's own fails."""
    draws, original, refused = random.Random(seed), path.read_bytes(), 0
    for _ in range(_CHANGES):
        path.write_bytes(hostile.damaged(draws, original))
        try:
            use(path)
        except EdgekitError as error:
            _check(error)
            refused += 1
    path.write_bytes(original)
    use(path)
    return refused


def test_changed_shards(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar")
    refusals(tmp_path / "s.tar", _use, 1)


def test_changed_tables(tmp_path: Path) -> None:
    table(tmp_path / "t.parquet")
    assert refusals(tmp_path / "t.parquet", _use, 2) > 10


@pytest.mark.parametrize("size", [2**63 - 512, 2**70, -1, -(2**40)])
def test_a_shard_whose_member_claims_any_size(size: int, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    shard(path)
    content = bytearray(path.read_bytes())
    at = next(i for i in range(0, len(content), 512) if content[i : i + 8] == b"0002.png")
    header = bytearray(content[at : at + 512])
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[at : at + 512] = header
    path.write_bytes(content)
    source = open_labeled(str(path))
    assert any(name.endswith("0001.png") for name in source.names)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"file\n" + b'"' + b"x" * 200_000,
        b"file,class\n\x00,a\n",
        b"",
        b"file,class\r\na.png",
        b"other\na.png\n",
        b"\x00" * 99,
    ],
)
def test_a_list_of_labels_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.csv") as refused:
        read_label_file(path, ["a.png", "b.png"], np.array([0, 1]), ["x", "y"])
    _check(refused.value)


def test_changed_lists_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"id2label": {"0": "cat", "1": "dog", "2": ["n1", "owl"]}}')
    assert refusals(path, lambda file: read_classes(str(file)), 3) > 5


def test_csv_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufefffile,class\r\n"a,b.png",x\r\n\r\nc.png\r\nd.png,y, ,\r\n"two\nlines",z\r\n'.encode())
    columns, rows = read_csv(path)
    rows = list(rows)
    assert columns == ["file", "class"]
    assert [row for _, row in rows] == [
        {"file": "a,b.png", "class": "x"}, {"file": "c.png", "class": ""}, {"file": "d.png", "class": "y"}, {"file": "two\nlines", "class": "z"},
    ]  # fmt: skip
    assert [line for line, _ in rows] == [2, 4, 5, 7]


_MOST_READING = MOST_JSON + (
    24 << 20
)  # `read_bytes` sets aside as much as a file may have, and gives back what it does not need


def test_a_small_csv_file_does_not_take_gigabytes(tmp_path: Path) -> None:
    """2,000 columns and 30,000 rows of one value are 200 kB, and were 60 million values of dictionaries: 1.5 GB."""
    path = tmp_path / "labels.csv"
    path.write_text("file," + ",".join(f"c{i}" for i in range(2000)) + "\n" + "a.png\n" * 30_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="has more than 10,000,000 values"):
        read_label_file(path, ["a.png", "b.png"], [0, 1], ["x", "y"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MOST_READING
    columns, rows = read_csv(path)
    assert len(columns) == 2001
    assert next(rows)[1]["file"] == "a.png"  # what is asked for before the bound is there


def test_rows_of_a_csv_file_are_not_kept(tmp_path: Path) -> None:
    """A row at a time: a list of 300,000 dictionaries was 120 MB."""
    path = tmp_path / "labels.csv"
    path.write_text("file,class\n" + "a.png,x\n" * 300_000 + "b.png,y\n")
    tracemalloc.start()
    found = read_label_file(path, ["a.png", "b.png"], np.array([0, 1]), ["x", "y"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == [0, 1]
    assert peak < _MOST_READING


def test_a_text_is_bounded_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100)
    assert read_text(tmp_path / "x") == "x" * 100
    with pytest.raises(Unreadable, match="larger than 99 bytes"):
        read_text(tmp_path / "x", 99)
    with pytest.raises(Unreadable, match="a folder, not a file"):
        read_text(tmp_path)
    with pytest.raises(Unreadable, match="no such file"):
        read_text(tmp_path / "none")
