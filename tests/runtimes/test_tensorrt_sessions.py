"""Sessions over stand-ins for classic TensorRT and the CUDA driver: all of edgekit's own code runs, none of NVIDIA's."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, DataError, RuntimeMissing
from edgekit.files import sha256
from edgekit.runtimes import load, open_session
from edgekit.runtimes.session import Profiled, Staged
from edgekit.runtimes.tensorrt import (
    BatchRange,
    BuildOptions,
    BuildPlan,
    EngineRecord,
    adapter,
    build,
    cuda,
)
from edgekit.runtimes.tensorrt.cache import read_record, this_machine, write_record
from edgekit.runtimes.tensorrt.session import TensorRtSession
from tests.helpers import tensorrt_graphs
from tests.helpers.tensorrt_graphs import silent
from tests.helpers.tiny_bundle import CLASSES, SIZE, make_bundle, some_images

HERE = Path(__file__).parents[1]
model, driver = tensorrt_graphs.model, tensorrt_graphs.driver


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: an engine is built for the first test that needs it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture(autouse=True)
def _stand_ins(driver: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cuda.Driver.__init__, "__defaults__", (str(driver),))
    monkeypatch.setenv("STAND_IN_CUDA", str(driver))
    monkeypatch.setenv("EDGEKIT_CACHE", str(cache))
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{HERE / 'stand_ins'}{os.pathsep}{inherited}")  # of the builder's process
    monkeypatch.syspath_prepend(HERE / "stand_ins")
    release(monkeypatch, "10.3.0")
    cuda.driver.cache_clear()
    yield
    sys.modules.pop("tensorrt", None)
    adapter._loggers.clear()
    cuda.driver.cache_clear()


def release(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("STAND_IN_TENSORRT", version)
    sys.modules.pop("tensorrt", None)
    adapter._loggers.clear()


@pytest.fixture
def planned(model: Path, tmp_path: Path) -> Path:
    """A model of the bundle: the ONNX for strong typing, the one for weak typing, the plan."""
    path = tmp_path / "model.trt.int8.onnx"
    path.write_bytes(model.read_bytes())
    path.with_name("model.trt.int8.weak.onnx").write_bytes(model.read_bytes())
    plan = BuildPlan(onnx=path.name, weak_onnx="model.trt.int8.weak.onnx", precision="int8", batch=BatchRange(max=4))
    path.with_suffix(".json").write_text(plan.model_dump_json(by_alias=True))
    return path


def test_logits_are_those_of_the_graph_for_every_batch_size(planned: Path, driver: Path) -> None:
    images = some_images(11)
    expected = open_session("onnxruntime", planned).run(images)
    stand_in = ctypes.CDLL(str(driver))
    before, launches = stand_in.standInLive(), stand_in.standInLaunches()
    session = open_session("tensorrt", planned)
    assert (session.batch, session.outputs, session.version) == (None, ["logits"], "10.3.0")
    assert session.settings["cuda_graph"] == "1"
    for count in (1, 1, 1, 1, 3, 3, 3, 1, 4, 11, 2):  # more than the largest batch, 4, too
        np.testing.assert_allclose(session.run(images[:count]), expected[:count], atol=1e-5)
    # Of a run of one size all but the first are replays of the graph; 11 images are parts of 4, 4 and 3 after one of 4.
    assert stand_in.standInLaunches() - launches == 3 + 2 + 2
    first = session.run(images[:2])
    kept = first.copy()
    session.run(images[2:4])
    assert np.array_equal(first, kept), "logits have memory of their own"
    strided = np.asfortranarray(images[:2])
    np.testing.assert_allclose(session.run(strided), expected[:2], atol=1e-5)
    assert session.run_all(images[:2]).keys() == {"logits"}
    with pytest.raises(DataError, match="add the batch axis"):
        session.run(images[0])
    session.close()
    session.close()
    assert stand_in.standInLive() == before, "everything on the GPU is freed"


def _bundled(folder: Path, names: list[str]) -> Bundle:
    """A bundle with one variant of these files in a folder."""
    made = make_bundle(folder, openvino=False)
    files = [BundleFile.of(folder, name) for name in names]
    variant = made.manifest.variants[0].model_copy(update={"id": "trt", "runtime": "tensorrt", "files": files})
    write_manifest(folder, made.manifest.model_copy(update={"variants": [variant]}))
    return Bundle.open(folder)


@pytest.mark.parametrize("engine", [False, True])
def test_every_file_of_a_bundle_is_compared_as_it_is_read(engine: bool, planned: Path, own_cache: Path) -> None:
    images = some_images(2)
    expected = open_session("onnxruntime", planned).run(images)
    names = [planned.name, planned.with_suffix(".json").name, "model.trt.int8.weak.onnx"]
    if engine:
        open_session("tensorrt", planned).close()
        (built,) = own_cache.glob("*.engine")
        shutil.copyfile(built, planned.with_name("m.engine"))
        shutil.copyfile(built.with_name(f"{built.name}.json"), planned.with_name("m.engine.json"))
        names = ["m.engine", "m.engine.json"]
    bundle = _bundled(planned.parent, names)
    session = load(bundle, bundle.variant("trt"))
    np.testing.assert_allclose(session.run(images), expected, atol=1e-5)
    session.close()
    for engine_file in own_cache.glob("*"):  # what was built before is found by the recorded digest
        engine_file.unlink()
    for name in names if engine else names[1:]:  # this release builds from the other ONNX alone
        path = planned.with_name(name)
        before = path.read_bytes()
        path.write_bytes(before[:-2] + b"  ")
        with pytest.raises(BundleError, match=f"{name}: changed since the export"):
            load(bundle, bundle.variant("trt"))
        path.write_bytes(before)
    # A file that the bundle does not list is not there, whatever lies in its folder.
    less = _bundled(planned.parent, names[:1])
    with pytest.raises(BundleError, match="missing or damaged"):
        load(less, less.variant("trt"))


def test_without_the_cuda_graph_the_logits_are_the_same(planned: Path, driver: Path) -> None:
    images = some_images(2)
    launches = ctypes.CDLL(str(driver)).standInLaunches()
    session = open_session("tensorrt", planned, settings={"cuda_graph": "0"})
    expected = open_session("onnxruntime", planned).run(images)
    for _ in range(3):
        np.testing.assert_allclose(session.run(images), expected, atol=1e-5)
    assert ctypes.CDLL(str(driver)).standInLaunches() == launches
    assert session.settings["cuda_graph"] == "0"


@pytest.mark.parametrize(
    ("version", "flags", "network", "onnx_name"),
    [
        ("8.6.1", ["FP16", "INT8"], 1, "model.trt.int8.weak.onnx"),  # explicit batch must be said
        ("10.3.0", ["FP16", "INT8"], 0, "model.trt.int8.weak.onnx"),
        ("10.13.0", [], 2, "model.trt.int8.onnx"),  # STRONGLY_TYPED is bit 1 in 10
        ("11.4.0", [], 1, "model.trt.int8.onnx"),  # and bit 0 in 11
    ],
)
def test_each_release_is_built_for_in_its_own_way(
    planned: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
    version: str, flags: list[str], network: int, onnx_name: str,
) -> None:  # fmt: skip
    release(monkeypatch, version)
    open_session("tensorrt", planned).close()
    (path,) = own_cache.glob("*.engine")
    build_settings = json.loads(path.read_bytes().partition(b"\n")[0])
    assert (build_settings["flags"], build_settings["network"]) == (flags, network)
    assert build_settings["profiles"] == [{"images": [[1, SIZE, SIZE, 3], [1, SIZE, SIZE, 3], [4, SIZE, SIZE, 3]]}]
    record = read_record(path)
    assert record is not None
    assert record.onnx == onnx_name
    assert record.machine["gpu"] == "Stand-in GPU"
    assert (record.machine["compute_capability"], record.machine["cuda"]) == ("8.7", "12.6")
    assert record.report.layers_from == "inspector"
    assert record.report.layers[0].inputs == ("int8",)


def test_an_engine_is_built_once_and_again_for_another_release(
    planned: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        open_session("tensorrt", planned).close()
    assert len(list(own_cache.glob("*.engine"))) == 1
    (times,) = own_cache.glob("timing-*.cache")
    assert times.read_bytes() == b"timed;", "the builder ran once"
    release(monkeypatch, "10.13.0")
    open_session("tensorrt", planned).close()
    assert len(list(own_cache.glob("*.engine"))) == 2


def test_a_shipped_engine_is_taken_or_built_anew_from_its_onnx(
    planned: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(flavor="trt", precision="fp32", batch=BatchRange(max=4))
    shipped = tmp_path / "model.engine"
    report = build(planned, shipped, options, silent)
    machine = this_machine("10.3.0", cuda.driver().gpu(0))
    record = EngineRecord(
        onnx=planned.name, onnx_sha256=sha256(planned), options=options, machine=machine, report=report
    )
    write_record(shipped, record)
    images = some_images(3)
    expected = open_session("onnxruntime", planned).run(images)
    np.testing.assert_allclose(open_session("tensorrt", shipped).run(images), expected, atol=1e-5)
    assert not own_cache.exists(), "it was taken as it is"

    release(monkeypatch, "10.13.0")
    np.testing.assert_allclose(open_session("tensorrt", shipped).run(images), expected, atol=1e-5)
    assert len(list(own_cache.glob("*.engine"))) == 1
    planned.unlink()
    with pytest.raises(
        BundleError,
        match=r"built by TensorRT 10\.3\.0, but 10\.13\.0 is installed, and model\.trt\.int8\.onnx is not beside it",
    ):
        open_session("tensorrt", shipped)
    shipped.with_name("model.engine.json").write_text("{}")
    with pytest.raises(BundleError, match=r"its record, .* is missing or damaged"):
        open_session("tensorrt", shipped)


def test_times_of_stages_and_layers(planned: Path) -> None:
    session = open_session("tensorrt", planned)
    assert isinstance(session, Staged)
    assert isinstance(session, Profiled)
    times = session.stages(some_images(2))
    assert times is not None
    assert min(times) >= 0
    assert times.compute > 0
    found = session.profile(some_images(1), 5, 2)
    assert [(layer.name, layer.calls, layer.nanoseconds) for layer in found] == [
        ("conv", 5, 1250000),
        ("head", 5, 2500000),
    ]


def test_a_static_batch_is_the_sessions(planned: Path, tmp_path: Path) -> None:
    plan = json.loads(planned.with_suffix(".json").read_text())
    planned.with_suffix(".json").write_text(json.dumps({**plan, "batch": {"min": 2, "opt": 2, "max": 2}}))
    session = open_session("tensorrt", planned)
    assert session.batch == 2
    assert session.run(some_images(2)).shape == (2, len(CLASSES))
    with pytest.raises(DataError, match="exactly 2 images"):
        session.run(some_images(3))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.with_suffix(".json").unlink(), "build plan of model.trt.int8.onnx is missing"),
        (lambda p: p.with_name("model.trt.int8.weak.onnx").unlink(), "model.trt.int8.weak.onnx is not beside it"),
        (lambda p: p.with_suffix(".json").write_text(
            p.with_suffix(".json").read_text().replace("model.trt.int8.weak", "../other")), "is not beside it"),
    ],
)  # fmt: skip
def test_what_is_missing_from_the_bundle_is_named(planned: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(planned)
    with pytest.raises(BundleError, match=says):
        open_session("tensorrt", planned)


def test_wrong_settings_are_refused(planned: Path) -> None:
    for settings, says in (({"graph": "1"}, "unknown setting graph"), ({"gpu": "x"}, "not a number")):
        with pytest.raises(BundleError, match=says):
            open_session("tensorrt", planned, settings=settings)
    with pytest.raises(RuntimeMissing, match="no GPU 1: this machine has 1"):
        open_session("tensorrt", planned, settings={"gpu": "1"})


def test_a_driver_that_finds_no_device_says_so(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_NO_DEVICE", "1")
    with pytest.raises(RuntimeMissing, match="no usable NVIDIA GPU: cuInit: no CUDA-capable device is detected"):
        open_session("tensorrt", planned)


def test_a_run_that_fails_while_it_is_recorded_leaves_the_session_usable(
    planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session("tensorrt", planned)
    assert isinstance(session, TensorRtSession)
    images = some_images(2)
    expected = session.run(images)
    with monkeypatch.context() as broken:
        broken.setattr(type(session._engine._context), "execute_async_v3", lambda *_: False)
        with pytest.raises(RuntimeError, match="could not run the engine"):
            session.run(images)
    np.testing.assert_allclose(session.run(images), expected, atol=1e-6)
    session.close()
