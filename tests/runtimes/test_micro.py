"""TFLite Micro's session: one image at a time, the memory that its allocator prints, and one line for what it does not take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from edgekit import runtimes
from edgekit.bench.choose import choose
from edgekit.bundle import Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, DataError, RuntimeMissing
from edgekit.runtimes import installed, open_session
from edgekit.runtimes.predictor import Predictor
from edgekit.runtimes.session import run_in_batches
from tests.helpers.tiny_bundle import make_bundle, some_images, with_tflite, write_tflite

pytest.importorskip("tflite_micro", reason="its wheels are for x86-64 alone")

from edgekit.runtimes.micro import MicroSession, devices, schema
from edgekit.runtimes.native_output import caught_stderr

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(onnx_file: Path) -> Path:
    path = onnx_file.with_suffix(".tflite")
    write_tflite(path, onnx_file, 1)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with a file for TFLite Micro beside the others."""
    made = make_bundle(tmp_path / "run" / "export")
    return with_tflite(made, "micro-int8", "tflite-micro", "int8", "micro_model.tflite", 1)


def test_it_computes_what_onnx_runtime_does(model: Path, onnx_file: Path) -> None:
    images = some_images(5)
    theirs = open_session("onnxruntime", onnx_file).run_all(images)
    session = open_session("tflite-micro", model)
    assert session.batch == 1
    assert set(session.outputs) == {"logits", "embedding"}
    ours = run_in_batches(session, images, 4)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-4 * float(np.ptp(expected)))
    np.testing.assert_array_equal(session.run(images[2:3]), ours["logits"][2:3])
    assert session.version == installed()["tflite-micro"]
    assert session.settings == {"provider": "cpu", "num_threads": "1"}
    assert devices()


def test_answers_are_in_memory_of_their_own(model: Path) -> None:
    session = open_session("tflite-micro", model)
    first = session.run(some_images(1))
    before = first.copy()
    session.run(255 - some_images(1))
    np.testing.assert_array_equal(first, before)
    turned = np.asfortranarray(some_images(1))
    np.testing.assert_array_equal(session.run(turned), before)


def test_the_arena_is_what_the_interpreter_prints(model: Path) -> None:
    from tflite_micro import runtime

    session = open_session("tflite-micro", model)
    assert isinstance(session, MicroSession)
    found = session.arena()
    theirs = runtime.Interpreter.from_file(str(model), arena_size=1 << 22)
    theirs.set_input(some_images(1), 0)
    theirs.invoke()
    with caught_stderr() as caught:
        theirs.print_allocations()
    printed = dict(re.findall(r"allocation (total|head|tail) (\d+) bytes", caught.content.decode()))
    assert {name: int(size) for name, size in printed.items()} == {
        "total": found.total,
        "head": found.head,
        "tail": found.tail,
    }
    # As much is enough, and less is not.
    runtime.Interpreter.from_file(str(model), arena_size=found.total + 64)
    with caught_stderr(), pytest.raises(RuntimeError):
        runtime.Interpreter.from_file(str(model), arena_size=found.total - 64)


def test_what_is_no_image_is_refused(model: Path) -> None:
    session = open_session("tflite-micro", model)
    for images in (some_images(2), some_images(1)[0], some_images(1).astype(np.float32), some_images(1)[:0]):
        with pytest.raises(DataError):
            session.run(images)
    assert session.run(some_images(1)).shape == (1, 6)  # still


@pytest.mark.parametrize(("batch", "text"), [(None, "a free batch axis"), (2, "the batch size 2")])
def test_another_batch_than_one_is_refused(onnx_file: Path, tmp_path: Path, batch: int | None, text: str) -> None:
    path = tmp_path / "model.tflite"
    write_tflite(path, onnx_file, batch)
    with pytest.raises(BundleError, match=f"one image at a time, but the graph has {text}"):
        open_session("tflite-micro", path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_is_one_line(model: Path, tmp_path: Path, share: float) -> None:
    content = model.read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError) as error:
        open_session("tflite-micro", path)
    assert str(error.value).startswith(f"{path}: TFLite Micro cannot load it")
    assert "\n" not in str(error.value)


