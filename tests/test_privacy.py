"""No command reports to anybody: no connection, and nothing below the home folder (edgekit's own cache lies elsewhere here)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.observed import network_observer, observed
from tests.helpers.tiny_bundle import make_bundle, some_images, write_onnx

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the observer is loaded by Linux's linker")


@pytest.fixture(scope="module")
def observer(require_tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    cc = require_tool("cc", "compiles the library that watches for connections")
    return network_observer(cc, tmp_path_factory.mktemp("observer"))


def test_the_observer_sees_python_compiled_code_and_child_processes(observer: Path, tmp_path: Path) -> None:
    """Else the tests below would pass whatever is sent."""
    code = """
import ctypes, multiprocessing, pathlib, socket
def from_a_child(): socket.socket().connect_ex(("192.0.2.1", 9))
if __name__ == "__main__":
    for call in (lambda: socket.create_connection(("somewhere.invalid", 9)), lambda: socket.create_connection(("192.0.2.2", 9))):
        try: call()
        except OSError: pass
    address = bytes([2, 0, 0, 9, 192, 0, 2, 3]) + bytes(8)
    assert ctypes.CDLL(None).connect(socket.socket().fileno(), address, 16) == -1
    child = multiprocessing.get_context("fork").Process(target=from_a_child); child.start(); child.join()
    pathlib.Path.home().joinpath("left").write_text("")
"""
    (tmp_path / "asks.py").write_text(code)
    seen = observed(observer, tmp_path, "asks.py")
    assert seen.done.returncode == 0, seen.done.stderr
    assert {"getaddrinfo somewhere.invalid", "connect 192.0.2.3", "connect 192.0.2.1"} <= set(seen.asked)
    assert seen.left == ["left"]


def test_predict_and_bench_tell_nobody(observer: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").path
    Image.fromarray(some_images(1)[0]).save(tmp_path / "photo.png")
    for arguments in (
        ["predict", bundle, "photo.png", "--variant", "openvino-fp16"],
        ["predict", bundle, "photo.png", "--variant", "onnx-fp32"],
        ["doctor", bundle],
        ["bench", bundle, "--quick", "--output", "results"],
    ):
        seen = observed(observer, tmp_path, "-m", "edgekit", *arguments)
        assert seen.done.returncode == 0, seen.done.stderr
        assert (seen.asked, seen.left) == ([], []), arguments


@pytest.mark.slow
def test_export_tells_nobody(observer: Path, tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", width=16)
    for i, image in enumerate(some_images(40)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "photos" / f"{i}.png")
    arguments = ["export", "model.onnx", "--calibrate", "photos", "--max-drop", "100", "--output", "out"]
    seen = observed(observer, tmp_path, "-m", "edgekit", *arguments)
    assert (tmp_path / "out" / "bundle.json").is_file(), seen.done.stderr
    assert (seen.asked, seen.left) == ([], [])


def test_a_user_of_the_library_is_as_safe_and_may_choose_otherwise(observer: Path, tmp_path: Path) -> None:
    """Also of OpenVINO's own converter, and of NNCF, which edgekit's own code need not call the same way tomorrow."""
    code = """
import edgekit, os, nncf, openvino, onnxruntime
from openvino.tools.ovc import telemetry
telemetry.send_event("a", "b", "c")
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    # Older releases of NNCF import matplotlib, which keeps a list of the fonts.
    seen = observed(observer, tmp_path, "-c", code, MPLCONFIGDIR=str(tmp_path / "matplotlib"))
    assert seen.done.returncode == 0, seen.done.stderr
    assert (seen.done.stdout, seen.asked, seen.left) == ("1\n", [], [])
    chosen = observed(
        observer,
        tmp_path,
        "-c",
        "import edgekit, os; print(os.environ['ORT_DISABLE_TELEMETRY'])",
        ORT_DISABLE_TELEMETRY="0",
    )
    assert chosen.done.stdout == "0\n"


def test_a_consent_that_was_given_is_not_touched(observer: Path, tmp_path: Path) -> None:
    consent = tmp_path / "user" / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True)
    consent.write_text("1")
    before = consent.stat()
    seen = observed(observer, tmp_path, "-c", "import edgekit, openvino", home=tmp_path / "user")
    assert seen.done.returncode == 0, seen.done.stderr
    assert (seen.asked, seen.left) == ([], ["intel", "intel/openvino_telemetry"])
    assert (consent.read_text(), consent.stat().st_mtime_ns) == ("1", before.st_mtime_ns)
