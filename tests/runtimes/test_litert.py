"""LiteRT's session: the same verbs as every other's, any batch, several at a time, and one line for what it does not take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekit import runtimes
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, DataError
from edgekit.runtimes import installed, load, open_session, why_not
from edgekit.runtimes.litert import devices
from edgekit.runtimes.session import run_in_batches
from edgekit.runtimes.streams import open_streams
from tests.helpers.tiny_bundle import SIZE, make_bundle, some_images, with_tflite, write_tflite

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(onnx_file: Path) -> Path:
    path = onnx_file.with_suffix(".tflite")
    write_tflite(path, onnx_file)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with a LiteRT file beside the others."""
    return with_tflite(make_bundle(tmp_path / "run" / "export"), "litert-fp32", "litert", "fp32", "model.fp32.tflite")


def test_it_computes_what_onnx_runtime_does_in_every_batch(model: Path, onnx_file: Path) -> None:
    images = some_images(9)
    theirs = open_session("onnxruntime", onnx_file).run_all(images)
    session = open_session("litert", model, threads=1)
    assert session.batch is None
    assert set(session.outputs) == {"logits", "embedding"}
    for count in (9, 1, 4, 9):
        ours = session.run_all(images[:count])
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected[:count], atol=1e-4 * float(np.ptp(expected)))
        np.testing.assert_array_equal(session.run(images[:count]), ours["logits"])
    np.testing.assert_array_equal(run_in_batches(session, images, 4)["logits"][:4], session.run(images[:4]))
    session.close()


def test_answers_are_in_memory_of_their_own(model: Path) -> None:
    session = open_session("litert", model, threads=1)
    first = session.run(some_images(2))
    before = first.copy()
    session.run(255 - some_images(2))
    np.testing.assert_array_equal(first, before)


def test_memory_of_any_layout_is_taken(model: Path) -> None:
    session = open_session("litert", model, threads=1)
    images = some_images(4)
    turned = np.asfortranarray(images)
    turned.flags.writeable = False
    np.testing.assert_array_equal(session.run(turned), session.run(images))
    np.testing.assert_array_equal(session.run(images[::2]), session.run(np.ascontiguousarray(images[::2])))


def test_it_says_how_it_computes(model: Path) -> None:
    session = open_session("litert", model, threads=2)
    assert session.settings == {
        "provider": "cpu",
        "num_threads": "2",
        "xnnpack_partitions": "1",
        "outside_xnnpack": "nothing",
    }
    assert session.version == installed()["litert"]
    assert devices() == ["CPU (XNNPACK)"]
    assert int(open_session("litert", model).settings["num_threads"]) >= 1


def test_several_batches_are_in_flight(model: Path) -> None:
    session = open_session("litert", model, threads=2)
    streams = open_streams(session, 3)
    images, found = some_images(12), {}
    expected = session.run(images)
    try:
        for i in range(12):
            streams.submit(images[i : i + 1], lambda logits, i=i: found.setdefault(i, logits))
        streams.wait()
    finally:
        streams.close()
    assert streams.count == 3
    np.testing.assert_allclose(np.concatenate([found[i] for i in range(12)]), expected, atol=1e-5)


def test_what_is_no_batch_is_refused(model: Path) -> None:
    session = open_session("litert", model, threads=1)
    for images in (some_images(1)[0], some_images(1).astype(np.float32), some_images(1)[:, 1:], some_images(1)[:0]):
        with pytest.raises(DataError):
            session.run(images)
    assert session.run(some_images(1)).shape == (1, 6)  # still


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_is_one_line(model: Path, tmp_path: Path, share: float) -> None:
    content = model.read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError) as error:
        open_session("litert", path)
    assert str(error.value).startswith(f"{path}: LiteRT cannot load it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [b"image", b"logits"])
def test_a_name_that_is_no_text_is_one_line(model: Path, tmp_path: Path, name: bytes) -> None:
    content = model.read_bytes()
    places = [found.start() for found in re.finditer(name, content)]
    assert len(places) > 1  # that of the tensor and that of the signature
    path = tmp_path / "model.tflite"
    for place in places:
        path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])  # which UTF-8 does not have
        with pytest.raises(BundleError) as error:
            open_session("litert", path)
        assert str(error.value).startswith(f"{path}: LiteRT cannot load it")


def test_a_name_within_the_graph_that_is_no_text_is_one_line(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    # Its tensors are those that LiteRT is asked about when it has loaded the file.
    (operator, *_) = Interpreter(model_content=content)._get_ops_details()
    names = {x["index"]: x["name"].encode() for x in Interpreter(model_content=content).get_tensor_details()}
    place = content.index(names[operator["outputs"][0]])
    path = tmp_path / "model.tflite"
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(BundleError) as error:
        open_session("litert", path)
    assert str(error.value).startswith(f"{path}: LiteRT cannot load it")


def test_another_file_is_one_line(onnx_file: Path) -> None:
    with pytest.raises(BundleError, match="LiteRT cannot load it"):
        open_session("litert", onnx_file)


def test_a_file_that_was_changed_is_not_loaded(bundle: Bundle) -> None:
    path = bundle.path / "model.fp32.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # a weight: the file is as good as any
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.fp32\.tflite"):
        load(bundle, bundle.variant("litert-fp32"))


def test_settings_and_providers_are_checked(model: Path) -> None:
    with pytest.raises(BundleError, match="unknown setting spin"):
        open_session("litert", model, settings={"spin": "1"})
    with pytest.raises(BundleError, match="unknown provider gpu of litert"):
        open_session("litert", model, settings={"provider": "gpu"})


def test_without_it_the_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None)
    missing = why_not("litert")
    assert missing is not None
    assert "litert is not installed" in missing.message
    assert "[litert]" in missing.hint


def test_it_writes_nothing_to_standard_error(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_session("litert", model).run(some_images(1))
    assert "XNNPACK" not in capfd.readouterr().err


def test_the_commands_know_it(
    bundle: Bundle, edgekit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the results go
    code, out, err = edgekit("doctor", bundle.path, "--json")
    assert code == 0, err
    assert {v["variant"]: v["outcome"] for v in json.loads(out)["variants"]}["litert-fp32"] == "proved"
    code, out, err = edgekit("bench", bundle.path, "--variant", "litert-fp32", "--quick", "--seconds", 0.05, "--json")
    assert code == 0, err
    assert [row["variant"] for row in json.loads(out)["results"]] == ["litert-fp32"]
    code, out, err = edgekit("export", "--list", "--json")
    assert {row["precision"] for row in json.loads(out) if row["target"] == "litert"} == {"fp32", "fp16", "int8"}
    code, _, err = edgekit("bench", bundle.path, "--variant", "litert-fp32", "--provider", "gpu")
    assert code == 2
    assert "litert has no provider gpu" in err


def test_the_size_is_the_models(model: Path) -> None:
    session = open_session("litert", model, threads=1)
    with pytest.raises(DataError, match=rf"\(n, {SIZE}, {SIZE}, 3\)"):
        session.run(np.zeros((1, SIZE + 1, SIZE, 3), np.uint8))
