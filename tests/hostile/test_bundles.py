"""Bundles that somebody damaged or forged: one line each, nothing proved, nothing extracted, nothing half done."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench.golden import prove
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import BundleError, EdgekitError
from edgekit.export import pack
from edgekit.runtimes import load
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import hostile
from tests.helpers.tiny_bundle import make_bundle

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder, openvino=False)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_DEBUG", "")
    return tmp_path / "cache"


def with_golden(original: Path, folder: Path, content: bytes) -> Path:
    """A copy whose golden file holds `content`, its digest made right."""
    shutil.copytree(original, folder)
    (folder / "golden.npz").write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["golden"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def arrays(original: Path) -> dict[str, np.ndarray]:
    with np.load(original / "golden.npz") as archive:
        return dict(archive)


def saved(compressed: bool = False, **content: np.ndarray) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **content)
    return stream.getvalue()


def golden_of(name: str, original: Path) -> bytes:
    good = arrays(original)
    images, logits = good["images"], good["logits"]
    one = logits.copy()
    one[3, 2] = np.nan
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    return {
        "nan": lambda: saved(images=images, logits=np.full_like(logits, np.nan)),
        "inf": lambda: saved(images=images, logits=np.full_like(logits, np.inf)),
        "one nan": lambda: saved(images=images, logits=one),
        "deflate": lambda: flipped(saved(compressed=True, **good)),
        "without logits": lambda: saved(images=images),
        "70 TiB": lambda: hostile.npz(images=hostile.npy(header % (70 << 40)), logits=b""),
        # What a machine that overcommits its memory would give.
        "60 GiB": lambda: hostile.npz(images=hostile.npy(header % (60 << 30), b"x" * 100), logits=b""),
        "code in a header": lambda: hostile.npz(images=hostile.npy("__import__('os').abort()"), logits=b""),
        "no arrays": lambda: hostile.npz(images=b"not an array", logits=b"neither"),
        "objects": lambda: saved(images=np.array([{}], dtype=object), logits=logits),
        "bomb": lambda: claiming(hostile.npz(images=b"x" * 100, logits=b"y"), 2 << 30),
        "lzma": lambda: flipped(hostile.npz(zipfile.ZIP_LZMA, images=b"x" * 5000, logits=b"y" * 5000), 60),
        "nothing": lambda: b"",
    }[name]()


def flipped(content: bytes, at: int | None = None) -> bytes:
    at = len(content) // 2 if at is None else at
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


def claiming(archive: bytes, size: int) -> bytes:
    """An archive that says of its first member that it unpacks to that many bytes."""
    at = archive.index(b"PK\x01\x02") + 24
    return archive[:at] + size.to_bytes(4, "little") + archive[at + 4 :]


GOLDEN = {
    "nan": "its golden logits are not finite, so no variant can be checked",
    "inf": "its golden logits are not finite",
    "one nan": "its golden logits are not finite",
    "deflate": "not golden tensors",
    "without logits": "not golden tensors: has no array named logits",
    "70 TiB": "not golden tensors",
    "60 GiB": "not golden tensors",
    "code in a header": "not golden tensors",
    "no arrays": "not golden tensors: images in it is not an array",
    "objects": "not golden tensors",
    "bomb": "not golden tensors: unpacks to 2,147,483",
    "lzma": "not golden tensors",
    "nothing": "not golden tensors",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_tensors_that_prove_nothing_are_refused(name: str, original: Path, tmp_path: Path) -> None:
    folder = with_golden(original, tmp_path / "changed", golden_of(name, original))
    with pytest.raises(BundleError) as refused:
        Bundle.open(folder).golden_outputs()
    assert GOLDEN[name] in str(refused.value)
    assert str(folder / "golden.npz") in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", ["nan", "deflate", "no arrays"])
@pytest.mark.parametrize("command", ["doctor", "bench"])
def test_the_commands_say_so_in_one_line(
    edgekit: Command, command: str, name: str, original: Path, tmp_path: Path
) -> None:
    folder = with_golden(original, tmp_path / "changed", golden_of(name, original))
    more = ["--quick"] if command == "bench" else []
    code, out, err = edgekit(command, folder, *more)
    assert code == 2, out + err
    assert len([line for line in (out + err).splitlines() if "golden.npz" in line]) == 1
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert "internal error" not in out + err


def test_a_huge_logit_does_not_let_other_classes_pass(original: Path, tmp_path: Path) -> None:
    """The tolerance is a share of the largest golden value: who forges one would have every answer within it."""
    bundle = Bundle.open(original)
    variant = bundle.variant("onnx-fp32")
    session = load(bundle, variant)
    golden = bundle.golden_outputs()
    proof = prove(session, variant, golden, 12, CLASSIFICATION)
    assert proof.agreement == 1.0
    forged = golden["logits"].copy()
    other = (forged.argmax(1) + 1) % forged.shape[1]
    forged[np.arange(len(forged)), other] = forged.max(1) + 1  # other classes than the model says
    forged[0, forged[0].argmin()] = -1e9
    with pytest.raises(BundleError, match="outputs differ from the trained model's"):
        prove(session, variant, {**golden, "logits": forged}, 12, CLASSIFICATION)


def _zip(folder: Path, archive: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as content:
        for path in sorted(folder.iterdir()):
            content.write(path, path.name)
    return archive


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_with_changed_bytes(compression: int, original: Path, tmp_path: Path, cache: Path) -> None:
    good = _zip(original, tmp_path / "good.zip", compression).read_bytes()
    draws, refused = random.Random(3), 0
    for _ in range(25):
        at = draws.randrange(30, len(good) - 30)
        (tmp_path / "bad.zip").write_bytes(good[:at] + bytes([good[at] ^ (1 << draws.randrange(8))]) + good[at + 1 :])
        message = _refusal(lambda: Bundle.open(tmp_path / "bad.zip"))
        refused += bool(message)
        assert not message or str(tmp_path / "bad.zip") in message or str(cache) in message
    assert refused > 15
    # What was refused takes no room: only archives that were opened are there, and nothing temporary.
    kept = list((cache / "bundles").iterdir())
    assert len(kept) == 25 - refused
    for folder in kept:
        Bundle.open(folder)


def test_an_archive_whose_files_are_not_what_it_lists_leaves_nothing(
    original: Path, tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(original, tmp_path / "changed")
    model = tmp_path / "changed" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")  # the right size, another digest
    with pytest.raises(BundleError, match="its digest differs from the recorded one"):
        Bundle.open(_zip(tmp_path / "changed", tmp_path / "changed.zip"))
    assert not list((cache / "bundles").iterdir())


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST, "golden.npz"])
def test_a_link_that_leads_to_itself(name: str, original: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "loop")
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST, "golden.npz"])
def test_a_device_in_a_bundle(name: str, original: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "device")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


def test_a_pipe_for_a_manifest_does_not_block(original: Path, tmp_path: Path) -> None:
    import os

    folder = shutil.copytree(original, tmp_path / "pipe")
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(folder)


def _refusal(act: Callable[[], object]) -> str:
    """What edgekit says where it refuses, empty where it does not; any other exception passes, and fails the test."""
    try:
        act()
    except EdgekitError as error:
        return str(error)
    return ""


def _golden_is_right(folder: Path) -> None:
    bundle = Bundle.open(folder)
    outputs = bundle.golden_outputs()
    assert outputs["images"].dtype == np.uint8
    assert all(np.isfinite(outputs[output.name]).all() for output in bundle.manifest.outputs)


def test_changed_manifests_and_golden_tensors_are_refused_or_right(original: Path, tmp_path: Path) -> None:
    """Of 400 forged bundles each opens and gives golden tensors of the shapes that it states, or one error."""
    draws, manifest = random.Random(20260101), json.loads((original / MANIFEST).read_text())
    good, good_packed = arrays(original), saved(compressed=True, **arrays(original))
    folder, outcomes = shutil.copytree(original, tmp_path / "forged"), {"opened": 0, "refused": 0}
    for number in range(400):
        changed_manifest: Any = manifest
        content = saved(**good)
        if number % 2:
            changed_manifest = hostile.value(draws, manifest)
        elif number % 4:
            content = hostile.damaged(draws, good_packed if number % 8 == 2 else content)
        else:
            shapes = [(), (0,), (12,), (12, 6), (1, 16, 16, 3), (12, 16, 16, 4)]
            kinds = [np.uint8, np.float32, np.float64, np.complex64, "U3", "S1", "M8[s]", bool]
            shape, kind = draws.choice(shapes), draws.choice(kinds)
            content = saved(**{**good, draws.choice(["images", "logits", "more"]): np.zeros(shape, kind)})
        (folder / "golden.npz").write_bytes(content)
        if isinstance(changed_manifest, dict) and number % 2 == 0:
            changed_manifest = {
                **changed_manifest,
                "golden": {"path": "golden.npz", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
            }
        text = json.dumps(changed_manifest).encode()
        (folder / MANIFEST).write_bytes(hostile.damaged(draws, text) if number % 16 == 1 else text)
        message = _refusal(lambda: _golden_is_right(folder))
        assert message.isprintable()
        assert len(message) < 4500
        outcomes["refused" if message else "opened"] += 1
    assert min(outcomes.values()) > 20, outcomes


# Deleting: only what a readable record of ours lists.


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _foreign(name: str, original: Path, folder: Path) -> Path:
    """A folder with files of the user's that an export into it must not touch."""
    if name == "another tool's":
        folder.mkdir()
        (folder / MANIFEST).write_text('{"name": "another tool\'s file"}\n')
    else:
        shutil.copytree(original, folder)
        content = bytearray((folder / MANIFEST).read_bytes())
        if name == "flipped byte":
            content[len(content) // 2] ^= 128
            (folder / MANIFEST).write_bytes(content)
        elif name == "newer":
            (folder / MANIFEST).write_text(json.dumps({**json.loads(content), "schema": 99}))
        elif name == "link":
            (folder / MANIFEST).unlink()
            (folder / MANIFEST).symlink_to(MANIFEST)
        elif name == "empty":
            (folder / MANIFEST).write_bytes(b"")
    (folder / "src").mkdir()
    (folder / "src" / "main.c").write_text("int main;\n")
    (folder / "README").write_text("not edgekit's\n")
    return folder


@pytest.mark.parametrize("name", ["another tool's", "flipped byte", "newer", "link", "empty"])
def test_a_folder_without_a_readable_record_of_ours_is_not_replaced(name: str, original: Path, tmp_path: Path) -> None:
    folder = _foreign(name, original, tmp_path / "project")
    before = _tree(folder)
    with pytest.raises(EdgekitError, match="project") as refused:
        pack.existing(folder)
    assert "give another --output" in str(refused.value)
    with pytest.raises(EdgekitError), pack.replaced(folder) as new:  # nor by who did not ask before
        (new / "x").write_text("x")
    assert _tree(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir() if "project" in path.name) == ["project"]


def test_a_damaged_model_costs_the_models_alone(original: Path, tmp_path: Path) -> None:
    """The record can be read and a file that it lists is damaged: its files are replaced, the user's stay."""
    folder = _foreign("whole", original, tmp_path / "project")
    (folder / "model.onnx").write_bytes(b"damaged")
    assert pack.existing(folder) is None
    with pack.replaced(folder) as new:
        _fill(new, original)
    Bundle.open(folder)
    assert (folder / "README").read_text() == "not edgekit's\n"
    assert (folder / "src" / "main.c").exists()


def test_debris_of_a_killed_export_is_removed_by_the_next(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(original, folder)
    dead = tmp_path / ".export.k1ll3d_0.tmp"
    shutil.copytree(original, dead)
    part = tmp_path / ".export.k1ll3d_1.tmp"  # killed before its manifest was written
    part.mkdir()
    (part / "model.onnx").write_bytes(b"half")
    mine = [tmp_path / ".export.notes", tmp_path / ".other.abcdefgh.tmp", tmp_path / "export.tmp"]
    for path in mine:
        path.mkdir()
    with pack.replaced(folder) as new:
        _fill(new, original)
        with pack.replaced(folder) as second:  # a live one's is no debris
            assert new.is_dir()
            _fill(second, original)
    assert not dead.exists()
    assert not part.exists()
    assert all(path.exists() for path in mine)
    Bundle.open(folder)


@pytest.mark.parametrize("moment", ["exchanged", "aside", "both"])
def test_the_users_files_survive_a_kill_in_the_middle_of_the_exchange(
    moment: str, original: Path, tmp_path: Path
) -> None:
    """What lies there when the process dies after the folders were exchanged, or between the three renames that stand for that."""
    folder = tmp_path / "export"
    with_users = _foreign("whole", original, tmp_path / "with-users")
    if moment == "exchanged":
        shutil.copytree(original, folder)
        with_users.rename(tmp_path / ".export.abcdefgh.tmp")
    else:
        with_users.rename(tmp_path / ".export.abcdefgh.tmp.old")
        if moment == "both":
            shutil.copytree(original, folder)
    with pack.replaced(folder) as new:
        _fill(new, original)
    assert (folder / "README").read_text() == "not edgekit's\n"
    assert (folder / "src" / "main.c").exists()
    Bundle.open(folder)
    assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == ["export"]


def test_a_users_file_under_a_name_that_the_new_bundle_needs(original: Path, tmp_path: Path) -> None:
    folder = _foreign("whole", original, tmp_path / "project")
    (folder / "new.onnx").write_bytes(b"the user's")
    before = _tree(folder)

    def replace() -> None:
        with pack.replaced(folder) as new:
            _fill(new, original)
            (new / "new.onnx").write_bytes(b"the bundle's")

    assert "holds new.onnx, which edgekit did not write" in _refusal(replace)
    assert _tree(folder) == before


def _fill(folder: Path, original: Path) -> None:
    for path in original.iterdir():
        shutil.copyfile(path, folder / path.name)
