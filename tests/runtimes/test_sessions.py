"""Every runtime runs the same graphs to the same logits, behind the same few verbs, and refuses what it should."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgekit import runtimes, targets
from edgekit.bundle import BundleFile
from edgekit.errors import BundleError, DataError, RuntimeMissing
from edgekit.runtimes import Session, installed, load, open_session, why_not
from edgekit.runtimes import openvino as openvino_runtime
from edgekit.runtimes.onnxruntime import PROVIDERS, SPINNING
from edgekit.runtimes.openvino import PRECISION
from edgekit.runtimes.session import run_in_batches
from tests.helpers.tiny_bundle import CLASSES, SIZE, make_bundle, some_images, write_onnx, write_openvino

ON_CPU: tuple[str, ...] = ("onnxruntime", "openvino")
both = pytest.mark.parametrize("runtime", ON_CPU)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_onnx(path)
    return path


@pytest.fixture(scope="module", params=ON_CPU)
def session(request: pytest.FixtureRequest, model: Path) -> Session:
    return open_session(request.param, model, threads=1)


def reference(model: Path, images: np.ndarray) -> np.ndarray:
    """ONNX Runtime by itself, without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    bare = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return bare.run(["logits"], {"images": images})[0]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_logits_are_those_of_the_graph(session: Session, model: Path, count: int) -> None:
    images = some_images(count)
    logits = session.run(images)
    assert logits.shape == (count, len(CLASSES))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(model, images), atol=1e-4)


def test_batches_of_every_size_agree(session: Session) -> None:
    # More sizes than OpenVINO's session keeps graphs of their own for, and back again.
    images = some_images(12)
    expected = session.run(images)
    for count in (1, 2, 3, 5, 7, 11, 2, 12, 1):
        np.testing.assert_allclose(session.run(images[:count]), expected[:count], atol=1e-4)  # logits up to 4


def test_memory_layouts_make_no_difference(session: Session) -> None:
    images = some_images(4)
    expected = session.run(images)
    read_only = images.copy()
    read_only.flags.writeable = False
    transposed = np.ascontiguousarray(images.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)
    strided = np.zeros((8, SIZE, SIZE, 3), np.uint8)
    strided[::2] = images
    unaligned = np.frombuffer(b"x" + images.tobytes(), np.uint8, offset=1).reshape(images.shape)
    for layout in (read_only, transposed, strided[::2], images[::-1][::-1], unaligned):
        assert np.array_equal(layout, images)
        np.testing.assert_allclose(session.run(layout), expected, atol=1e-6)


def test_the_logits_are_not_overwritten_by_the_next_run(session: Session) -> None:
    images = some_images(3)
    first = session.run(images)
    kept = first.copy()
    session.run(255 - images)
    assert np.array_equal(first, kept)


@both
def test_every_output_is_given_by_its_name(runtime: str, model: Path, tmp_path: Path) -> None:
    write_onnx(tmp_path / "two.onnx", embedding=True)
    path = tmp_path / "two.onnx"
    if runtime == "openvino":
        write_openvino(tmp_path / "two.xml", path)
        path = tmp_path / "two.xml"
    session = open_session(runtime, path, threads=1)
    images = some_images(5)
    assert (session.outputs, session.batch) == (["embedding", "logits"], None)
    every = session.run_all(images)
    assert every["embedding"].shape == (5, 8)
    np.testing.assert_allclose(every["logits"], reference(model, images), atol=0.05)
    np.testing.assert_allclose(every["logits"], session.run(images), atol=1e-5)
    kept = every["embedding"].copy()
    np.testing.assert_allclose(run_in_batches(session, images, 2)["embedding"], kept, atol=1e-4)
    session.run_all(255 - images)
    assert np.array_equal(every["embedding"], kept), "overwritten by the next run"
    with pytest.raises(DataError, match="has no images"):
        session.run_all(images[:0])


