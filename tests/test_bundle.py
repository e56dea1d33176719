"""A bundle is opened only if it is what was exported; anything else ends in one line that names the file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import MANIFEST, Bundle, BundleFile, Manifest
from edgekit.errors import BundleError
from tests.helpers.tiny_bundle import CLASSES, SIZE, make_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export", openvino=False).path


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may damage, and a cache of the test's own."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "export"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest in place."""
    content = json.loads((folder / MANIFEST).read_text())
    edit(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def replace_golden(folder: Path, write: Callable[[Path], object]) -> None:
    """Put other golden tensors in and record their digest, as whoever forges a bundle would."""
    write(folder / "golden.npz")
    change(folder, lambda m: m.update(golden=BundleFile.of(folder, "golden.npz").model_dump()))


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for path in folder.iterdir():
            content.write(path, prefix + path.name)
    return archive


def test_opens_from_its_folder_and_from_its_manifest(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.classes == CLASSES
    assert bundle.digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert Bundle.open(str(folder / MANIFEST)).path == folder


def test_golden_tensors_come_back_as_they_were_written(folder: Path) -> None:
    images, logits = Bundle.open(folder).golden()
    assert images.shape == (12, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert logits.shape == (12, len(CLASSES))
    assert logits.dtype == np.float32


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_changed_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: changed since the export"):
        Bundle.open(folder)


def test_a_byte_changed_after_opening_is_noticed_when_the_file_is_used(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with open(folder / "model.onnx", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="changed since"):
        bundle.file(bundle.variant("onnx-fp32").files[0])


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: missing"):
        Bundle.open(folder)


def test_a_newer_schema_asks_for_an_update(folder: Path) -> None:
    change(folder, lambda m: m.update(schema=4, task="of-later", something_new=1))
    with pytest.raises(BundleError, match="schema is 4, this edgekit reads up to 3") as caught:
        Bundle.open(folder)
    assert "update edgekit" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"schema": null}', "[" * 100_000, '{"schema": "one"}', "\udcff"]
)
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, errors="surrogateescape")
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.open(folder)


def test_a_truncated_manifest_is_refused(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match="not a bundle manifest"):
        Bundle.open(folder)


def test_an_unknown_key_is_named(folder: Path) -> None:
    change(folder, lambda m: m["variants"][0].update(precison="fp32"))  # codespell:ignore
    with pytest.raises(BundleError, match=r"variants\.0\.precison"):  # codespell:ignore
        Bundle.open(folder)


def test_two_variants_of_one_id_are_refused(folder: Path) -> None:
    change(folder, lambda m: m["variants"].append(m["variants"][0]))
    with pytest.raises(BundleError, match="same id"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["../model.onnx", "a/../../x", "/etc/passwd", "C:/x", "..\\x", "a\0b", "", "."])
def test_a_path_that_leaves_the_bundle_is_refused(folder: Path, path: str) -> None:
    change(folder, lambda m: m["variants"][0]["files"][0].update(path=path))
    with pytest.raises(BundleError):
        Bundle.open(folder)


def test_a_link_that_leaves_the_bundle_is_refused_even_with_the_right_digest(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.onnx", tmp_path / "outside.onnx")
    os.symlink(tmp_path / "outside.onnx", folder / "model.onnx")
    with pytest.raises(BundleError, match="is outside the bundle"):
        Bundle.open(folder)


def test_no_such_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleError, match="it has no bundle"):
        Bundle.open(tmp_path)


def test_a_variant_by_its_id_or_a_near_one(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.variant("onnx-fp32").runtime == "onnxruntime"
    with pytest.raises(BundleError) as caught:
        bundle.variant("onnx-fp23")
    assert "onnx-fp32" in caught.value.hint


@pytest.mark.parametrize("prefix", ["", "export/"])
def test_a_zip_of_the_files_or_of_the_folder(folder: Path, tmp_path: Path, prefix: str) -> None:
    bundle = Bundle.open(zipped(folder, tmp_path / "bundle.zip", prefix))
    assert bundle.digest == Bundle.open(folder).digest
    assert bundle.path.is_relative_to(tmp_path / "cache")
    assert Bundle.open(tmp_path / "bundle.zip").path == bundle.path, "extracted once"


def test_a_zip_is_extracted_again_where_the_cache_was_changed(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "bundle.zip")
    extracted = Bundle.open(archive).path
    (extracted / "model.onnx").write_bytes(b"changed")
    again = Bundle.open(archive)
    assert again.file(again.variant("onnx-fp32").files[0]).read_bytes() == (folder / "model.onnx").read_bytes()


def test_a_zip_with_a_changed_byte_is_refused(folder: Path, tmp_path: Path) -> None:
    with open(folder / "model.onnx", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="changed since"):
        Bundle.open(zipped(folder, tmp_path / "bundle.zip"))


def test_only_what_the_manifest_lists_comes_out_of_a_zip(folder: Path, tmp_path: Path) -> None:
    (folder / "much.bin").write_bytes(bytes(1 << 20))
    bundle = Bundle.open(zipped(folder, tmp_path / "bundle.zip"))
    assert {path.name for path in bundle.path.rglob("*")} == {MANIFEST, *(file.path for file in bundle.manifest.files)}
    (folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"bundle\.zip: golden\.npz: missing from the bundle"):
        Bundle.open(zipped(folder, tmp_path / "bundle.zip"))


def test_a_zip_that_does_not_fit_is_refused_before_it_is_extracted(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["golden"]["bytes"] = 10**15
    (folder / MANIFEST).write_text(json.dumps(manifest))
    archive = zipped(folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(archive, "a") as content:
        content.comment = b"rewrites the directory"
        content.getinfo("golden.npz").file_size = 10**15  # as an archive of a thousand terabytes would say
    with pytest.raises(BundleError, match="it takes 1000000000 MB") as caught:
        Bundle.open(archive)
    assert "EDGEKIT_CACHE" in caught.value.hint
    assert not list((tmp_path / "cache" / "bundles").iterdir())


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt"])
def test_a_zip_that_writes_outside_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    archive = zipped(folder, tmp_path / "bundle.zip")
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(name, "gotcha")
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(archive)
    assert not list(tmp_path.rglob("evil.txt"))


def test_damaged_zips_are_refused_and_leave_nothing(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "bundle.zip")
    good = archive.read_bytes()
    middle = bytearray(good)
    middle[200:260] = b"\xff" * 60
    locked = bytearray(good)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set every entry's flag "encrypted"
        at = -1
        while (at := good.find(mark, at + 1)) >= 0:
            locked[at + flags] |= 1
    for damaged in (good[: len(good) // 2], bytes(middle), bytes(locked), b"not a zip", b""):
        archive.write_bytes(damaged)
        with pytest.raises(BundleError):
            Bundle.open(archive)
    assert not list((tmp_path / "cache" / "bundles").iterdir())


def test_a_zip_without_a_place_to_extract_says_which(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(folder, tmp_path / "bundle.zip")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="cannot be extracted") as caught:
        Bundle.open(archive)
    assert "EDGEKIT_CACHE" in caught.value.hint


def test_golden_tensors_are_never_unpickled(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "gotcha"),))

    evil = np.array([Evil()], dtype=object)
    for write in (lambda p: np.savez(p, images=evil, logits=evil), lambda p: p.write_bytes(evil.dumps())):
        replace_golden(folder, write)
        with pytest.raises(BundleError, match="not golden tensors"):
            Bundle.open(folder).golden()
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, SIZE, SIZE, 3), np.uint8)},
        {"images": np.zeros((2, SIZE, SIZE, 3), np.float32), "logits": np.zeros((2, len(CLASSES)), np.float32)},
        {"images": np.zeros((2, SIZE, 9, 3), np.uint8), "logits": np.zeros((2, len(CLASSES)), np.float32)},
        {"images": np.zeros((2, SIZE, SIZE, 3), np.uint8), "logits": np.zeros((3, len(CLASSES)), np.float32)},
        {"images": np.zeros((0, SIZE, SIZE, 3), np.uint8), "logits": np.zeros((0, len(CLASSES)), np.float32)},
    ],
)
def test_golden_tensors_of_another_form_are_refused(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    replace_golden(folder, lambda path: np.savez(path, **arrays))
    with pytest.raises(BundleError, match="not golden tensors"):
        Bundle.open(folder).golden()


def test_the_manifest_survives_writing_and_reading(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    manifest = Manifest.model_validate_json(text)
    assert Manifest.model_validate_json(manifest.model_dump_json(by_alias=True)) == manifest
    assert (json.loads(text)["schema"], json.loads(text)["task"]) == (2, "classification")
