"""Which engine is which, and which one runs here: what needs no GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.bundle import BundleFile, write_manifest
from edgekit.errors import BundleError, ExportError
from edgekit.files import sha256
from edgekit.runtimes import open_session
from edgekit.runtimes.tensorrt import BatchRange, BuildOptions, EngineRecord, adapter, build, cuda, engine, layers
from edgekit.runtimes.tensorrt.cache import key, read_record, write_record
from edgekit.runtimes.tensorrt.options import parse_capabilities
from edgekit.runtimes.tensorrt.session import why_not_here
from tests.helpers import tensorrt_graphs
from tests.helpers.tensorrt_graphs import RTX
from tests.helpers.tiny_bundle import make_bundle, write_onnx

model, driver = tensorrt_graphs.model, tensorrt_graphs.driver


def digests(path: Path) -> list[str]:
    """Of an ONNX file without external data."""
    return [sha256(path)]


def test_every_detail_of_a_build_and_a_machine_is_part_of_an_engines_name(model: Path, tmp_path: Path) -> None:
    machine = {"tensorrt": "10.3.0", "gpu": "Orin", "driver": "36.4"}
    other = tmp_path / "other.onnx"
    write_onnx(other, width=4)
    names = {
        key(digests(model), RTX, machine),
        key(digests(other), RTX, machine),
        *(key(digests(model), RTX, {**machine, what: "changed"}) for what in machine),
        *(
            key(digests(model), RTX.model_copy(update=change), machine)
            for change in (
                {"flavor": "trt"},
                {"precision": "fp16"},
                {"batch": BatchRange(max=16)},
                {"compute_capabilities": ("8.9",)},
                {"flags": ("TF32",)},
            )
        ),
    }
    assert len(names) == 10
    moved = tmp_path / "model.onnx"
    moved.write_bytes(model.read_bytes())
    assert key(digests(moved), RTX, machine) == key(digests(model), RTX, machine)


@pytest.mark.parametrize(
    ("batch", "says"), [({"min": 2, "opt": 1, "max": 4}, "not in order"), ({"min": 2, "opt": 4, "max": 4}, "must be 1")]
)
def test_impossible_batches_are_refused(batch: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BatchRange(**batch)


def test_compute_capabilities_as_text() -> None:
    assert parse_capabilities("8.6, 12.0") == ("8.6", "12.0")
    assert BuildOptions(
        flavor="trt-rtx", precision="fp32", compute_capabilities=("12.0", "8.6", "8.6")
    ).compute_capabilities == ("8.6", "12.0")
    for wrong in ("", "8", "sm_86", "9.0"):
        with pytest.raises(ExportError, match="cannot build for compute capability"):
            parse_capabilities(wrong)


@pytest.mark.parametrize(
    ("built_by", "options", "bound_to", "says"),
    [
        ("1.7.1", RTX, {}, ""),
        ("1.6.0", RTX, {}, "built by TensorRT 1.6.0, but 1.7.1 is installed"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ("8.9", "12.0")}), {}, "for compute capability 8.9, 12.0, but this GPU has 8.6"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ()}), {"gpu": "B"}, "built on B, but this is A"),
    ],
)  # fmt: skip
def test_why_an_engine_cannot_run_here(
    built_by: str, options: BuildOptions, bound_to: dict[str, str], says: str
) -> None:
    machine = {"tensorrt": "1.7.1", "gpu": "A", "compute_capability": "8.6", "architecture": "x86_64"}
    why = why_not_here(built_by, options, bound_to, machine)
    assert says in why
    assert bool(says) == bool(why)


def test_progress_of_nested_phases() -> None:
    phases = {"all": (None, 4, 1), "graph": ("all", 2, 1), "layer": ("graph", 10, 5)}
    assert adapter.share(phases, "layer") == pytest.approx((1 + (1 + 0.5) / 2) / 4)
    assert adapter.share({"all": (None, 2, 5)}, "all") == 1.0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP32", "fp32"),
        ("Channel major INT8 format where channel % 32 == 0", "int8"),
        ("Half", "half"),
    ],
)
def test_types_in_the_inspectors_words(text: str, kind: str) -> None:
    content = {"Layers": [{"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": text}]}, "b"]}
    (layer,) = layers.from_inspector(json.dumps(content))
    assert (layer.kind, layer.inputs) == ("CaskConvolution", (kind,))


@pytest.fixture(scope="module")
def real(model: Path, tmp_path_factory: pytest.TempPathFactory, require_module: Callable[[str, str], None]) -> Path:
    """An engine that TensorRT for RTX built, with its record, as a bundle ships it."""
    require_module("tensorrt_rtx", "builds the engine that is refused")
    path = tmp_path_factory.mktemp("real") / "model.engine"
    report = build(model, path, RTX)
    record = EngineRecord(onnx=model.name, onnx_sha256=sha256(model), options=RTX, machine={}, report=report)
    write_record(path, record)
    return path


def recorded_as(release: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        record = json.loads(path.with_name("model.engine.json").read_text())
        record["report"]["tensorrt"] = release
        path.with_name("model.engine.json").write_text(json.dumps(record))

    return change


def of_release(*numbers: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:24] + bytes(numbers) + path.read_bytes()[28:])


OTHERS = [
    (recorded_as("1.6.0.72"), r"it was built by TensorRT 1\.6\.0\.72, but "),
    (of_release(1, 6, 0, 72), r"its file is from TensorRT 1\.6\.0, but "),
    (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "TensorRT does not accept it"),
]


def test_a_real_engine_says_which_release_made_it(real: Path) -> None:
    import tensorrt_rtx

    record = read_record(real)
    assert record is not None
    assert record.report.tensorrt == tensorrt_rtx.__version__
    assert engine.release_of(real.read_bytes()) == adapter.version(tensorrt_rtx)[:3]
    for other in (b"", real.read_bytes()[:27], b"not an engine, but as long as one's header is"):
        assert engine.release_of(other) is None


@pytest.mark.parametrize(("change", "says"), OTHERS, ids=["record", "bytes", "damaged"])
def test_a_real_engine_of_another_release_is_one_line(
    real: Path, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    change: Callable[[Path], None], says: str,
) -> None:  # fmt: skip
    """The GPU and its driver are stand-ins; TensorRT for RTX, the engine, and what is said about it are real."""
    monkeypatch.setattr(cuda.Driver.__init__, "__defaults__", (str(driver),))
    monkeypatch.setenv("STAND_IN_CAPABILITY", "86")
    cuda.driver.cache_clear()
    path = Path(shutil.copytree(real.parent, tmp_path / "export")) / real.name
    change(path)
    try:
        with pytest.raises(
            BundleError,
            match=rf"{says}.*, and model\.onnx is not beside it to build it again \(copy the whole bundle\)",
        ) as caught:
            open_session("tensorrt-rtx", path)
    finally:
        cuda.driver.cache_clear()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_doctor_refuses_a_real_engine_of_another_release_in_one_line(
    real: Path, driver: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False)
    for file in real.parent.iterdir():
        shutil.copy(file, bundle.path)
    of_release(1, 6, 0, 72)(bundle.path / real.name)
    files = [BundleFile.of(bundle.path, name) for name in ("model.engine", "model.engine.json")]
    changes = {"id": "trt-rtx-fp32", "runtime": "tensorrt-rtx", "files": files}
    variant = bundle.manifest.variants[0].model_copy(update=changes)
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"variants": [variant]}))
    (bundle.path / "model.onnx").unlink()
    environ = {**os.environ, "LD_LIBRARY_PATH": str(driver.parent), "STAND_IN_CAPABILITY": "86"}
    command = [sys.executable, "-m", "edgekit", "doctor", str(bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 1
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("trt-rtx-fp32: ")]
    assert "its file is from TensorRT 1.6.0, but" in said
    assert "Traceback" not in done.stdout + done.stderr
