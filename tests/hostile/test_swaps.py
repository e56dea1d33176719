"""Between the comparison of a file with its digest and its use somebody else may write it: what is used is what was compared.

Each test exchanges one file at every moment in turn (see `swapped`), by another file under its name and by other bytes in it. Then the
result is that of the recorded bytes, or one line says that they changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from edgekit.bench.process import run_worker
from edgekit.bench.request import Request
from edgekit.bundle import MANIFEST, Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, EdgekitError, RunError
from edgekit.models.classifier import Classifier
from edgekit.models.store import load_classifier, save_classifier
from edgekit.models.weights import load_weights
from edgekit.recipe import Architecture
from edgekit.runtimes import load
from tests.helpers.swapped import Exchanges, moments
from tests.helpers.tiny_bundle import make_bundle, write_onnx, write_openvino

Answer = NDArray[Any]


def copier(source: Path, folder: Path) -> Callable[[], None]:
    """Makes `folder` a copy of `source`, whatever it was before."""

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)

    return restore


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of the same form that answers the opposite, and one of another form."""
    folder = tmp_path_factory.mktemp("other")
    write_onnx(folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    head = next(t for t in model.graph.initializer if t.name == "head")
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), "head"))
    onnx.save(model, folder / "model.onnx")
    write_openvino(folder / "model.xml", folder / "model.onnx")
    write_onnx(folder / "short.onnx", layers=1)
    write_openvino(folder / "short.xml", folder / "short.onnx")
    return folder


def outcomes(
    attempt: Callable[[Exchanges], Answer | None],
    file: Path,
    content: bytes,
    expected: Answer,
    restore: Callable[[], None],
) -> tuple[int, int]:
    """How many attempts gave the recorded answer and how many were refused; anything else fails."""

    def counted(exchanges: Exchanges) -> None:
        attempt(exchanges)

    right, refusals = 0, list[str]()
    for moment in range(moments(counted, file, content) + 1):  # after the last one, too
        for in_place in (False, True):
            restore()
            exchanges = Exchanges(file, content, moment, in_place=in_place)
            try:
                answer = attempt(exchanges)
            except EdgekitError as error:
                refusals.append(str(error))
                continue
            if answer is not None:
                right += 1
                np.testing.assert_allclose(
                    answer, expected, atol=1e-3, err_msg=f"moment {moment}, in place: {in_place}"
                )
    assert all(len(line) < 900 and "\n" not in line for line in refusals)
    return right, len(refusals)


