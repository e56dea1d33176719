"""A gallery's file: written whole or not at all, read by NumPy, mapped where it is large, refused where it is damaged."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.gallery import Gallery, file
from tests.gallery.test_content import embeddings, gallery_of
from tests.helpers.patience import until


@pytest.fixture
def gallery() -> Gallery:
    return gallery_of([("mug", 1), ("bowl", 2), ("mug", 3), ("éclair", 4)])


@pytest.mark.parametrize("mapped_from", [0, 1 << 30])
def test_it_reads_what_was_written(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_from: int
) -> None:
    monkeypatch.setattr(file, "MAPPED_FROM", mapped_from)
    gallery.write(tmp_path / "a.gallery")
    gallery.write(tmp_path / "b.gallery")
    assert (tmp_path / "a.gallery").read_bytes() == (tmp_path / "b.gallery").read_bytes()
    found = Gallery.open(tmp_path / "a.gallery")
    assert found.record == gallery.record
    np.testing.assert_array_equal(found.vectors, gallery.vectors)
    np.testing.assert_array_equal(found.keys, gallery.keys)
    assert found.vectors.flags.aligned
    assert found.vectors.ctypes.data % 64 == 0 or mapped_from
    queries = embeddings([7, 8])
    assert found.nearest(queries, 3) == gallery.nearest(queries, 3)
    with np.load(tmp_path / "a.gallery") as archive:  # any NumPy reads it
        np.testing.assert_array_equal(archive["vectors"], gallery.vectors)
        np.testing.assert_array_equal(archive["keys"], gallery.keys)


def test_a_mapped_gallery_stays_whole_while_it_is_replaced(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MAPPED_FROM", 0)
    path = tmp_path / "a.gallery"
    gallery.write(path)
    mapped = Gallery.open(path)
    mapped.removed(["mug"]).write(path)
    np.testing.assert_array_equal(mapped.vectors, gallery.vectors)
    assert Gallery.open(path).classes == ["bowl", "éclair"]


@pytest.mark.parametrize("mapped_from", [0, 1 << 30])
def test_a_cut_or_changed_file_is_refused_in_one_line(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_from: int
) -> None:
    monkeypatch.setattr(file, "MAPPED_FROM", mapped_from)
    path = tmp_path / "a.gallery"
    gallery.write(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="not a gallery") as refused:
            Gallery.open(path)
        assert "\n" not in str(refused.value)
    start = whole.index(gallery.vectors.tobytes())
    for place in range(start, start + gallery.vectors.nbytes, 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match="not a gallery"):
            Gallery.open(path)


def _changed(gallery: Gallery, **update: Any) -> bytes:
    content = {**json.loads(gallery.record.model_dump_json(by_alias=True)), **update}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in ((file.VECTORS, gallery.vectors), (file.KEYS, gallery.keys)):
            with archive.open(name, "w") as entry:
                np.lib.format.write_array(entry, array)
        archive.writestr(file.RECORD, json.dumps(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"schema": 2}, "the gallery's schema is 2, this edgekit reads up to 1"),
        ({"classes": ["bowl", "bowl", "mug"]}, "its class bowl is repeated"),
        ({"classes": ["bowl", "mug"]}, "do not match"),
        ({"counts": [1, 5, 1]}, "its vectors do not match its record"),
        ({"counts": [1, 0, 2]}, "do not match"),
        ({"features": 5}, "its vectors do not match its record"),
        ({"model": "x"}, "not a gallery: model"),
        ({"more": 1}, "not a gallery: more"),
        ({"threshold": {"value": 7}}, "not a gallery: threshold.value"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    gallery: Gallery, tmp_path: Path, update: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.gallery"
    path.write_bytes(_changed(gallery))
    assert Gallery.open(path).record == gallery.record
    path.write_bytes(_changed(gallery, **update))
    with pytest.raises(DataError, match=message):
        Gallery.open(path)


@pytest.mark.parametrize("mapped_from", [0, 1 << 30])
@pytest.mark.parametrize(
    ("factor", "fault"),
    [(1e30, "of length 1"), (0.5, "of length 1"), (1.01, "of length 1"), (np.nan, "finite"), (np.inf, "finite")],
)
def test_vectors_of_another_length_are_refused(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_from: int, factor: float, fault: str
) -> None:
    monkeypatch.setattr(file, "MAPPED_FROM", mapped_from)
    path = tmp_path / "a.gallery"
    none = np.zeros_like(gallery.vectors[:1])  # the embedding of an image may be zeros
    file.write(path, gallery.record, np.concatenate([none, gallery.vectors[1:]]), gallery.keys)
    assert not Gallery.open(path).vectors[0].any()
    file.write(
        path,
        gallery.record,
        np.concatenate([gallery.vectors[:1] * np.float32(factor), gallery.vectors[1:]]),
        gallery.keys,
    )
    with pytest.raises(DataError, match=f"a.gallery: not a gallery: its vectors are not {fault}"):
        Gallery.open(path)


@pytest.mark.filterwarnings("error")
def test_a_shape_beyond_all_bounds_is_refused_without_a_warning(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MAPPED_FROM", 0)
    path = tmp_path / "a.gallery"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(file.VECTORS, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        with archive.open(file.KEYS, "w") as entry:
            np.lib.format.write_array(entry, gallery.keys)
        archive.writestr(file.RECORD, gallery.record.model_dump_json(by_alias=True))
    with pytest.raises(DataError, match="not a gallery"):
        Gallery.open(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a gallery", b"{}"])
def test_what_is_no_gallery_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gallery").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gallery: not a gallery"):
        Gallery.open(tmp_path / "a.gallery")
    with pytest.raises(DataError, match="no such gallery"):
        Gallery.open(tmp_path / "b.gallery")
    with pytest.raises(DataError, match="a folder"):
        Gallery.open(tmp_path)
    with pytest.raises(DataError, match="not a regular file"):
        Gallery.open(Path("/dev/zero"))


def test_vectors_that_are_not_finite_are_refused(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = gallery.vectors.copy()
    vectors[1, 2] = np.nan
    Gallery(gallery.record, vectors, gallery.keys).write(tmp_path / "a.gallery")
    for mapped_from in (0, 1 << 30):
        monkeypatch.setattr(file, "MAPPED_FROM", mapped_from)
        with pytest.raises(DataError, match="not finite"):
            Gallery.open(tmp_path / "a.gallery")


def test_two_changes_at_once_lose_nothing(gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "a.gallery"
    gallery.write(path)

    def add(first: int) -> None:
        for image in range(first, first + 8):
            with file.changing(path):
                grown, _ = Gallery.open(path).added([f"c{image}"], embeddings([image]), np.array([image], np.uint64))
                grown.write(path)

    threads = [threading.Thread(target=add, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    added = {f"c{first + i}" for first in (100, 200, 300) for i in range(8)}
    assert set(Gallery.open(path).classes) == {"mug", "bowl", "éclair"} | added
    with pytest.raises(DataError, match="no such gallery"), file.changing(tmp_path / "none.gallery"):
        pass


def test_an_interrupted_write_leaves_the_old_gallery_and_no_debris(gallery: Gallery, tmp_path: Path) -> None:
    """A process is interrupted in the middle of the file, as by Ctrl-C."""
    path = tmp_path / "a.gallery"
    gallery.write(path)
    before = path.read_bytes()
    code = f"""
import sys, time
import numpy as np
from edgekit.gallery import Gallery, file
write_array = np.lib.format.write_array
def slowly(stream, array, **options):
    write_array(stream, array, **options)
    print("written", flush=True)
    time.sleep(600)
np.lib.format.write_array = slowly
Gallery.open({str(path)!r}).removed(["mug"]).write({str(path)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    assert len(list(tmp_path.iterdir())) == 2, "it writes beside the gallery"
    process.send_signal(signal.SIGINT)
    until(lambda: process.poll() is not None)
    assert process.returncode != 0
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.gallery"]
    assert os.access(path, os.R_OK)
