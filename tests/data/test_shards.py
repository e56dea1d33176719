"""WebDataset shards: what is found in them is what WebDataset finds, and what is damaged is counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.decode import decode
from edgekit.data.sources import open_labeled, open_pool
from edgekit.data.splits import load_splits, write_splits
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing, read_image
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import class_folders, picture, save

wds = pytest.importorskip("webdataset", reason="writes the shards")
SMALL = Preprocessing(image_size=8, resize_to=8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


def png(seed: str) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, keys: list[str], **members: Any) -> Path:
    """A shard with a picture a key; other members are functions of the sample's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as writer:
        for i, key in enumerate(keys):
            extra = {name: make(i) for name, make in members.items()}
            writer.write({"__key__": key, "png": png(f"{path.name}/{key}"), **extra})
    return path


def write_shards(folder: Path, shards: int = 3, samples: int = 6) -> Path:
    for s in range(shards):
        keys = [f"{s}{i:03}" for i in range(samples)]
        write_shard(folder / f"train-{s:03}.tar", keys, cls=lambda i: f"{i % 2}".encode())
    return folder


def offset_of(path: Path, name: str) -> tuple[int, int]:
    """Where the header and the data of a member begin."""
    with tarfile.open(path) as archive:
        member = archive.getmember(name)
        return member.offset, member.offset_data


def test_the_samples_are_those_that_webdataset_finds(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in (
            "x/one.png", "x/one.cls", "x/one.seg.png", "two.v2.PNG", "two.cls", "dir.d/three.jpg", "dir.d/three.json", "three.json",
            "README", "._one.png", "no.image.txt",
        ):  # fmt: skip
            content = (
                png(name) if name.lower().endswith(("png", "jpg")) else b'{"label": 1}' if "json" in name else b"1"
            )
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    theirs = {}
    for sample in wds.WebDataset(str(path), shardshuffle=False):
        images = [v for k, v in sample.items() if k.rpartition(".")[2] in {"png", "jpg"}]
        if images:
            theirs[sample["__key__"]] = images
    source = open_pool(str(path))
    keys = [name.removeprefix("a.tar/").split(".png")[0].split(".v2")[0].split(".jpg")[0] for name in source.names]
    assert keys == list(theirs) == ["x/one", "two", "dir.d/three"]
    for i, images in enumerate(theirs.values()):
        assert np.array_equal(np.asarray(source.read(i)), np.asarray(read_image(images[0])))
    assert any("left out 1 image of" in n and "of the images of a sample, one is used" in n for n in source.notes)
    assert any("left out 2 samples" in n and "without an image" in n for n in source.notes)


def test_brace_ranges_globs_folders_and_files_name_the_same_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "s")
    expected = open_pool(f"{tmp_path}/s/train-{{000..002}}.tar")
    assert len(expected.names) == 18
    assert expected.names[0] == "train-000.tar/0000.png"
    assert expected.path(0) == f"{tmp_path}/s/train-000.tar/0000.png"
    for where in ("s", "s/", "s/*.tar", "s/train-00[0-2].tar", "s/train-{002,000,001,000}.tar", "**/*.tar"):
        source = open_pool(f"{tmp_path}/{where}")
        assert [n.removeprefix("s/") for n in source.names] == expected.names, where
        assert source.stamp == expected.stamp
    assert open_pool(str(tmp_path / "s/train-001.tar")).names == expected.names[6:12]


def test_labels_are_numbers_names_or_those_of_a_file(tmp_path: Path) -> None:
    write_shards(tmp_path / "n")
    numbers = open_labeled(str(tmp_path / "n"))
    assert numbers.classes == ["0", "1"]
    assert numbers.labels is not None
    assert numbers.labels.tolist() == [0, 1] * 9
    names = tmp_path / "classes.txt"
    names.write_text("cat\ndog\neel\n")
    assert open_labeled(str(tmp_path / "n"), data=DataConfig(class_names=str(names))).classes == ["cat", "dog"]
    keys = ["a", "b", "c", "d"]
    write_shard(
        tmp_path / "j/0.tar", keys, json=lambda i: {"label": "dog" if i % 2 else "cat", "id": [9, 10, 11, 9][i]}
    )
    by_name = open_labeled(str(tmp_path / "j"))
    assert by_name.labels is not None
    assert (by_name.classes, by_name.labels.tolist()) == (["cat", "dog"], [0, 1, 0, 1])
    by_id = open_labeled(str(tmp_path / "j"), data=DataConfig(label_column="id"))
    assert by_id.labels is not None
    assert (by_id.classes, by_id.labels.tolist()) == (["9", "10", "11"], [0, 1, 2, 0])
    assert open_pool(str(tmp_path / "j")).labels is None


