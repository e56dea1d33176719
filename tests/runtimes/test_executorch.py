"""ExecuTorch's session: what a program gives, its one pool of threads, and one line for what it does not take."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgekit import runtimes
from edgekit.bundle import Bundle, BundleFile, Variant, write_manifest
from edgekit.errors import BundleError, DataError, RuntimeMissing
from edgekit.runtimes import installed, open_session
from edgekit.runtimes.executorch import devices, require_torch
from edgekit.runtimes.predictor import Predictor
from edgekit.runtimes.session import Session, run_in_batches
from tests.helpers.tiny_bundle import make_bundle, some_images

pytest.importorskip("executorch", reason="it has no wheels for every platform")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(onnx_file: Path) -> Path:
    from edgekit.export.executorch.program import write_program
    from edgekit.onnx_graph.simplify import simplify

    path = onnx_file.with_suffix(".pte")
    write_program(simplify(onnx.load(onnx_file)), onnx_file, path, "fp32")
    return path


@pytest.fixture
def session(model: Path) -> Iterator[Session]:
    opened = open_session("executorch", model, threads=1)
    yield opened
    opened.close()


@pytest.fixture
def bundle(tmp_path: Path, model: Path) -> Bundle:
    """A bundle with a program for ExecuTorch beside the others."""
    made = make_bundle(tmp_path / "run" / "export", embedding=True)
    (made.path / "model.fp32.pte").write_bytes(model.read_bytes())
    files = [BundleFile.of(made.path, "model.fp32.pte")]
    made.manifest.variants.append(
        Variant(
            id="executorch-fp32", runtime="executorch", precision="fp32", files=files, executed=True, status="verified"
        )
    )
    write_manifest(made.path, made.manifest)
    return Bundle.open(made.path)


def test_it_computes_what_onnx_runtime_does(session: Session, onnx_file: Path) -> None:
    images = some_images(5)
    theirs = open_session("onnxruntime", onnx_file).run_all(images)
    assert session.batch == 1
    assert set(session.outputs) == {"logits", "embedding"}
    ours = run_in_batches(session, images, 4)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-4 * float(np.ptp(expected)))
    np.testing.assert_array_equal(session.run(images[2:3]), ours["logits"][2:3])
    assert session.version == installed()["executorch"]
    assert session.settings == {
        "provider": "cpu", "num_threads": "1", "xnnpack_partitions": "1", "outside_xnnpack": "1 to_dim_order_copy",
    }  # fmt: skip


def test_answers_are_in_memory_of_their_own(session: Session) -> None:
    first = session.run(some_images(1))
    before = first.copy()
    session.run(255 - some_images(1))
    np.testing.assert_array_equal(first, before)
    turned = np.asfortranarray(some_images(1))
    turned.flags.writeable = False
    np.testing.assert_array_equal(session.run(turned), before)


def test_what_is_no_image_is_refused(session: Session) -> None:
    for images in (some_images(2), some_images(1)[0], some_images(1).astype(np.float32), some_images(1)[:0]):
        with pytest.raises(DataError) as error:
            session.run(images)
    with pytest.raises(DataError) as error:
        session.run(some_images(2))
    assert "takes exactly 1 image per run" in error.value.hint
    assert session.run(some_images(1)).shape == (1, 6)  # still


def test_open_sessions_share_one_pool_of_threads(model: Path) -> None:
    one = open_session("executorch", model, threads=1)
    with pytest.raises(BundleError, match="a session with 1 threads is open in this process"):
        open_session("executorch", model, threads=2)
    also = open_session("executorch", model)  # whatever the other one has
    assert also.settings["num_threads"] == "1"
    expected = one.run(some_images(1))
    one.close()
    one.close()  # which counts once
    with pytest.raises(BundleError, match="is open in this process"):
        open_session("executorch", model, threads=2)
    np.testing.assert_array_equal(also.run(some_images(1)), expected)
    also.close()
    two = open_session("executorch", model, threads=2)
    assert two.settings["num_threads"] == "2"
    np.testing.assert_allclose(two.run(some_images(1)), expected, atol=1e-4 * float(np.ptp(expected)))
    two.close()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_is_one_line(model: Path, tmp_path: Path, share: float) -> None:
    content = model.read_bytes()
    path = tmp_path / "model.pte"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError) as error:
        open_session("executorch", path, threads=1)
    assert str(error.value).startswith(f"{path}: ExecuTorch cannot load it")
    assert "\n" not in str(error.value)
    open_session("executorch", model, threads=2).close()  # the pool is free


def test_another_file_is_one_line(onnx_file: Path) -> None:
    with pytest.raises(BundleError, match="ExecuTorch cannot load it"):
        open_session("executorch", onnx_file)


def test_a_changed_file_of_a_bundle_does_not_reach_executorch(bundle: Bundle, edgekit: Command) -> None:
    path = bundle.path / "model.fp32.pte"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    code, _, error = edgekit(
        "predict", str(bundle.path), str(bundle.path / "bundle.json"), "--variant", "executorch-fp32"
    )
    assert code == 2
    assert "model.fp32.pte" in error
    assert "Traceback" not in error


@pytest.fixture
def aborting(bundle: Bundle) -> Bundle:
    """A bundle that vouches for a damaged program: a name of weights in XNNPACK's part is another, at which ExecuTorch calls abort()."""
    path = bundle.path / "model.fp32.pte"
    content = path.read_bytes()
    names = [
        found.start() for found in re.finditer(rb"[0-9a-f]{64}", content)
    ]  # of the program's table, then of XNNPACK's part
    changed = names[len(names) // 2] + 55
    path.write_bytes(content[:changed] + b"\xff" + content[changed + 1 :])
    bundle.manifest.variants[-1].files = [BundleFile.of(bundle.path, path.name)]
    write_manifest(bundle.path, bundle.manifest)
    return Bundle.open(bundle.path)


def test_a_damaged_program_that_a_bundle_vouches_for_ends_another_process(aborting: Bundle, edgekit: Command) -> None:
    with pytest.raises(BundleError) as raised:
        Predictor(aborting, "executorch-fp32")
    message = str(raised.value)
    assert message.startswith(f"{aborting.path / 'model.fp32.pte'}: ExecuTorch ended the process that ran it (SIGABRT)")
    assert "\n" not in message


@pytest.mark.slow
def test_commands_say_in_a_line_that_a_program_ended_the_process(aborting: Bundle, edgekit: Command) -> None:
    image = aborting.path.parent / "image.png"
    Image.fromarray(some_images(1)[0]).save(image)
    code, output, error = edgekit("predict", str(aborting.path), str(image), "--variant", "executorch-fp32")
    assert (code, output) == (2, "")
    assert "(SIGABRT)" in error
    assert error.count("\n") == 1
    code, output, _ = edgekit("doctor", str(aborting.path))
    assert code == 1  # as for any variant that was verified and fails here
    assert "SIGABRT" in output
    assert "onnx-fp32" in output  # and the others are still proved
    code, _, error = edgekit("bench", str(aborting.path), "--variant", "executorch-fp32", "--seconds", "0.1")
    assert code == 2
    assert "executorch-fp32: the measuring process died (killed by SIGABRT)" in error
    assert "Traceback" not in error


def test_a_sound_program_answers_as_its_session_does(bundle: Bundle, model: Path) -> None:
    with Predictor(bundle, "executorch-fp32", threads=1) as predictor:
        (answer,) = predictor.predict_pixels(some_images(1))
    session = open_session("executorch", model, threads=1)
    expected = bundle.manifest.classes[int(session.run(some_images(1)).argmax())]
    session.close()
    assert answer.answer == expected


def test_a_setting_that_it_does_not_have_is_refused(model: Path) -> None:
    with pytest.raises(BundleError, match="unknown provider gpu"):
        open_session("executorch", model, settings={"provider": "gpu"})
    with pytest.raises(BundleError, match="unknown setting cuda_graph"):
        open_session("executorch", model, settings={"cuda_graph": "1"})


def test_doctor_proves_it(bundle: Bundle, edgekit: Command) -> None:
    code, output, error = edgekit("doctor", str(bundle.path), "--json")
    assert code == 0, error
    assert "executorch-fp32" in output
    assert devices() == ["CPU (XNNPACK)"]


def test_the_module_loads_no_torch() -> None:
    code = "import sys, edgekit.runtimes.executorch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_it_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "torch" else found(name, *more))
    with pytest.raises(RuntimeMissing) as error:
        runtimes.load(bundle, bundle.variant("executorch-fp32"))
    assert "executorch: its Python runtime needs PyTorch, which is not installed" in str(error.value)
    assert "[executorch]" in error.value.hint
    with pytest.raises(RuntimeMissing):
        require_torch()


def test_without_the_package_it_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_version", lambda *_: None)
    with pytest.raises(RuntimeMissing) as error:
        runtimes.load(bundle, bundle.variant("executorch-fp32"))
    assert "executorch is not installed" in str(error.value)
    assert "[executorch]" in error.value.hint
