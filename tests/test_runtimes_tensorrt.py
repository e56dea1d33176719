"""TensorRT on the device side. The builder is the real one of TensorRT for RTX; what needs a GPU runs against stand-ins (tests/stand_ins)."""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import runtimes
from edgekit.errors import BundleError, DataError, ExportError, RuntimeMissing
from edgekit.files import sha256
from edgekit.runtimes import open_session
from edgekit.runtimes.session import Profiled, Staged
from edgekit.runtimes.tensorrt import (
    Batch,
    BuildOptions,
    BuildPlan,
    BuildReport,
    EngineRecord,
    adapter,
    build,
    builder,
    cuda,
    engine,
    layers,
)
from edgekit.runtimes.tensorrt.cache import EngineCache, key, read_record, this_machine, write_record
from edgekit.runtimes.tensorrt.options import parse_capabilities
from edgekit.runtimes.tensorrt.session import TensorRtSession, why_not_here
from tiny_bundle import CLASSES, SIZE, some_images, write_onnx

HERE = Path(__file__).parent
RTX = BuildOptions(flavour="trt-rtx", precision="fp32", batch=Batch(max=4), compute_capabilities=("8.6",))


def silent(steps: int = 1, note: str = "") -> None: ...


def built_here(path: Path, options: BuildOptions = RTX) -> BuildReport:
    """What the builder's process does, in this one: for what is not about the process."""
    return builder.run(path, path.with_name("made.engine"), options, None, lambda done, phase: True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_onnx(path)
    return path


def with_nodes(path: Path, nodes: list[Any], weights: list[Any] = []) -> Path:  # noqa: B006
    """An ONNX of edgekit's form: the mean colour of each image, then `nodes`, which make `logits` of `pooled`."""
    before = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("ReduceMean", ["float"], ["pooled"], axes=[1, 2], keepdims=0, name="pool"),
    ]
    head = numpy_helper.from_array(np.ones((3, 6), np.float32), "head")
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 6])
    graph = helper.make_graph([*before, *nodes], "graph", [image], [logits], [head, *weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def pairs(zero_point: Any) -> tuple[list[Any], list[Any]]:
    """A matrix product of quantised data."""
    names = ["scale", "zero"]
    return [
        helper.make_node("QuantizeLinear", ["pooled", *names], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", *names], ["dq"], name="dequantize"),
        helper.make_node("MatMul", ["dq", "head"], ["logits"], name="product"),
    ], [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(zero_point, "zero")]


class TestBuilding:
    """With the builder of TensorRT for RTX, which needs no GPU."""

    @pytest.fixture(autouse=True)
    def _needed(self, require_module: Callable[[str, str], None]) -> None:
        require_module("tensorrt_rtx", "builds engines")

    def test_an_engine_is_built_with_progress_and_the_same_bytes_twice(self, model: Path, tmp_path: Path) -> None:
        told: list[tuple[int, str]] = []
        report = build(model, tmp_path / "a.engine", RTX, lambda steps=1, note="": told.append((steps, note)))
        assert sum(steps for steps, _ in told) == 100
        assert len({note for _, note in told}) > 2
        assert report.engine_sha256 == sha256(tmp_path / "a.engine")
        assert report.profile == {"images": [[1, SIZE, SIZE, 3], [1, SIZE, SIZE, 3], [4, SIZE, SIZE, 3]]}
        assert (report.typing, report.flags, report.warnings) == ("strong", (), ())
        # Which kernels came out is known without a GPU, and which nodes each computes.
        assert report.layers_from == "log"
        named = {node for layer in report.layers for node in layer.nodes}
        assert {"uint8", "float"} <= {kind for layer in report.layers for kind in layer.inputs}
        assert len(named) >= 4
        # Byte for byte with a static batch; with a free one TensorRT's numbering of internal names may differ, and with it the size.
        static = RTX.model_copy(update={"batch": Batch(min=2, opt=2, max=2)})
        first, second = (build(model, tmp_path / name, static, silent) for name in ("b.engine", "c.engine"))
        assert (tmp_path / "b.engine").read_bytes() == (tmp_path / "c.engine").read_bytes()
        assert first.engine_sha256 == second.engine_sha256 != report.engine_sha256
        assert built_here(model).layers == report.layers

    @pytest.mark.parametrize(
        ("nodes", "says"),
        [
            ([helper.make_node("Bernoulli", ["pooled"], ["b"], name="drop/coin"),
              helper.make_node("MatMul", ["b", "head"], ["logits"], name="product")],
             r"node drop/coin, operator Bernoulli: unsupported node \(choose a network without it"),
            ([helper.make_node("NonZero", ["pooled"], ["n"], name="where"),  # a shape that depends on the data
              helper.make_node("Cast", ["n"], ["logits"], to=TensorProto.FLOAT, name="c")],
             "node where, operator NonZero: "),
        ],
    )  # fmt: skip
    def test_a_refused_node_is_named_with_its_operator_and_the_reason(
        self, tmp_path: Path, nodes: list[Any], says: str
    ) -> None:
        path = with_nodes(tmp_path / "model.onnx", nodes)
        with pytest.raises(ExportError, match=rf"TensorRT for RTX does not take model\.onnx: {says}") as caught:
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
    def test_a_damaged_file_is_one_line(
        self, model: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
    ) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(onnx.load(model), path, save_as_external_data=True, location="weights", size_threshold=0)
        spoil(path)
        with pytest.raises(ExportError, match=says):
            built_here(path)

    def test_what_the_builders_process_refuses_comes_out_as_it_is(self, model: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "model.onnx"
        damaged.write_bytes(model.read_bytes()[:500])
        with pytest.raises(ExportError, match=r"does not take model\.onnx") as caught:
            build(damaged, tmp_path / "model.engine", RTX, silent)
        assert caught.value.hint == "the file is damaged or not ONNX: export it again"
        with pytest.raises(ExportError, match="no such model"):
            build(tmp_path / "none.onnx", tmp_path / "model.engine", RTX, silent)
        assert list(tmp_path.iterdir()) == [damaged]

    def test_external_data_is_read(self, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(onnx.load(model), path, save_as_external_data=True, location="weights", size_threshold=0)
        assert built_here(path).layers == built_here(model).layers

    def test_what_the_parser_would_only_warn_of_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(
            ExportError, match=r"would compute something else than model\.onnx says: .*Defaulting to INT8"
        ):
            built_here(with_nodes(tmp_path / "model.onnx", *pairs(np.uint8(0))))
        with pytest.raises(ExportError, match="node quantize, operator QuantizeLinear: Non-zero zero point"):
            built_here(with_nodes(tmp_path / "model.onnx", *pairs(np.uint8(7))))
        signed = with_nodes(tmp_path / "model.onnx", *pairs(np.int8(0)))
        assert built_here(signed).quantized == ("product",)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_what_the_progress_raises_ends_the_build_and_comes_out(
        self, model: Path, tmp_path: Path, error: type[BaseException]
    ) -> None:
        def cancel(steps: int = 1, note: str = "") -> None:
            raise error

        with pytest.raises(error):
            build(model, tmp_path / "model.engine", RTX, cancel)
        assert list(tmp_path.iterdir()) == []
        assert children() == []

    def test_ctrl_c_ends_the_command_and_its_builder(self, model: Path, tmp_path: Path) -> None:
        script = (
            "import os, signal, sys; from pathlib import Path; from edgekit.runtimes.tensorrt import *\n"
            "def stop(steps=1, note=''): os.kill(os.getpid(), signal.SIGINT)\n"
            "o = BuildOptions(flavour='trt-rtx', precision='fp32', compute_capabilities=('8.6',))\n"
            "build(Path(sys.argv[1]), Path(sys.argv[2]), o, stop)\n"
        )
        command = [sys.executable, "-c", script, str(model), str(tmp_path / "model.engine")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("number", "hint"), [(signal.SIGSEGV, "leave out the flags TF32"), (signal.SIGKILL, "memory")]
    )
    def test_a_builder_that_crashes_is_one_line(
        self, model: Path, tmp_path: Path, number: signal.Signals, hint: str
    ) -> None:
        def crash(steps: int = 1, note: str = "") -> None:
            for child in children():
                os.kill(child, number)

        flagged = RTX.model_copy(update={"flags": ("TF32",)})
        with pytest.raises(
            ExportError, match=rf"TensorRT crashed with {number.name} while building model\.onnx .*{hint}"
        ):
            build(model, tmp_path / "model.engine", flagged, crash)
        assert list(tmp_path.iterdir()) == []

    def test_what_a_release_does_not_have_is_refused(self, model: Path, tmp_path: Path) -> None:
        for flag in ("INT8", "FASTER"):  # TensorRT for RTX has no flags for types
            with pytest.raises(ExportError, match=f"has no builder flag {flag}"):
                built_here(model, RTX.model_copy(update={"flags": (flag,)}))
        orin = RTX.model_copy(update={"compute_capabilities": ("8.7",)})
        with pytest.raises(
            ExportError, match=r"does not build for compute capability 8\.7 .*a Jetson takes --target trt"
        ):
            build(model, tmp_path / "e", orin, silent)
        turing = RTX.model_copy(update={"compute_capabilities": ("7.5",)})
        with pytest.raises(ExportError, match=r"leave out compute capability 7\.5"):
            built_here(model, turing)

    def test_engines_are_kept_and_made_again_where_they_are_not_taken(self, model: Path, tmp_path: Path) -> None:
        machine = {"tensorrt": "1.7.1", "gpu": "a", "compute_capability": "8.6"}
        kept = EngineCache(tmp_path / "engines")
        first = kept.load(model, RTX, machine, bytes)
        (path,) = kept.folder.glob("*.engine")
        record = read_record(path)
        assert record is not None
        assert (record.onnx, record.onnx_sha256, record.machine) == ("model.onnx", sha256(model), machine)
        made = path.stat().st_mtime_ns
        assert kept.load(model, RTX, machine, bytes) == first
        assert path.stat().st_mtime_ns == made

        path.write_bytes(first[:100])  # damaged
        assert kept.load(model, RTX, machine, bytes) == first

        refused = iter([None, b"taken"])  # by a runtime that does not take the first
        assert kept.load(model, RTX, machine, lambda plan: next(refused)) == b"taken"
        with pytest.raises(BundleError, match="built an engine from it and does not take it"):
            kept.load(model, RTX, machine, lambda plan: None)
        coin = helper.make_node("Bernoulli", ["pooled"], ["logits"], name="coin")
        refusable = with_nodes(tmp_path / "bad.onnx", [coin])
        with pytest.raises(BundleError, match="operator Bernoulli"):
            kept.load(refusable, RTX, machine, bytes)
        assert {p.suffix for p in kept.folder.iterdir()} == {".engine", ".json"}, "nothing half-made is left"


def children() -> list[int]:
    """Processes that this one started and that live."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(child) for child in text.split() if "tensorrt.builder" in Path(f"/proc/{child}/cmdline").read_text()]


def test_every_detail_of_a_build_and_a_machine_is_part_of_an_engines_name(model: Path, tmp_path: Path) -> None:
    machine = {"tensorrt": "10.3.0", "gpu": "Orin", "driver": "36.4"}
    other = tmp_path / "other.onnx"
    write_onnx(other, width=4)
    names = {
        key(model, RTX, machine),
        key(other, RTX, machine),
        *(key(model, RTX, {**machine, what: "changed"}) for what in machine),
        *(
            key(model, RTX.model_copy(update=change), machine)
            for change in (
                {"flavour": "trt"},
                {"precision": "fp16"},
                {"batch": Batch(max=16)},
                {"compute_capabilities": ("8.9",)},
                {"flags": ("TF32",)},
            )
        ),
    }
    assert len(names) == 10
    moved = tmp_path / "model.onnx"
    moved.write_bytes(model.read_bytes())
    assert key(moved, RTX, machine) == key(model, RTX, machine)


@pytest.mark.parametrize(
    ("batch", "says"), [({"min": 2, "opt": 1, "max": 4}, "not in order"), ({"min": 2, "opt": 4, "max": 4}, "must be 1")]
)
def test_impossible_batches_are_refused(batch: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Batch(**batch)


def test_compute_capabilities_as_text() -> None:
    assert parse_capabilities("8.6, 12.0") == ("8.6", "12.0")
    assert BuildOptions(
        flavour="trt-rtx", precision="fp32", compute_capabilities=("12.0", "8.6", "8.6")
    ).compute_capabilities == ("8.6", "12.0")
    for wrong in ("", "8", "sm_86", "9.0"):
        with pytest.raises(ExportError, match="does not build for compute capability"):
            parse_capabilities(wrong)


@pytest.mark.parametrize(
    ("built_by", "options", "bound_to", "says"),
    [
        ("1.7.1", RTX, {}, ""),
        ("1.6.0", RTX, {}, "built by TensorRT 1.6.0, here is 1.7.1"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ("8.9", "12.0")}), {}, "for compute capability 8.9, 12.0, this GPU has 8.6"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ()}), {"gpu": "B"}, "built on B, here is A"),
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
    told = {"Layers": [{"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": text}]}, "b"]}
    (layer,) = layers.from_inspector(json.dumps(told))
    assert (layer.kind, layer.inputs) == ("CaskConvolution", (kind,))


# What a variable that holds one of TensorRT's objects is called in the adapter -> its class in the listings.
_CLASSES = {
    "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser", "error": "ParserError",
    "profile": "IOptimizationProfile", "tensor": "ITensor", "layer": "ILayer", "before": "ILayer", "cache": "ITimingCache",
    "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector",
}  # fmt: skip


def uses(source: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(class, attribute) pairs that a source file uses of TensorRT's objects, and those that it asks for with `hasattr` first.

    `trt.X.Y` is the member Y of the enum X, and `member(trt, "X", "Y")` one that need not be there.
    """
    used, asked = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _CLASSES:
            used.add((_CLASSES[node.value.id], node.attr))
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and ast.unparse(node.value.value) == "trt"
        ):
            used.add((node.value.attr, node.attr))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "trt" and not node.attr.startswith("__"):
            used.add((node.attr, ""))
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "hasattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            asked.add((_CLASSES.get(ast.unparse(node.args[0]), node.args[1].value), str(node.args[1].value)))
    return used, asked


def real_rtx() -> dict[str, Any]:
    import tensorrt_rtx

    return {name: set(dir(getattr(tensorrt_rtx, name))) for name in dir(tensorrt_rtx)}


@pytest.mark.parametrize("release", ["10.3", "10.16", "11.4", "rtx"])
def test_every_name_that_is_used_is_in_every_release(release: str, require_module: Callable[[str, str], None]) -> None:
    if release == "rtx":
        require_module("tensorrt_rtx", "its names are compared")
        names = real_rtx()
    else:
        names = json.loads((HERE / "data" / "tensorrt_api" / f"{release}.json").read_text())
    used, asked = map(set.union, *[uses(inspect.getsource(module)) for module in (adapter, engine)])
    assert ("IExecutionContext", "execute_async_v3") in used, "the files are read at all"
    assert len(used) > 50
    guarded = {attribute for _, attribute in asked}
    absent = {
        (owner, attribute)
        for owner, attribute in used
        if owner not in names or (attribute and attribute not in names[owner])
    }
    assert {f"{owner}.{attribute}" for owner, attribute in absent if attribute not in guarded} == set()


@pytest.mark.parametrize(
    ("flavour", "release", "strong"),
    [("trt", (8, 6, 1), False), ("trt", (10, 11, 0), False), ("trt", (10, 12, 0), True), ("trt", (11, 4), True), ("trt-rtx", (1, 7, 1), True)],
)  # fmt: skip
def test_typing_follows_the_release(flavour: Any, release: tuple[int, ...], strong: bool) -> None:
    assert adapter.strongly_typed(flavour, release) is strong


def test_type_stubs_are_not_taken_for_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(RuntimeMissing, match="holds no TensorRT"):
        adapter.load("trt")
    sys.modules.pop("tensorrt", None)


def test_a_machine_without_a_gpu_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.driver.cache_clear()
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    monkeypatch.setattr(cuda.Driver.__init__, "__defaults__", ("libcuda-that-is-not-there.so.1",))
    monkeypatch.setattr(runtimes, "_version", lambda *_: "10.3.0")
    for runtime in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(
            RuntimeMissing, match=f"{runtime}: no NVIDIA GPU: its driver's library .* is not on this machine"
        ):
            open_session(runtime, model)  # type: ignore[arg-type]


def test_the_drivers_release_as_the_system_states_it(tmp_path: Path) -> None:
    assert cuda.driver_release(tmp_path) == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081\n# KERNEL")
    assert cuda.driver_release(tmp_path) == "# R36 (release), REVISION: 4.3, GCID: 38968081"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module  570.86.15\nGCC")
    assert "570.86.15" in cuda.driver_release(tmp_path)


class TestRunning:
    """Sessions over stand-ins for classic TensorRT and the CUDA driver: all of edgekit's own code runs, none of NVIDIA's."""

    @pytest.fixture(scope="class")
    def driver(self, require_tool: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
        library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
        compiler = require_tool("cc", "compiles the stand-in for the CUDA driver")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "stand_ins" / "cuda.c"], check=True)
        return library

    @pytest.fixture(scope="class")
    def cache(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """One for all: an engine is built for the first test that needs it."""
        return tmp_path_factory.mktemp("cache")

    @pytest.fixture
    def own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache" / "engines"

    @pytest.fixture(autouse=True)
    def _stand_ins(self, driver: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(cuda.Driver.__init__, "__defaults__", (str(driver),))
        monkeypatch.setenv("STAND_IN_CUDA", str(driver))
        monkeypatch.setenv("EDGEKIT_CACHE", str(cache))
        monkeypatch.setenv("PYTHONPATH", str(HERE / "stand_ins"))  # of the builder's process
        monkeypatch.syspath_prepend(HERE / "stand_ins")
        self.release(monkeypatch, "10.3.0")
        cuda.driver.cache_clear()
        yield
        sys.modules.pop("tensorrt", None)
        adapter._loggers.clear()
        cuda.driver.cache_clear()

    @staticmethod
    def release(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        monkeypatch.setenv("STAND_IN_TENSORRT", version)
        sys.modules.pop("tensorrt", None)
        adapter._loggers.clear()

    @pytest.fixture
    def planned(self, model: Path, tmp_path: Path) -> Path:
        """A model of the bundle: the ONNX for strong typing, the one for weak typing, the plan."""
        path = tmp_path / "model.trt.int8.onnx"
        path.write_bytes(model.read_bytes())
        path.with_name("model.trt.int8.weak.onnx").write_bytes(model.read_bytes())
        plan = BuildPlan(onnx=path.name, weak_onnx="model.trt.int8.weak.onnx", precision="int8", batch=Batch(max=4))
        path.with_suffix(".json").write_text(plan.model_dump_json(by_alias=True))
        return path

    def test_logits_are_those_of_the_graph_for_every_batch_size(self, planned: Path, driver: Path) -> None:
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

    def test_without_the_cuda_graph_the_logits_are_the_same(self, planned: Path, driver: Path) -> None:
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
        self, planned: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
        version: str, flags: list[str], network: int, onnx_name: str,
    ) -> None:  # fmt: skip
        self.release(monkeypatch, version)
        open_session("tensorrt", planned).close()
        (path,) = own_cache.glob("*.engine")
        told = json.loads(path.read_bytes().partition(b"\n")[0])
        assert (told["flags"], told["network"]) == (flags, network)
        assert told["profiles"] == [{"images": [[1, SIZE, SIZE, 3], [1, SIZE, SIZE, 3], [4, SIZE, SIZE, 3]]}]
        record = read_record(path)
        assert record is not None
        assert record.onnx == onnx_name
        assert record.machine["gpu"] == "Stand-in GPU"
        assert (record.machine["compute_capability"], record.machine["cuda"]) == ("8.7", "12.6")
        assert record.report.layers_from == "inspector"
        assert record.report.layers[0].inputs == ("int8",)

    def test_an_engine_is_built_once_and_again_for_another_release(
        self, planned: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(2):
            open_session("tensorrt", planned).close()
        assert len(list(own_cache.glob("*.engine"))) == 1
        (times,) = own_cache.glob("timing-*.cache")
        assert times.read_bytes() == b"timed;", "the builder ran once"
        self.release(monkeypatch, "10.13.0")
        open_session("tensorrt", planned).close()
        assert len(list(own_cache.glob("*.engine"))) == 2

    def test_a_shipped_engine_is_taken_or_built_anew_from_its_onnx(
        self, planned: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = BuildOptions(flavour="trt", precision="fp32", batch=Batch(max=4))
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

        self.release(monkeypatch, "10.13.0")
        np.testing.assert_allclose(open_session("tensorrt", shipped).run(images), expected, atol=1e-5)
        assert len(list(own_cache.glob("*.engine"))) == 1
        planned.unlink()
        with pytest.raises(
            BundleError,
            match=r"built by TensorRT 10\.3\.0, here is 10\.13\.0, and model\.trt\.int8\.onnx, .* is not beside it",
        ):
            open_session("tensorrt", shipped)
        shipped.with_name("model.engine.json").write_text("{}")
        with pytest.raises(BundleError, match=r"its record, .* is missing or damaged"):
            open_session("tensorrt", shipped)

    def test_times_of_stages_and_layers(self, planned: Path) -> None:
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

    def test_a_static_batch_is_the_sessions(self, planned: Path, tmp_path: Path) -> None:
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
    def test_what_is_missing_from_the_bundle_is_named(
        self, planned: Path, spoil: Callable[[Path], None], says: str
    ) -> None:
        spoil(planned)
        with pytest.raises(BundleError, match=says):
            open_session("tensorrt", planned)

    def test_wrong_settings_are_refused(self, planned: Path) -> None:
        for settings, says in (({"graph": "1"}, "unknown setting graph"), ({"gpu": "x"}, "not a number")):
            with pytest.raises(BundleError, match=says):
                open_session("tensorrt", planned, settings=settings)
        with pytest.raises(RuntimeMissing, match="no GPU 1: this machine has 1"):
            open_session("tensorrt", planned, settings={"gpu": "1"})

    def test_a_driver_that_finds_no_device_says_so(self, planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STAND_IN_NO_DEVICE", "1")
        with pytest.raises(RuntimeMissing, match="no usable NVIDIA GPU: cuInit: no CUDA-capable device is detected"):
            open_session("tensorrt", planned)

    def test_a_run_that_fails_while_it_is_recorded_leaves_the_session_usable(
        self, planned: Path, monkeypatch: pytest.MonkeyPatch
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