def test_a_sample_without_a_usable_label_is_counted_as_unreadable(tmp_path: Path) -> None:
    contents = [b'{"label": 1}', b'{"label": 0}', b"{", b'{"other": 1}', b'{"label": null}', b'{"label": 1}']
    write_shard(tmp_path / "0.tar", [f"k{i}" for i in range(6)], json=lambda i: contents[i])
    source = open_labeled(str(tmp_path / "0.tar"))
    assert len(source.names) == 3
    decoded = decode(source, SMALL, 0.5)
    assert [s.path for s in decoded.skipped] == [f"{tmp_path}/0.tar/k{i}.png" for i in (2, 3, 4)]
    assert ["cannot be read" in decoded.skipped[0].reason, "no key label" in decoded.skipped[1].reason] == [True, True]
    with pytest.raises(DataError, match=r"3 of 6 images cannot be read, more than data\.max_skipped \(0\.4\)"):
        decode(source, SMALL, 0.4)


def damage_image(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = offset_of(path, "0002.png")[1]
    content[start : start + 60] = os.urandom(60)
    path.write_bytes(content)


def cut_inside_the_last(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: offset_of(path, "0005.png")[1] + 100])


def damage_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start, stop = offset_of(path, "0003.png")  # with the extended header before it
    content[start:stop] = os.urandom(stop - start)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left", "member", "reason"),
    [
        (damage_image, [0, 1, 3, 4, 5], "0002.png", "not an image"),
        (cut_inside_the_last, [0, 1, 2, 3, 4], "0005.png", "the shard ends inside it"),
        (damage_header, [0, 1, 2, 4, 5], "(after 0002.png)", "no tar header"),
    ],
)
def test_a_damaged_member_is_skipped_counted_and_listed_with_its_shard(
    tmp_path: Path, damage: Any, left: list[int], member: str, reason: str
) -> None:
    write_shards(tmp_path / "pool", shards=2)
    for path in tmp_path.glob("pool/*.tar"):  # the image alone in the last sample, so that the cut is inside it
        write_shard(path, [f"{path.stem[-1]}{i:03}" for i in range(6)])
    damage(tmp_path / "pool/train-000.tar")
    class_folders(tmp_path / "photos", {"a": 20, "b": 20})
    data = {"labeled": str(tmp_path / "photos"), "pool": f"{tmp_path}/pool/train-{{000..001}}.tar", "image_size": 8}
    for stream in (True, False):
        splits = load_splits(DataConfig(**data, max_skipped=0.1, stream=stream))
        kept = [n for n in splits.pool.names if n.startswith("train-000")]
        assert sorted(kept) == [f"train-000.tar/0{i:03}.png" for i in left]
        assert len(splits.pool) == 11
        (skipped,) = splits.skipped
        assert skipped.path == f"{tmp_path}/pool/train-000.tar/{member}"
        assert reason in skipped.reason
        write_splits(splits, tmp_path / "out")
        with open(tmp_path / "out/skipped.csv", newline="") as stream_:
            assert [row["file"] for row in csv.DictReader(stream_)] == [skipped.path]
    with pytest.raises(DataError, match=r"1 of 12 images cannot be read, more than data\.max_skipped \(0\.05\)"):
        load_splits(DataConfig(**data, max_skipped=0.05))


def test_a_shard_that_is_cut_between_two_members_is_noted(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.tar", ["a", "b", "c"])
    path.write_bytes(path.read_bytes()[: offset_of(path, "c.png")[0]])
    source = open_pool(str(path))
    assert source.names == ["0.tar/a.png", "0.tar/b.png"]
    assert source.notes == ["0.tar has no end mark: it may be truncated, and samples at its end may be lost"]


def test_concatenated_archives_are_read_whole(tmp_path: Path) -> None:
    a, b = write_shard(tmp_path / "a.tar", ["a"]), write_shard(tmp_path / "b.tar", ["b"])
    both = tmp_path / "both.tar"
    both.write_bytes(a.read_bytes() + b.read_bytes())
    source = open_pool(str(both))
    assert (source.names, source.lost, source.notes) == (["both.tar/a.png", "both.tar/b.png"], [], [])


def test_a_shard_is_scanned_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "s")
    first = open_labeled(str(tmp_path / "s"))
    scanned: list[str] = []
    real = tarfile.open

    def counted(*args: Any, **kwargs: Any) -> tarfile.TarFile:
        scanned.append(kwargs["fileobj"].name)
        return real(*args, **kwargs)

    monkeypatch.setattr(tarfile, "open", counted)
    again = open_labeled(str(tmp_path / "s"))
    assert scanned == []
    assert (again.names, again.stamp, again.classes) == (first.names, first.stamp, first.classes)
    os.utime(tmp_path / "s/train-001.tar", ns=(1, 1))
    open_labeled(str(tmp_path / "s"))
    assert [Path(name).name for name in scanned] == ["train-001.tar"]
    open_labeled(str(tmp_path / "s"), data=DataConfig(label_column="other"))
    assert len(scanned) == 4  # the labels may be others


