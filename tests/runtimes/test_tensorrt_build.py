"""Building engines with the real builder of TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import BundleError, ExportError
from edgekit.files import sha256
from edgekit.runtimes.model_files import FilesOnDisk
from edgekit.runtimes.tensorrt import (
    BatchRange,
    build,
)
from edgekit.runtimes.tensorrt.cache import EngineCache, read_record
from tests.helpers import tensorrt_graphs
from tests.helpers.tensorrt_graphs import RTX, built_here, pairs, silent, with_nodes
from tests.helpers.tiny_bundle import SIZE

model = tensorrt_graphs.model


@pytest.fixture(autouse=True)
def _needed(require_module: Callable[[str, str], None]) -> None:
    require_module("tensorrt_rtx", "builds engines")


def test_an_engine_is_built_with_progress_and_the_same_bytes_twice(model: Path, tmp_path: Path) -> None:
    progress_calls: list[tuple[int, str]] = []
    report = build(model, tmp_path / "a.engine", RTX, lambda steps=1, note="": progress_calls.append((steps, note)))
    assert sum(steps for steps, _ in progress_calls) == 100
    assert len({note for _, note in progress_calls}) > 2
    assert report.engine_sha256 == sha256(tmp_path / "a.engine")
    assert report.profile == {"images": [[1, SIZE, SIZE, 3], [1, SIZE, SIZE, 3], [4, SIZE, SIZE, 3]]}
    assert (report.typing, report.flags, report.warnings) == ("strong", (), ())
    # Which kernels came out is known without a GPU, and which nodes each computes.
    assert report.layers_from == "log"
    named = {node for layer in report.layers for node in layer.nodes}
    assert {"uint8", "float"} <= {kind for layer in report.layers for kind in layer.inputs}
    assert len(named) >= 4
    # Byte for byte with a static batch; with a free one TensorRT's numbering of internal names may differ, and with it the size.
    static = RTX.model_copy(update={"batch": BatchRange(min=2, opt=2, max=2)})
    first, second = (build(model, tmp_path / name, static, silent) for name in ("b.engine", "c.engine"))
    assert (tmp_path / "b.engine").read_bytes() == (tmp_path / "c.engine").read_bytes()
    assert first.engine_sha256 == second.engine_sha256 != report.engine_sha256
    assert built_here(model).layers == report.layers


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([helper.make_node("Bernoulli", ["pooled"], ["b"], name="drop/coin"),
          helper.make_node("MatMul", ["b", "head"], ["logits"], name="product")],
         r"node drop/coin, operator Bernoulli: unsupported node \(use a network without this node"),
        ([helper.make_node("NonZero", ["pooled"], ["n"], name="where"),  # a shape that depends on the data
          helper.make_node("Cast", ["n"], ["logits"], to=TensorProto.FLOAT, name="c")],
         "node where, operator NonZero: "),
    ],
)  # fmt: skip
def test_a_refused_node_is_named_with_its_operator_and_the_reason(tmp_path: Path, nodes: list[Any], says: str) -> None:
    path = with_nodes(tmp_path / "model.onnx", nodes)
    with pytest.raises(ExportError, match=rf"TensorRT for RTX cannot parse model\.onnx: {says}") as caught:
        built_here(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made.engine").exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "the file is damaged or not ONNX"),
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.with_name("weights").unlink(), "its weights are in another file"),
    ],
    ids=["truncated", "empty", "external data missing"],
)
def test_a_damaged_file_is_one_line(model: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, location="weights", size_threshold=0)
    spoil(path)
    with pytest.raises(ExportError, match=says):
        built_here(path)


def test_what_the_builders_process_refuses_comes_out_as_it_is(model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(model.read_bytes()[:500])
    with pytest.raises(ExportError, match=r"cannot parse model\.onnx") as caught:
        build(damaged, tmp_path / "model.engine", RTX, silent)
    assert caught.value.hint == "the file is damaged or not ONNX: export it again"
    with pytest.raises(ExportError, match="no such model"):
        build(tmp_path / "none.onnx", tmp_path / "model.engine", RTX, silent)
    assert list(tmp_path.iterdir()) == [damaged]


def test_external_data_is_read(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert built_here(path).layers == built_here(model).layers


def test_what_the_parser_would_only_warn_of_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"would not compute what model\.onnx specifies: .*Defaulting to INT8"):
        built_here(with_nodes(tmp_path / "model.onnx", *pairs(np.uint8(0))))
    with pytest.raises(ExportError, match="node quantize, operator QuantizeLinear: Non-zero zero point"):
        built_here(with_nodes(tmp_path / "model.onnx", *pairs(np.uint8(7))))
    signed = with_nodes(tmp_path / "model.onnx", *pairs(np.int8(0)))
    assert built_here(signed).quantized == ("product",)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_the_progress_raises_ends_the_build_and_comes_out(
    model: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    def cancel(steps: int = 1, note: str = "") -> None:
        raise error

    with pytest.raises(error):
        build(model, tmp_path / "model.engine", RTX, cancel)
    assert list(tmp_path.iterdir()) == []
    assert children() == []


def test_ctrl_c_ends_the_command_and_its_builder(model: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from edgekit.runtimes.tensorrt import *\n"
        "def stop(steps=1, note=''): os.kill(os.getpid(), signal.SIGINT)\n"
        "o = BuildOptions(flavor='trt-rtx', precision='fp32', compute_capabilities=('8.6',))\n"
        "build(Path(sys.argv[1]), Path(sys.argv[2]), o, stop)\n"
    )
    command = [sys.executable, "-c", script, str(model), str(tmp_path / "model.engine")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "hint"), [(signal.SIGSEGV, "leave out the flags TF32"), (signal.SIGKILL, "memory")])
def test_a_builder_that_crashes_is_one_line(model: Path, tmp_path: Path, number: signal.Signals, hint: str) -> None:
    def crash(steps: int = 1, note: str = "") -> None:
        for child in children():
            os.kill(child, number)

    flagged = RTX.model_copy(update={"flags": ("TF32",)})
    with pytest.raises(ExportError, match=rf"TensorRT crashed with {number.name} while building model\.onnx .*{hint}"):
        build(model, tmp_path / "model.engine", flagged, crash)
    assert list(tmp_path.iterdir()) == []


def test_what_a_release_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    for flag in ("INT8", "FASTER"):  # TensorRT for RTX has no flags for types
        with pytest.raises(ExportError, match=f"has no builder flag {flag}"):
            built_here(model, RTX.model_copy(update={"flags": (flag,)}))
    orin = RTX.model_copy(update={"compute_capabilities": ("8.7",)})
    with pytest.raises(ExportError, match=r"cannot build for compute capability 8\.7 .*for a Jetson use --target trt"):
        build(model, tmp_path / "e", orin, silent)
    turing = RTX.model_copy(update={"compute_capabilities": ("7.5",)})
    with pytest.raises(ExportError, match=r"leave out compute capability 7\.5"):
        built_here(model, turing)


def test_engines_are_kept_and_made_again_where_they_are_not_taken(model: Path, tmp_path: Path) -> None:
    machine = {"tensorrt": "1.7.1", "gpu": "a", "compute_capability": "8.6"}
    kept = EngineCache(tmp_path / "engines")
    first = kept.load(FilesOnDisk(model), model.name, RTX, machine, bytes)
    (path,) = kept.folder.glob("*.engine")
    record = read_record(path)
    assert record is not None
    assert (record.onnx, record.onnx_sha256, record.machine) == ("model.onnx", sha256(model), machine)
    made = path.stat().st_mtime_ns
    assert kept.load(FilesOnDisk(model), model.name, RTX, machine, bytes) == first
    assert path.stat().st_mtime_ns == made

    path.write_bytes(first[:100])  # damaged
    assert kept.load(FilesOnDisk(model), model.name, RTX, machine, bytes) == first

    refused = iter([None, b"taken"])  # by a runtime that does not take the first
    assert kept.load(FilesOnDisk(model), model.name, RTX, machine, lambda plan: next(refused)) == b"taken"
    with pytest.raises(BundleError, match="built an engine from it but cannot load that engine"):
        kept.load(FilesOnDisk(model), model.name, RTX, machine, lambda plan: None)
    coin = helper.make_node("Bernoulli", ["pooled"], ["logits"], name="coin")
    refusable = with_nodes(tmp_path / "bad.onnx", [coin])
    with pytest.raises(BundleError, match="operator Bernoulli"):
        kept.load(FilesOnDisk(refusable), refusable.name, RTX, machine, bytes)
    assert {p.suffix for p in kept.folder.iterdir()} == {".engine", ".json"}, "nothing half-made is left"


def children() -> list[int]:
    """Processes that this one started and that live."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(child) for child in text.split() if "tensorrt.builder" in Path(f"/proc/{child}/cmdline").read_text()]
