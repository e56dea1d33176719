"""Streaming: the batches of a pool that is decoded while training are those of one that was decoded before."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data import decode as decoding
from edgekit.data.decode import decode
from edgekit.data.images import ImageSet
from edgekit.data.lazy import LazyPixels
from edgekit.data.sources import open_pool
from edgekit.data.splits import Splits, load_splits
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import class_folders, picture, save

pytest.importorskip("torch")

from edgekit.train import loader, streaming
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.streaming import StreamedImages, shuffled
from edgekit.train.stages.training_tasks import Batch

SMALL = Preprocessing(image_size=8, resize_to=9)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    class_folders(tmp_path / "photos", {"cat": 30, "dog": 30})
    save(tmp_path / "photos/cat/bad.png").write_bytes(b"x")
    return tmp_path / "photos"


def load(photos: Path, **keys: object) -> Splits:
    return load_splits(DataConfig(**{"labeled": str(photos), "image_size": 8, "labels": 5, "max_skipped": 0.1, **keys}))


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)  # type: ignore[literal-required]


def test_lazy_pixels_read_like_the_array(photos: Path) -> None:
    source = open_pool(str(photos))
    array = decode(source, SMALL, 1).images
    lazy = decode(source, SMALL, 1, stream=True).images
    assert isinstance(lazy, LazyPixels)
    assert (lazy.shape, lazy.dtype, lazy.ndim, len(lazy)) == (array.shape, array.dtype, 4, 61)
    good = np.flatnonzero([n != "cat/bad.png" for n in source.names])
    mask = np.zeros(61, dtype=bool)
    mask[[2, 5, 50]] = True
    assert source.names[30] == "cat/bad.png"
    for index in (0, -1, slice(31, 40), slice(0, 30, 7), good[::-1], mask, [3, 1], np.zeros(0, dtype=np.int64)):
        assert np.array_equal(lazy[index], array[index]), index
    some = lazy.subset(good[5:9])
    assert np.array_equal(some[:], array[good[5:9]])
    assert np.array_equal(np.asarray(some), array[good[5:9]])
    assert np.array_equal(lazy.center_crop(4)[:3], array[:3, 2:6, 2:6])


@pytest.mark.parametrize("keys", [{}, {"pool": "pool"}, {"labels": 1.0}, {"fit": "stretch"}, {"resize_to": 12}])
def test_a_streamed_recipe_has_the_same_sets(photos: Path, tmp_path: Path, keys: dict[str, object]) -> None:
    if "pool" in keys:
        shutil.copytree(photos, tmp_path / "pool")
        save(tmp_path / "pool/new.png")
        keys = {"pool": str(tmp_path / "pool")}
    kept, streamed = load(photos, **keys), load(photos, **keys, stream=True)
    for name in ("pool", "labeled", "probe", "test"):
        a, b = getattr(kept, name), getattr(streamed, name)
        assert (a.names, a.digests, a.digest) == (b.names, b.digests, b.digest), name
        assert np.array_equal(a.images, b.images[:]), name
        assert isinstance(b.images, LazyPixels) == (name == "pool" and "labels" not in keys)
        assert (a.labels is None) == (b.labels is None)
    assert kept.skipped == streamed.skipped
    assert kept.notes == streamed.notes


def test_the_index_is_kept_and_the_pixels_are_not(photos: Path, cache: Path) -> None:
    first = decode(open_pool(str(photos)), SMALL, 1, stream=True)
    assert not (cache / "images").exists()
    assert [s.path for s in first.skipped] == [f"{photos}/cat/bad.png"]

    def fail(i: int) -> Image.Image:
        raise AssertionError("nothing is to be decoded again")

    again = decode(replace(open_pool(str(photos)), read=fail), SMALL, 1, stream=True)
    assert (again.digests, again.skipped) == (first.digests, first.skipped)


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 13])
def test_streamed_batches_are_those_of_the_memory_from_any_step(photos: Path, start: int) -> None:
    kept, streamed = (load(photos, probe=0, stream=s) for s in (False, True))
    a, b = shuffled(kept.pool, 8, seed=3), shuffled(streamed.pool, 8, seed=3)
    assert type(a) is ShuffledImages
    assert type(b) is StreamedImages
    assert a.steps == b.steps == 6
    for x, y in islice(zip(a.stream(start), b.stream(start), strict=False), 9):
        assert same(x, y)


def test_labels_come_with_streamed_images(photos: Path) -> None:
    pool = load(photos, stream=True).pool
    labels = np.arange(len(pool)) % 2
    named = ImageSet(pool.images, pool.names, pool.digests, labels)
    batch = next(iter(shuffled(named, 8, seed=0).stream(2)))
    assert (batch["labels"].numpy() == labels[batch["index"].numpy()]).all()


def test_processes_share_each_batch_without_overlap(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = load(photos, stream=True).pool
    whole = [b["index"].tolist() for b in islice(shuffled(pool, 8, seed=0).stream(3), 5)]
    parts = []
    for rank in range(4):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        for module in (loader, streaming):
            monkeypatch.setattr(module, "world_size", lambda: 4)
        parts.append([b["index"].tolist() for b in islice(shuffled(pool, 8, seed=0).stream(3), 5)])
    assert all(len(share) == 2 for part in parts for share in part)
    assert [sorted(chain.from_iterable(shares)) for shares in zip(*parts, strict=True)] == whole


def test_what_is_decoded_ahead_is_bounded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = load(photos, stream=True).pool
    assert isinstance(pool.images, LazyPixels)
    monkeypatch.setattr(streaming, "_BUFFER_BYTES", 3 * 8 * 8 * 8 * 3)  # three batches of 8 images of 8x8 pixels
    decoded, lock, real = [0], threading.Lock(), pool.images.source.read

    def counted(i: int) -> Image.Image:
        with lock:
            decoded[0] += 1
        return real(i)

    object.__setattr__(pool.images.source, "read", counted)
    stream = shuffled(pool, 8, seed=0).stream(0)
    for taken in (1, 2, 3):
        next(stream)
        assert 8 * taken <= decoded[0] <= 8 * (taken + 2)


def first_name(stream: Iterator[Batch], images: ImageSet) -> str:
    return images.names[int(next(stream)["index"][0])]


@pytest.mark.parametrize("change", ["vanished", "other pixels", "damaged"])
def test_a_file_that_changes_while_it_is_streamed_is_one_clear_line(photos: Path, change: str) -> None:
    pool = load(photos, stream=True).pool
    path = photos / first_name(shuffled(pool, 16, seed=0).stream(0), pool)
    before = path.read_bytes()
    if change == "vanished":
        path.unlink()
    elif change == "damaged":
        path.write_bytes(before[:50])
    else:
        save(path, picture("another"))
    with pytest.raises(DataError, match=rf"{path}: changed while it was in use: \S+") as caught:
        next(shuffled(pool, 16, seed=0).stream(0))
    assert "repeat the command, which goes on from the last checkpoint" in caught.value.hint
    assert "\n" not in str(caught.value)
    path.write_bytes(before)  # put back, with another time: the pixels are what counts
    next(shuffled(pool, 16, seed=0).stream(0))


def test_a_shard_that_changes_while_it_is_streamed_is_one_clear_line(tmp_path: Path, photos: Path) -> None:
    import tarfile

    path = tmp_path / "pool.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(20):
            archive.add(save(tmp_path / f"{i:02}.png", picture(f"in {i}")), arcname=f"{i:02}.png")
    splits = load(photos, pool=str(path), stream=True)
    content = path.read_bytes()
    for changed in (content[:3000], bytes(len(content)), content[512:]):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"pool\.tar/\d\d\.png: changed while it was in use"):
            next(shuffled(splits.pool, 20, seed=0).stream(0))
    path.write_bytes(content)
    next(shuffled(splits.pool, 20, seed=0).stream(0))


def test_auto_streams_only_what_neither_disk_nor_memory_holds(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = open_pool(str(photos))
    assert isinstance(decode(source, SMALL, 1, stream="auto").images, np.ndarray)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "other"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 500))
    in_memory = decode(source, SMALL, 1, stream="auto")
    assert isinstance(in_memory.images, np.ndarray)
    assert "kept in memory" in in_memory.notes[0]
    machine = decoding.this_machine().model_copy(update={"memory_bytes": 20_000})
    monkeypatch.setattr(decoding, "this_machine", lambda: machine)
    streamed = decode(source, SMALL, 1, stream="auto")
    assert isinstance(streamed.images, LazyPixels)
    assert "12 kB decoded, are streamed" in streamed.notes[0]
    with pytest.raises(
        DataError,
        match=r"its 61 images need 12 kB, but .*other/images has 500 bytes free, and half of the memory is 10 kB",
    ):
        decode(source, SMALL, 1, stream=False)


def test_a_large_label_budget_is_streamed_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.data.splits._MANY_BYTES", 1000)
    kept, streamed = load(photos, labels=1.0, probe=0), load(photos, labels=1.0, probe=0, stream=True)
    assert isinstance(streamed.labeled.images, LazyPixels)
    assert streamed.labeled.digest == kept.labeled.digest
    assert np.array_equal(streamed.labeled.center_crop(8).images[:], kept.labeled.center_crop(8).images)
    a, b = (next(shuffled(s.labeled, 8, seed=1).stream(4)) for s in (kept, streamed))
    assert same(a, b)


def test_the_recipe_takes_true_false_and_auto() -> None:
    assert [DataConfig(stream=s).stream for s in (True, False, "auto")] == [True, False, "auto"]
    for wrong in ("yes please", 2, None):
        with pytest.raises(ValueError, match="stream"):
            DataConfig(stream=wrong)  # type: ignore[arg-type]


def test_threads_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "usable_cpus", lambda: 16)
    assert streaming._threads() == 16 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert streaming._threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert streaming._threads() == 1
