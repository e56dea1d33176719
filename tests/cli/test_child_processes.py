"""What child processes say is read by the one parser: a child that is killed in the middle of a word is one line."""

from __future__ import annotations

import gc
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from edgekit.bench import process
from edgekit.bench.device_memory import held_by
from edgekit.errors import BundleError, EdgekitError, ExportError, RuntimeMissing, error_named, signal_name
from edgekit.foreign import Unreadable
from edgekit.runtimes.isolation import run_in_subprocess
from edgekit.runtimes.onnxruntime import node_times
from edgekit.runtimes.tensorrt import launch, layers
from edgekit.runtimes.tensorrt.options import BuildOptions

OPTIONS = BuildOptions(flavor="trt-rtx", precision="fp32", compute_capabilities=("8.6",))
DEEP = "[" * 100_000


def test_an_error_of_a_child_is_one_of_ours_whatever_it_is_called() -> None:
    assert error_named("BundleError") is BundleError
    for other in ("Iterable", "quoted", "SystemExit", "", "__builtins__"):
        assert error_named(other) is EdgekitError
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"


@pytest.mark.parametrize("text", ["", "{", '{"samples_ns": [1, 2', "[]", "7", "null", DEEP, "\xff"])
def test_an_outcome_that_was_not_finished_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    path.write_bytes(text.encode("latin-1"))
    assert process._read(path) is None
    assert process._read(tmp_path / "missing.json") is None


def die_in_the_middle() -> None:
    """Announce an answer of 100 bytes, and send ten of them."""
    [pipe] = [found for found in gc.get_objects() if isinstance(found, Connection) and found.writable]
    os.write(pipe.fileno(), (100).to_bytes(4, "big") + b"x" * 10)
    os.kill(os.getpid(), signal.SIGKILL)


def die_of_a_signal_without_a_name() -> None:
    os.kill(os.getpid(), 40)


def test_a_process_that_dies_in_the_middle_of_its_answer() -> None:
    with pytest.raises(EdgekitError, match=r"the process died \(SIGKILL\)"):
        run_in_subprocess(die_in_the_middle)
    with pytest.raises(EdgekitError, match=r"the process died \(signal 40\)"):
        run_in_subprocess(die_of_a_signal_without_a_name)


def built(script: str, tmp_path: Path) -> list[tuple[int, str]]:
    """What a builder's process that prints so tells of its progress."""
    told: list[tuple[int, str]] = []
    command = [sys.executable, "-I", "-S", "-c", script]
    launch._run(command, tmp_path / "log", Path("m.onnx"), OPTIONS, lambda steps=1, note="": told.append((steps, note)))
    return told


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", "7", "a remark of a library\n", '{"done": 0.5, "phase"', '{"done": NaN}\n', '{"done": 1e9}\n', '{"done": "x"}\n',
     '{"report": {}}\n', '{"error": "x"}\n', '{"error": {"kind": 1}}\n', DEEP + "\n", "\xff\n"],
)  # fmt: skip
def test_a_builder_that_says_something_else(said: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(said.encode("latin-1"))
    script = (
        f"import sys; sys.stdout.buffer.write(open({str(tmp_path / 'said')!r}, 'rb').read()); sys.stderr.write('why')"
    )
    with pytest.raises(ExportError, match=r"the TensorRT builder ended with code 0 while building m\.onnx: why"):
        built(script, tmp_path)


def test_a_builder_that_is_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    script = 'import os; print(\'{"done": 0.25, "phase": "a"}\'); print(\'{"done": 0.\', end=\'\', flush=True); os.kill(os.getpid(), {})'
    with pytest.raises(ExportError, match="TensorRT crashed with SIGSEGV"):
        built(script.replace("{})", "11)"), tmp_path)
    with pytest.raises(ExportError, match="TensorRT crashed with signal 40"):
        built(script.replace("{})", "40)"), tmp_path)
    error = 'print(\'{"error": {"kind": "%s", "message": "no", "hint": ""}}\')'
    with pytest.raises(RuntimeMissing, match="no"):
        built(error % "RuntimeMissing", tmp_path)
    with pytest.raises(EdgekitError, match="no"):
        built(error % "SystemExit", tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"Layers": 7}', '{"Layers": [{"Inputs": 5}]}', DEEP])
def test_an_inspector_that_says_something_else(text: str) -> None:
    with pytest.raises(Unreadable):
        layers.from_inspector(text)


@pytest.mark.parametrize(
    "profile",
    [b"{", b"{}", b"[7]", b'[{"cat": "Node"}]', b'[{"cat": "Node", "name": "a_kernel_time", "args": 7, "dur": 1}]',
     b'[{"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Conv"}, "dur": NaN}]', DEEP.encode()],
)  # fmt: skip
def test_a_profile_that_is_none(profile: bytes) -> None:
    with pytest.raises(Unreadable):
        node_times(profile)
    event = b'[{"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Conv"}, "dur": 3}, {"cat": "Session"}]'
    assert node_times(event) == [("a", "Conv", 3000)]


def test_memory_by_a_program_that_says_something_else() -> None:
    assert held_by(7, "7, 20\n7, 3\n8, 1\n") == 23 << 20
    for listed in ("7", "7,", "7, [N/A]", "7, \u00b2", "7, 1, 2", "Failed to initialize NVML"):
        assert held_by(7, listed) is None
