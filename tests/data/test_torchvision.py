"""torchvision's sets: small ones written in the original files' formats, read by torchvision's own readers."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import recipe as recipes
from edgekit.data.decode import decode
from edgekit.data.sources import open_labeled, open_pool
from edgekit.data.splits import load_splits
from edgekit.errors import DataError
from edgekit.preprocess import Preprocessing
from edgekit.recipe import DataConfig
from tests.helpers.image_folders import picture, save

datasets = pytest.importorskip("torchvision.datasets")
Patch = pytest.MonkeyPatch
ANIMALS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "torchvision"
    folder.mkdir(parents=True)
    return folder


def pictures(count: int, seed: str, side: int = 32) -> np.ndarray:
    """(count, side, side, 3) uint8, every one another."""
    return np.stack([np.asarray(picture(f"{seed} {i}", side, side)) for i in range(count)])


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, monkeypatch: Patch, kind: Any, batches: dict[str, tuple[np.ndarray, list[int]]]) -> None:
    """CIFAR's python batches: pickled dictionaries of planar rows. torchvision's list of MD5 sums is told ours."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    for name, (images, labels) in batches.items():
        content = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), key: labels}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = ANIMALS if kind is datasets.CIFAR10 else [f"thing {i}" for i in range(100)]
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: names}, protocol=2))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[name, md5(folder / name)] for name, _ in getattr(kind, part)])


def cifar10(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    train, test = pictures(50, "train"), pictures(20, "test")
    labels = {"train": [i % 10 for i in range(50)], "test": [i % 10 for i in range(20)]}
    batches = {f"data_batch_{b + 1}": (train[b * 10 :][:10], labels["train"][b * 10 :][:10]) for b in range(5)}
    write_cifar(root, monkeypatch, datasets.CIFAR10, batches | {"test_batch": (test, labels["test"])})
    return {"train": (train, labels["train"]), "test": (test, labels["test"])}


def cifar100(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    train, test = (pictures(4, "a"), [7, 99, 7, 0]), (pictures(2, "b"), [1, 99])
    write_cifar(root, monkeypatch, datasets.CIFAR100, {"train": train, "test": test})
    return {"train": train, "test": test}


def idx(name: str) -> Callable[[Path, Patch], dict[str, tuple[np.ndarray, list[int]]]]:
    """MNIST's idx files: a big-endian header and bytes."""

    def write(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
        (root / name / "raw").mkdir(parents=True)
        made = {}
        for split, prefix, count in (("train", "train", 20), ("test", "t10k", 10)):
            gray = pictures(count, f"{name} {split}", 28)[..., 0]
            labels = [i % 10 for i in range(count)]
            folder = root / name / "raw"
            header = struct.pack(">IIII", 0x0803, count, 28, 28)
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + gray.tobytes())
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, count) + bytes(labels))
            made[split] = (np.repeat(gray[..., None], 3, axis=3), labels)
        return made

    return write


def stl10(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    """STL-10's binary files: planar, column by column; labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    made, sums = {}, {}
    for split, count in (("train", 10), ("test", 10), ("unlabeled", 5)):
        images, labels = pictures(count, split, 96), [i % 10 for i in range(count)]
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
        made[split] = (images, labels)
    (folder / "class_names.txt").write_text("\n".join(ANIMALS))
    (folder / "fold_indices.txt").write_text("0\n")
    sums = {path.name: md5(path) for path in folder.iterdir()}
    lists = {
        name: [[file, sums[file]] for file, _ in getattr(datasets.STL10, name)] for name in ("train_list", "test_list")
    }
    for name, files in lists.items():
        monkeypatch.setattr(datasets.STL10, name, files)
    return made


def svhn(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    """SVHN's MATLAB files; the digit 0 is the label 10."""
    from scipy.io import savemat

    made, listed = {}, {}
    for split in ("train", "test"):
        images, labels = pictures(20, split), [i % 10 for i in range(20)]
        path = root / f"{split}_32x32.mat"
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[label or 10] for label in labels])})
        made[split] = (images, labels)
        listed[split] = [datasets.SVHN.split_list[split][0], path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **listed})
    return made


def food101(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    made = {}
    (root / "food-101/meta").mkdir(parents=True)
    for split in ("train", "test"):
        listed: dict[str, list[str]] = {"apple_pie": [], "waffles": []}
        for i in range(4):
            name = f"{['apple_pie', 'waffles'][i % 2]}/{split}{i}"
            save(root / f"food-101/images/{name}.jpg", picture(name, 20, 20), quality=100)
            listed[Path(name).parent.name].append(name)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))
        made[split] = (np.zeros(0), [0, 0, 1, 1])
    return made