@pytest.mark.parametrize(
    ("variant", "file", "by"),
    [
        ("onnx-fp32", "model.onnx", "model.onnx"),
        ("openvino-fp16", "model.bin", "model.bin"),
        ("openvino-fp16", "model.xml", "short.xml"),
    ],
)
def test_a_session_is_of_the_checked_bytes(
    variant: str, file: str, by: str, original: Path, other: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    images = Bundle.open(original).golden()[0]
    expected = load(Bundle.open(original), Bundle.open(original).variant(variant)).run(images)

    restore = copier(original, folder)

    def attempt(exchanges: Exchanges) -> Answer:
        bundle = Bundle.open(folder)
        with exchanges.watching():
            session = load(bundle, bundle.variant(variant))
        if exchanges.seen == exchanges.moment:
            exchanges.exchange()
        return session.run(images)

    restore()
    content = (other / by).read_bytes()
    right, refused = outcomes(attempt, folder / file, content, expected, restore)
    assert right >= 4  # after the bytes were read
    assert refused >= 4  # before


def test_streams_and_profiles_open_the_checked_bytes_again(original: Path, other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(original, folder)
    bundle = Bundle.open(folder)
    session: Any = load(bundle, bundle.variant("onnx-fp32"))
    shutil.copyfile(other / "model.onnx", folder / "model.onnx")
    images = bundle.golden()[0]
    with pytest.raises(BundleError, match="its digest differs from the recorded one"):
        session.streams(2)
    with pytest.raises(BundleError, match="its digest differs from the recorded one"):
        session.profile(images, 2, 0)


def test_weights_beside_a_model_that_the_bundle_does_not_list_are_not_opened(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(original, folder)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    manifest = Bundle.open(original).manifest
    variant = manifest.variants[0].model_copy(update={"files": [BundleFile.of(folder, "model.onnx")]})
    write_manifest(folder, manifest.model_copy(update={"variants": [variant]}))
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="cannot load it"):
        load(bundle, bundle.variant("onnx-fp32"))


def test_golden_tensors_are_the_checked_ones(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    golden = Bundle.open(original).golden_outputs()
    np.savez(tmp_path / "other.npz", **{**golden, "logits": -golden["logits"]})

    restore = copier(original, folder)

    def attempt(exchanges: Exchanges) -> Answer:
        bundle = Bundle.open(folder)
        with exchanges.watching():
            return bundle.golden_outputs()["logits"]

    restore()
    content = (tmp_path / "other.npz").read_bytes()
    right, refused = outcomes(attempt, folder / "golden.npz", content, golden["logits"], restore)
    assert right
    assert refused


def test_an_archive_gives_what_its_own_manifest_lists(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever exchanges it while it is extracted puts nothing of his own into the cache for the next command to find."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    renamed = tmp_path / "renamed"
    shutil.copytree(original, renamed)
    manifest = json.loads((renamed / MANIFEST).read_text())
    manifest["classes"] = [f"not {name}" for name in manifest["classes"]]
    (renamed / MANIFEST).write_text(json.dumps(manifest))
    good, bad = (_zip(folder, tmp_path / f"{folder.name}.zip").read_bytes() for folder in (original, renamed))
    classes = Bundle.open(original).manifest.classes
    archive = tmp_path / "bundle.zip"

    def attempt(exchanges: Exchanges) -> None:
        with exchanges.watching():
            Bundle.open(archive)

    def restore() -> None:
        archive.write_bytes(good)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    restore()
    count = moments(attempt, archive, bad)
    for moment in range(0, count, max(1, count // 30)):
        for in_place in (False, True):
            restore()
            with contextlib.suppress(EdgekitError):
                attempt(Exchanges(archive, bad, moment, in_place=in_place))
            archive.write_bytes(good)
            assert Bundle.open(archive).manifest.classes == classes


def _zip(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted(folder.iterdir()):
            content.write(path, path.name)
    return archive


def test_a_measuring_process_opens_the_bundle_that_the_command_has_opened(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(original, folder)
    opened = Bundle.open(folder)
    request = Request(str(folder), "onnx-fp32", "onnxruntime", 1, 1, 0.0, 1, stages=False, digest=opened.digest)
    assert run_worker(request).samples_ns
    manifest = opened.manifest.model_copy(update={"classes": [f"not {name}" for name in opened.manifest.classes]})
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="changed during use"):
        run_worker(request)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp("model"))
        save_classifier(folders[-1], Classifier.build(Architecture(name="resnet10", width=0.125), 16, ["a", "b"], []))
    return folders[0], folders[1]


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_runs_model_is_of_the_recorded_bytes(file: str, models: tuple[Path, Path], tmp_path: Path) -> None:
    recorded, images = _digests(models[0]), torch.rand(3, 3, 16, 16)
    content = (models[1] / file).read_bytes()
    if file == "model.json":
        content = content.replace(b'"a"', b'"x"')

    def answer(model: Classifier) -> Answer:
        with torch.no_grad():
            return np.append(model(images).numpy().ravel(), sum(map(ord, "".join(model.classes))))

    expected = answer(load_classifier(models[0], recorded))
    folder = tmp_path / "model"

    restore = copier(models[0], folder)

    def attempt(exchanges: Exchanges) -> Answer:
        with exchanges.watching():
            model = load_classifier(folder, recorded)
        if exchanges.seen == exchanges.moment:
            exchanges.exchange()
        return answer(model)

    restore()
    right, refused = outcomes(attempt, folder / file, content, expected, restore)
    assert right
    assert refused
    shutil.copyfile(models[1] / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(RunError, match="its digest differs from the recorded one"):
        load_classifier(folder, recorded)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_digest_of_a_file_of_weights_is_of_what_was_loaded(suffix: str, tmp_path: Path) -> None:
    import safetensors.torch

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 2))

    file = tmp_path / f"w.{suffix}"
    contents: dict[str, bytes] = {}
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(network().state_dict())
        torch.save(states[-1], file) if suffix == "pth" else safetensors.torch.save_file(states[-1], file)
        contents[hashlib.sha256(file.read_bytes()).hexdigest()] = file.read_bytes()
    by_digest = dict(zip(contents, states, strict=True))
    first, second = contents.values()

    def attempt(exchanges: Exchanges) -> None:
        file.write_bytes(first)
        filled = network()
        with exchanges.watching():
            loaded = load_weights(filled, str(file), "--weights", "mine")
        if exchanges.seen == exchanges.moment:
            exchanges.exchange()
        wanted = by_digest[loaded.sha256]
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in filled.state_dict().items())

    count = moments(attempt, file, second)
    for moment in range(0, count + 1, max(1, count // 30)):  # PyTorch reads each tensor by itself, from the copy
        for in_place in (False, True):
            with contextlib.suppress(EdgekitError):  # half of the one and half of the other
                attempt(Exchanges(file, second, moment, in_place=in_place))