def test_another_file_is_one_line(onnx_file: Path) -> None:
    with pytest.raises(BundleError, match="TFLite Micro cannot load it: it is not a"):
        open_session("tflite-micro", onnx_file)


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """A .tflite with a change to its model, as bytes that are a sound file of that."""
    model = schema.ModelT.InitFromPackedBuf(content)
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def no_such_operator(model: Any) -> None:
    model.subgraphs[0].operators[1].opcodeIndex = 99


def no_such_tensor(model: Any) -> None:
    model.subgraphs[0].operators[1].inputs = np.array([9999, 1], np.int32)


def a_tensor_before_the_first(model: Any) -> None:
    model.subgraphs[0].operators[1].inputs = np.array([-7, 1], np.int32)


def more_memory_than_there_is(model: Any) -> None:
    for tensor in model.subgraphs[0].tensors[1:3]:
        tensor.shape = np.array([1 << 30, 1 << 30], np.int32)


@pytest.mark.parametrize(
    "change", [no_such_operator, no_such_tensor, a_tensor_before_the_first, more_memory_than_there_is]
)
def test_a_damaged_file_is_one_line(model: Path, tmp_path: Path, change: Callable[[Any], None]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(changed(model.read_bytes(), change))
    with pytest.raises(BundleError) as error:
        open_session("tflite-micro", path)
    assert str(error.value).startswith(f"{path}: TFLite Micro cannot load it")
    assert "\n" not in str(error.value)


def test_a_damaged_file_that_a_bundle_vouches_for_ends_another_process(bundle: Bundle) -> None:
    def flat(model: Any) -> None:
        """Pixels in a row, which a convolution reads as if they had height and width: TFLite Micro does not look."""
        graph = model.subgraphs[0]
        kinds = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
        last = len(kinds) - 1 - kinds[::-1].index(schema.BuiltinOperator.CONV_2D)
        tensor = graph.tensors[graph.operators[last].inputs[0]]
        tensor.shape = np.array([tensor.shape.prod()], np.int32)

    path = bundle.path / "micro_model.tflite"
    path.write_bytes(changed(path.read_bytes(), flat))
    bundle.variant("micro-int8").files = [BundleFile.of(bundle.path, path.name)]
    write_manifest(bundle.path, bundle.manifest)
    with pytest.raises(BundleError) as error:
        Predictor(Bundle.open(bundle.path), "micro-int8")
    # Another release may see it in time.
    assert re.match(
        r".*micro_model\.tflite: TFLite Micro (ended the process that ran it|cannot load it)", str(error.value)
    )
    assert "\n" not in str(error.value)


def test_its_time_is_not_measured(bundle: Bundle, edgekit: Command) -> None:
    chosen, left_out = choose(bundle)
    assert "micro-int8" not in [variant.id for variant in chosen]
    assert {v.id: reason for v, reason in left_out}["micro-int8"].startswith("TFLite Micro is for microcontrollers")
    with pytest.raises(RuntimeMissing, match="micro-int8: TFLite Micro is for microcontrollers"):
        choose(bundle, ["micro-int8"])
    code, _, error = edgekit("bench", str(bundle.path), "--variant", "micro-int8", "--quick")
    assert code == 2
    assert "TFLite Micro is for microcontrollers" in error
    assert "Traceback" not in error


def test_it_is_the_last_choice_of_predict(bundle: Bundle) -> None:
    from edgekit.runtimes.predictor import default_variant

    assert default_variant(bundle).id != "micro-int8"
    bundle.manifest.variants[:] = [bundle.variant("micro-int8")]
    assert default_variant(bundle).id == "micro-int8"


def test_without_the_package_it_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_version", lambda *_: None)
    with pytest.raises(RuntimeMissing) as error:
        runtimes.load(bundle, bundle.variant("micro-int8"))
    assert "tflite-micro is not installed" in str(error.value)
    assert "[micro]" in error.value.hint