@both
def test_a_graph_that_fixes_its_batch_takes_that_and_nothing_else(runtime: str, model: Path, tmp_path: Path) -> None:
    write_onnx(tmp_path / "four.onnx", batch=4)
    session = open_session(runtime, tmp_path / "four.onnx", threads=1)
    assert session.batch == 4
    images = some_images(9)
    np.testing.assert_allclose(session.run(images[:4]), reference(model, images[:4]), atol=1e-4)
    for wrong in (images, images[:1], images[:0]):
        with pytest.raises(DataError, match=r"\(4, 16, 16, 3\), got|no image"):
            session.run(wrong)
    with pytest.raises(DataError, match="exactly 4 images per run"):
        session.run_all(images[:3])
    for count in (1, 3, 4, 9):  # filled up, and what the filling gives is dropped
        done: list[int] = []
        got = run_in_batches(session, images[:count], 2, only="logits", advance=done.append)
        assert list(got) == ["logits"]
        np.testing.assert_allclose(got["logits"], reference(model, images[:count]), atol=1e-4)
        np.testing.assert_allclose(run_in_batches(session, images[:count], 2)["logits"], got["logits"], atol=1e-4)
        assert done == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, SIZE, SIZE, 3), np.float32), "float32"),
        (np.zeros((SIZE, SIZE, 3), np.uint8), "add the batch axis"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), "no image"),
        (np.zeros((1, SIZE, SIZE + 1, 3), np.uint8), "17"),
        (np.zeros((1, 3, SIZE, SIZE), np.uint8), r"\(1, 3, 16, 16\)"),
        (np.zeros((1, SIZE, SIZE, 4), np.uint8), "16, 16, 4"),
        (np.uint8(3), "shape"),
        ([[1]], "list"),
    ],
)
def test_wrong_batches_are_refused_in_one_line(session: Session, images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        session.run(images)
    assert "uint8" in str(caught.value) or "no image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_told_and_answered_is_recorded(model: Path) -> None:
    ours = open_session("onnxruntime", model, threads=2, settings={SPINNING: "0"})
    assert ours.settings["provider"] == "CPUExecutionProvider"
    assert ours.settings["intra_op_num_threads"] == "2"
    assert ours.settings["inter_op_num_threads"] == "1"
    assert ours.settings["execution_mode"] == "ORT_SEQUENTIAL"
    assert ours.settings[SPINNING] == "0"
    assert ours.version == ort.__version__
    theirs = open_session("openvino", model, threads=1)
    assert theirs.settings["INFERENCE_NUM_THREADS"] == "1"
    assert theirs.settings[PRECISION] == "f32"
    assert theirs.settings["device"] == "CPU"


def test_a_closed_session_lets_its_model_go(model: Path) -> None:
    for runtime in ON_CPU:
        session = open_session(runtime, model)
        session.close()
        with pytest.raises((AttributeError, TypeError)):
            session.run(some_images(1))


@both
def test_unknown_settings_are_refused_not_ignored(runtime: str, model: Path) -> None:
    with pytest.raises(BundleError, match="unknown setting intra_op"):
        open_session(runtime, model, settings={"intra_op": "1"})


def test_an_unknown_precision_is_refused(model: Path) -> None:
    with pytest.raises(BundleError, match="f64, not one of f32, f16, bf16"):
        open_session("openvino", model, settings={PRECISION: "f64"})


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_a_session_computes_in_the_precision_that_was_asked_for_or_does_not_open(model: Path, precision: str) -> None:
    import openvino

    # What the machine makes of the hint: f32 everywhere, bf16 with AVX-512 BF16, f16 with AVX-512 FP16 or on Arm.
    asked = {PRECISION: getattr(openvino.Type, precision)}
    answer = openvino.Core().compile_model(model, "CPU", asked).get_property(PRECISION).get_type_name()
    if answer == precision:
        assert open_session("openvino", model, settings={PRECISION: precision}).settings[PRECISION] == precision
    else:
        message = f"OpenVINO computes in {answer} on this machine, not in {precision}"
        with pytest.raises(BundleError, match=message):
            open_session("openvino", model, settings={PRECISION: precision})


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_a_precision_that_the_machine_does_not_compute_in_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    import openvino

    # OpenVINO computes in f32 then, as it does on a machine that has nothing else, and answers so.
    monkeypatch.setitem(openvino_runtime._TYPES, precision, openvino.Type.f32)
    with pytest.raises(BundleError, match=f"OpenVINO computes in f32 on this machine, not in {precision}"):
        open_session("openvino", model, settings={PRECISION: precision})


def test_a_provider_that_is_not_here_is_an_error_and_never_replaced(model: Path) -> None:
    for provider, name in (("cuda", "CUDAExecutionProvider"), ("openvino", "OpenVINOExecutionProvider")):
        if name not in ort.get_available_providers():
            with pytest.raises(
                RuntimeMissing, match=f"this build of ONNX Runtime does not have {name}, only .*CPUExec"
            ):
                open_session("onnxruntime", model, settings={"provider": provider})
    with pytest.raises(RuntimeMissing, match=r"OpenVINO does not find the device NPU on this machine, only .*CPU"):
        open_session("openvino", model, settings={"provider": "npu"})
    with pytest.raises(BundleError, match=r"unknown provider cudda of onnxruntime .*did you mean cuda"):
        open_session("onnxruntime", model, settings={"provider": "cudda"})
    with pytest.raises(BundleError, match="unknown provider cuda of openvino"):
        open_session("openvino", model, settings={"provider": "cuda"})


def test_a_provider_that_onnx_runtime_lists_but_does_not_start_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a build for GPUs does where their libraries are missing: it logs a line and gives the CPU.
    monkeypatch.setitem(PROVIDERS, "cuda", ("AzureExecutionProvider", "x", "cuda"))
    with pytest.raises((RuntimeMissing, BundleError), match="AzureExecutionProvider"):
        open_session("onnxruntime", model, settings={"provider": "cuda"})


@both
@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_model_is_named(runtime: str, model: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.read_bytes()[:-100] if content is None else content)
    with pytest.raises(BundleError, match=r"bad\.onnx") as caught:
        open_session(runtime, path)
    assert "\n" not in str(caught.value)


@both
def test_a_missing_model_is_named(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.onnx: no such model"):
        open_session(runtime, tmp_path / "none.onnx")


def graph(kind: int, shape: list[object], output: str = "logits", inputs: int = 1) -> onnx.ModelProto:
    """A graph that takes and gives other things than edgekit's."""
    taken = [helper.make_tensor_value_info(f"images{i}", kind, shape) for i in range(inputs)]
    nodes = [helper.make_node("Concat", [value.name for value in taken], ["all"], axis=0)]
    nodes += [helper.make_node("Cast", ["all"], ["float"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Flatten", ["float"], [output])]
    given = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "other", taken, given), opset_imports=opset, ir_version=8)


@both
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (graph(TensorProto.FLOAT, ["n", 8, 8, 3]), "input is float32"),
        (graph(TensorProto.UINT8, ["n", 3, 8, 8]), r"\(free, 3, 8, 8\)"),
        (graph(TensorProto.UINT8, [1, 8, 8, 4]), r"\(1, 8, 8, 4\)"),
        (graph(TensorProto.UINT8, ["n", "h", "w", 3]), "has no fixed image size"),
        (graph(TensorProto.UINT8, ["n", 8, 8, 3], output="scores"), "no output named logits, only scores"),
        (graph(TensorProto.UINT8, ["n", 8, 8, 3], inputs=2), "has 2 inputs"),
    ],
)
def test_a_graph_that_is_not_edgekits_is_refused(
    runtime: str, tmp_path: Path, other: onnx.ModelProto, message: str
) -> None:
    onnx.save(other, str(tmp_path / "other.onnx"))
    with pytest.raises(BundleError, match=message):
        open_session(runtime, tmp_path / "other.onnx")


def test_installed_tells_versions_without_importing() -> None:
    found = installed()
    known = ["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "litert", "tflite-micro", "executorch"]
    assert list(found) == known
    assert found["onnxruntime"] == ort.__version__


def test_a_runtime_that_is_not_installed_names_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None)
    assert set(installed().values()) == {None}
    with pytest.raises(RuntimeMissing, match="openvino is not installed") as caught:
        open_session("openvino", model)
    assert "[openvino]" in caught.value.hint
    assert "pip install edgekit" not in str(caught.value)


def test_a_runtime_that_does_not_load_says_why(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ImportError("libthing.so: cannot open shared object file")

    monkeypatch.setattr("edgekit.runtimes.onnxruntime.OnnxRuntimeSession", broken)
    with pytest.raises(RuntimeMissing, match=r"installed but does not load: libthing\.so"):
        open_session("onnxruntime", model)
    assert why_not("onnxruntime") is None


def test_a_bundles_variants_agree_with_its_golden_logits(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export")
    images, logits = bundle.golden()
    for variant in bundle.manifest.variants:
        session = load(bundle, variant, threads=1)
        assert session.runtime == variant.runtime
        np.testing.assert_allclose(session.run(images), logits, atol=0.05)


def test_an_ir_whose_weights_the_bundle_does_not_vouch_for_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export")
    variant = bundle.variant("openvino-fp16")
    shutil.copy(bundle.path / "model.onnx", bundle.path / "other.bin")
    others = [variant.files[0], BundleFile.of(bundle.path, "other.bin")]
    with pytest.raises(BundleError, match="does not list its weights"):
        load(bundle, variant.model_copy(update={"files": others}))


def test_sessions_fulfil_the_protocol(session: Session) -> None:
    assert SimpleNamespace(**{k: getattr(session, k) for k in ("runtime", "version", "settings", "run", "close")})
    assert session.runtime in targets.runtimes()
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in session.settings.items())