def eurosat(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    for name in ("Forest", "River"):
        for i in range(3):
            save(root / f"eurosat/2750/{name}/{name}_{i}.jpg")
    return {"train": (np.zeros(0), [0, 0, 0, 1, 1, 1])}


def imagenette(root: Path, monkeypatch: Patch) -> dict[str, tuple[np.ndarray, list[int]]]:
    for split in ("train", "val"):
        for code in ("n01440764", "n02102040"):
            save(root / f"imagenette2/{split}/{code}/{split}.JPEG")
    return {"train": (np.zeros(0), [0, 1]), "test": (np.zeros(0), [0, 1])}


SETS = {
    "CIFAR10": cifar10, "CIFAR100": cifar100, "MNIST": idx("MNIST"), "FashionMNIST": idx("FashionMNIST"), "KMNIST": idx("KMNIST"),
    "STL10": stl10, "SVHN": svhn, "Food101": food101, "EuroSAT": eurosat, "Imagenette": imagenette,
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_in_its_official_splits(name: str, root: Path, monkeypatch: Patch) -> None:
    for split, (images, labels) in SETS[name](root, monkeypatch).items():
        where = f"torchvision:{name}:{split}"
        source = open_pool(where) if split == "unlabeled" else open_labeled(where)
        if split != "unlabeled":
            assert source.labels is not None
            assert source.labels.tolist() == labels
            assert len(source.classes) > max(labels)
        side = images.shape[1] if len(images) else 12
        decoded = decode(source, Preprocessing(image_size=side, resize_to=side), 0)
        assert len(decoded.images) == len(labels) == len(set(decoded.digests))
        if len(images):
            assert np.array_equal(decoded.images, images)


def test_every_set_that_is_offered_is_tested() -> None:
    from edgekit.data.torchvision_sets import _SETS

    assert set(SETS) == set(_SETS)


def test_a_recipe_trains_on_the_training_split_and_tests_on_the_test_split(root: Path, monkeypatch: Patch) -> None:
    made = cifar10(root, monkeypatch)
    recipe = recipes.parse(
        {"name": "c", "data": {"labeled": "torchvision:CIFAR10", "labels": 2, "pool": "torchvision:CIFAR10"}}
    )
    assert recipe.data.test == "torchvision:CIFAR10"
    splits = load_splits(recipe.data)
    assert splits.classes == ANIMALS
    assert np.array_equal(splits.test.images, made["test"][0])
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == made["test"][1]
    assert len(splits.pool) + len(splits.probe) == 50
    assert all(name.startswith("train/") for name in splits.pool.names)
    share = recipes.parse({"name": "c", "data": {"labeled": "torchvision:CIFAR10", "labels": 2, "test": 0.2}})
    assert len(load_splits(share.data).test) == 10


def test_a_changed_batch_is_refused_before_it_is_unpickled(root: Path, monkeypatch: Patch) -> None:
    cifar10(root, monkeypatch)

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (root / "harm",))

    (root / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(Harm(), protocol=2))
    with pytest.raises(DataError, match=r"torchvision:CIFAR10: cannot be read from .*corrupted"):
        open_labeled("torchvision:CIFAR10")
    assert not (root / "harm").exists()


@pytest.mark.parametrize(
    ("where", "data", "message", "hint"),
    [
        ("torchvision:CIFAR10", {}, r"not found or corrupted", r"put cifar-10-batches-py/ .* into .*torchvision, .*data\.download"),
        ("torchvision:CIFAR10", {"torchvision_root": "elsewhere"}, r"cannot be read from elsewhere", r"into elsewhere"),
        ("torchvision:CIFAR1O", {}, r"no set of this name", r"did you mean CIFAR10"),
        ("torchvision:Nonsense", {}, r"no set of this name", r"it reads CIFAR10, .* as a folder"),
        ("torchvision:CIFAR10:val", {}, r"CIFAR10 has no split val", r"train, test"),
        ("torchvision:EuroSAT:test", {}, r"EuroSAT has no split test", r"set data\.test to a share"),
        ("torchvision:STL10:unlabeled", {}, r"the split unlabeled has no labels", r"data\.pool"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_clear_line(
    where: str, data: dict[str, Any], message: str, hint: str, root: Path, monkeypatch: Patch
) -> None:
    if "STL10" in where:
        stl10(root, monkeypatch)
    with pytest.raises(DataError, match=message) as caught:
        open_labeled(where, "data.labeled", DataConfig(**data))
    assert re.search(hint, caught.value.hint)
    assert "\n" not in str(caught.value)


def test_a_download_is_only_tried_when_asked_for_and_its_failure_is_one_clear_line(
    root: Path, monkeypatch: Patch
) -> None:
    asked: list[str] = []

    def no_network(url: str, *args: Any, **kwargs: Any) -> None:
        asked.append(url)
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(DataError):
        open_labeled("torchvision:CIFAR10")
    assert asked == []
    with pytest.raises(DataError, match="network is unreachable") as caught:
        open_labeled("torchvision:CIFAR10", data=DataConfig(download=True))
    assert asked == [datasets.CIFAR10.url]
    assert "check the network, or put cifar-10-batches-py/" in caught.value.hint