def test_a_damaged_index_in_the_cache_is_made_again(tmp_path: Path, cache: Path) -> None:
    write_shards(tmp_path / "s", shards=1)
    first = open_pool(str(tmp_path / "s"))
    (entry,) = (cache / "shards").iterdir()
    for content in (b"", b"{}x", json.dumps({"nothing": 1}).encode(), b"[]"):
        entry.write_bytes(content)
        assert open_pool(str(tmp_path / "s")).names == first.names


def test_a_test_image_in_a_shard_leaves_the_pool_decoded_or_streamed(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", {"a": 20, "b": 20})
    data = {"labeled": str(tmp_path / "photos"), "image_size": 8}
    test = load_splits(DataConfig(**data)).test.names
    with wds.TarWriter(str(tmp_path / "pool.tar")) as writer:
        for i in range(9):
            writer.write({"__key__": f"{i}", "png": png(f"pool {i}")})
        for i, name in enumerate(test[:2]):
            writer.write(
                {
                    "__key__": f"leak{i}",
                    "bmp": save(tmp_path / f"{i}.bmp", read_image(tmp_path / "photos" / name)).read_bytes(),
                }
            )
    pools = [
        load_splits(DataConfig(**data, pool=str(tmp_path / "pool.tar"), stream=stream)) for stream in (False, True)
    ]
    for splits in pools:
        assert len(splits.pool) == 9
        assert "took 2 images out of the pool: also in the test set" in splits.notes
    assert pools[0].pool.digest == pools[1].pool.digest


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("s/train-{000..004}.tar", r"no such file: .*train-003\.tar \(and 1 more\)"),
        ("s/train-{000..004.tar", r"no such file|unbalanced braces"),
        ("s/nothing-*.tar", r"no such file"),
        ("nothing.tar", r"no such file"),
        ("packed.tar.gz", r"compressed archive"),
        ("secretly.tar", r"not a tar archive"),
        ("empty.tar", r"is empty, or not a tar archive"),
        ("noise.tar", r"not a tar archive"),
        ("{s/train-000.tar,table.parquet}", r"all files must be \.tar, or all \.parquet"),
        ("https://example.org/train.tar", r"not a path on this machine"),
        ("pipe:cat train.tar", r"not a path on this machine"),
        ("texts.tar", r"hold no usable image"),
        ("one.tar", r"holds only one class \(7\)"),
        ("mixed.tar", r"some labels are numbers \(0\), others names \(cat\)"),
    ],
)
def test_shards_of_no_use_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(Path("s"))
    content = Path("s/train-000.tar").read_bytes()
    Path("packed.tar.gz").write_bytes(gzip.compress(content))
    Path("secretly.tar").write_bytes(gzip.compress(content))
    Path("empty.tar").write_bytes(bytes(10240))
    Path("noise.tar").write_bytes(os.urandom(20000))
    Path("table.parquet").write_bytes(b"PAR1")
    with wds.TarWriter("texts.tar") as writer:
        writer.write({"__key__": "a", "txt": b"x"})
    write_shard(Path("one.tar"), ["a", "b"], cls=lambda i: b"7")
    write_shard(Path("mixed.tar"), ["a", "b"], cls=lambda i: [b"0", b"cat"][i])
    with pytest.raises(DataError, match=message) as caught:
        open_labeled(where, "data.labeled")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_class_names_that_do_not_cover_the_labels_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "s")
    names = tmp_path / "classes.txt"
    names.write_text("cat\n")
    with pytest.raises(DataError, match="no name for the label 1"):
        open_labeled(str(tmp_path / "s"), data=DataConfig(class_names=str(names)))
    names.write_text("crane\ncrane\nmaillot\n")  # as ImageNet's lists have two of each
    assert open_labeled(str(tmp_path / "s"), data=DataConfig(class_names=str(names))).classes[:2] == [
        "crane",
        "crane (2)",
    ]
    with pytest.raises(DataError, match=r"data\.class_names: .*nope\.txt: cannot be read"):
        open_labeled(str(tmp_path / "s"), data=DataConfig(class_names=str(tmp_path / "nope.txt")))


def test_many_shards_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    write_shards(tmp_path / "s", shards=90, samples=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 75, before[1]))
    try:
        assert decode(open_pool(str(tmp_path / "s")), SMALL, 0).skipped == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
