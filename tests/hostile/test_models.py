"""Models, weights and checkpoints that somebody damaged or forged: one line each, nothing built that is out of all proportion."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgekit.errors import EdgekitError, RecipeError, RunError
from edgekit.foreign import Unreadable
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier, save_classifier
from edgekit.models.weight_files import read_safetensors, read_weights
from edgekit.models.weights import load_weights
from edgekit.recipe import Architecture
from edgekit.train.loop.checkpoint import read_checkpoint
from tests.helpers import hostile


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_classifier(tmp_path, Classifier.build(Architecture(name="resnet10", width=0.125), 16, ["a", "b"], [8]))
    return tmp_path


def test_changed_files_of_a_model_are_refused_or_right(model: Path) -> None:
    draws, refused = random.Random(5), 0
    originals = {path: path.read_bytes() for path in sorted(model.iterdir())}
    for path, original in originals.items():
        for _ in range(60):
            changed = hostile.damaged(draws, original)
            if path.suffix == ".json" and draws.random() < 0.8:
                changed = json.dumps(hostile.value(draws, json.loads(original))).encode()
            path.write_bytes(changed)
            refused += _refused(lambda: load_classifier(model))
        path.write_bytes(original)
    assert refused > 80
    load_classifier(model)


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except EdgekitError as error:
        lines = [str(error)]
    else:
        return False
    assert len(lines[0]) < 900
    assert "\n" not in lines[0]
    assert "weights_only" not in lines[0]
    return True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture.width", 1e6), ("architecture.patch_size", 1 << 40), ("image_size", 1 << 30), ("image_size", -1), ("kept_widths", [1 << 40]),
        ("kept_widths", [8] * 1000), ("classes", []), ("classes", "ab"), ("architecture.name", 7), ("architecture.name", "os:system"),
        ("architecture.name", "/etc/passwd"), ("kind", "pretrained"), ("kind", ["x"]), ("architecture", None), ("classes", [1, 2]),
    ],
)  # fmt: skip
def test_a_description_out_of_bounds_is_refused_before_anything_is_built(key: str, value: Any, model: Path) -> None:
    content = json.loads((model / "model.json").read_text())
    first, _, second = key.partition(".")
    (content[first] if second else content)[second or first] = value
    (model / "model.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"model\.json") as refused:
        load_classifier(model)
    assert "\n" not in str(refused.value)


def _tar(path: Path) -> None:
    """What torch.save wrote before version 0.1."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def _more_than_weights(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "hook": collections.Counter}, path)


def _old(path: Path) -> None:
    torch.save({"w": torch.zeros(3), "hook": random.Random}, path, _use_new_zipfile_serialization=False)


def _damaged_pickle(path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(8)}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:-9] + b"\xff" * 9 if name.endswith(".pkl") else content)


FORGED: dict[str, Callable[[Path], object]] = {
    "tar": _tar,
    "more than weights": _more_than_weights,
    "old form": _old,
    "damaged pickle": _damaged_pickle,
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({"hook": random.Random})),
    "list": lambda path: torch.save([1, 2], path),
    "number": lambda path: torch.save(7, path),
    "text": lambda path: path.write_text("no weights"),
    "nothing": lambda path: path.write_bytes(b""),
    "a .npz": lambda path: path.write_bytes(hostile.npz(w=hostile.npy("{}"))),
    "safetensors that claims 2**60 bytes": lambda path: path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_file_that_holds_no_weights_is_one_line_and_no_advice_to_run_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    FORGED[name](path)
    with pytest.raises(RecipeError) as refused:
        load_weights(torch.nn.Linear(2, 2), str(path), "--weights", "mine")
    with pytest.raises(RunError, match="damaged checkpoint") as damaged:
        read_checkpoint(path)
    for line in (str(refused.value), str(damaged.value)):
        assert str(path) in line
        assert "\n" not in line
        assert len(line) < 600
        assert "weights_only" not in line
        assert "trust" not in line


def _checkpoint(**changes: Any) -> dict[str, Any]:
    content = {
        "state_dict": {"w": torch.zeros(2)}, "optimizer_states": [], "lr_schedulers": [], "loops": {}, "callbacks": {}, "epoch": 1,
        "global_step": 5,
    }  # fmt: skip
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "content",
    [
        [1], "text", {}, _checkpoint(global_step=-5), _checkpoint(global_step=True), _checkpoint(global_step="5"), _checkpoint(epoch=None),
        _checkpoint(state_dict=None), _checkpoint(state_dict=[torch.zeros(1)]), _checkpoint(optimizer_states={}), _checkpoint(loops=[]),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_form_is_one_line(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(RunError, match=r"last\.ckpt: damaged checkpoint: .*(it holds|global_step)") as refused:
        read_checkpoint(tmp_path / "last.ckpt")
    assert "\n" not in str(refused.value)
    torch.save(_checkpoint(), tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 5


def test_changed_checkpoints_are_refused_or_right(tmp_path: Path) -> None:
    path, draws = tmp_path / "last.ckpt", random.Random(2)
    torch.save(_checkpoint(), path)
    original = path.read_bytes()
    refused = 0
    for _ in range(80):
        path.write_bytes(hostile.damaged(draws, original))
        refused += _refused(lambda: read_checkpoint(path))
        _refused(lambda: load_weights(torch.nn.Linear(2, 2), str(path), "--weights", "mine"))
    assert refused > 60


def test_huge_files_that_hold_no_weights_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = safetensors.torch.save({"a": torch.zeros(3)})
    read = count_bytes_read(monkeypatch)
    for content, size in ((good, 1 << 33), (good[:-1], None), ((1 << 40).to_bytes(8, "little") + good[8:], None)):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        if size is not None:
            os.truncate(path, size)  # a hole: it takes no room on the disk
        with pytest.raises(Unreadable, match=r"weights\.safetensors: not safetensors"):
            read_weights(path)
        with pytest.raises(Unreadable, match=r"weights\.safetensors: not safetensors"):
            read_safetensors(path)
    for start in (b"", b"GGUF", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"):  # other formats, and files that are holes alone
        path.write_bytes(start)
        os.truncate(path, 1 << 33)
        with pytest.raises(Unreadable, match=r"weights\.safetensors: "):
            read_weights(path)
        with pytest.raises(Unreadable, match=r"weights\.safetensors: not safetensors"):
            read_safetensors(path)
    assert read() < 1 << 20
    path.write_bytes(good)
    assert read_weights(path).value.keys() == read_safetensors(path).value.keys() == {"a"}


def count_bytes_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bytes `hashlib.sha256` was given: what is copied is digested."""
    sizes: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self.digest = hashlib.new("sha256")

        def update(self, block: bytes) -> None:
            sizes.append(len(block))
            self.digest.update(block)

        def hexdigest(self) -> str:
            return self.digest.hexdigest()

    monkeypatch.setattr("edgekit.foreign.hashlib.sha256", Counting)
    return lambda: sum(sizes)
