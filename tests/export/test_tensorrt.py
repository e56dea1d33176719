"""Export for TensorRT: real engines of TensorRT for RTX, plans for classic TensorRT, and their records in the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export import tensorrt, verify
from edgekit.export.gate import gate
from edgekit.export.half import simulated
from edgekit.export.inputs import ExportOptions, Sources
from edgekit.export.pipeline import plan
from edgekit.export.verify import AccuracyBounds
from edgekit.files import sha256
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantization import EngineLayers
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.ranges import METHODS
from edgekit.runtimes.tensorrt import BatchRange, BuildOptions, BuildPlan, build
from edgekit.runtimes.tensorrt.cache import read_record
from edgekit.sizes import ImageSize
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported
from tests.helpers.exported import export

NETWORKS = ["resnet18", "mobilenet_v3_small", "timm:tf_efficientnet_lite0"]
FRAME = ImageSize(48, 64)
needs_rtx = pytest.mark.usefixtures("rtx")


@pytest.fixture
def rtx(require_module: Callable[[str, str], None]) -> None:
    require_module("tensorrt_rtx", "builds engines")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("tensorrt_rtx")
    return export(
        tmp_path_factory.mktemp("bundle") / "export",
        targets=["trt", "trt-rtx"],
        precisions=["fp16", "int8"],
        compute_capabilities=("8.6", "8.9"),
    )


def test_plan() -> None:
    assert plan(["trt", "trt-rtx"]) == ["trt-fp16", "trt-int8", "trt-rtx-fp16", "trt-rtx-int8"]
    assert plan(["trt"], ["fp32"]) == ["trt-fp32"]


@needs_rtx
def test_the_bundle_holds_what_each_target_runs_from(bundle: Bundle) -> None:
    assert [v.id for v in bundle.manifest.variants] == ["trt-fp16", "trt-int8", "trt-rtx-fp16", "trt-rtx-int8"]
    for variant in bundle.manifest.variants:
        files = [bundle.file(file) for file in variant.files]
        if variant.id.startswith("trt-rtx"):
            engine, record_file, source = files
            record = read_record(engine)
            assert record is not None
            assert (engine.suffix, record_file.name, record.onnx) == (".engine", f"{engine.name}.json", source.name)
            assert record.onnx_sha256 == sha256(source), "the ONNX in the bundle is the one that was built"
            assert record.report.engine_sha256 == sha256(engine)
            assert record.options.compute_capabilities == ("8.6", "8.9")
            assert "zero" in record.metadata["classes"] or "0" in record.metadata["classes"]
            assert variant.runtime == "tensorrt-rtx"
        else:
            strong, plan_file, weak = files
            planned = BuildPlan.model_validate_json(plan_file.read_bytes())
            assert (planned.onnx, planned.weak_onnx) == (strong.name, weak.name)
            assert (planned.precision, planned.batch) == (variant.precision, BatchRange(max=8))
            assert not any(file.suffix == ".engine" for file in files), "an RTX engine is never a Jetson's"
            assert variant.runtime == "tensorrt"


@needs_rtx
def test_what_was_not_run_says_so_and_states_its_graphs_error(bundle: Bundle) -> None:
    images, logits = bundle.golden()
    for variant in bundle.manifest.variants:
        assert (variant.executed, variant.status) == (False, "unexecuted")
        assert "not run here: " in variant.note
        assert "the ONNX that the engine is built from, run by ONNX Runtime on 359 images" in variant.note
        assert variant.parity is not None
        assert variant.parity.samples == 16
        graph = next(f.path for f in variant.files if f.path.endswith(".onnx"))
        error = np.abs(simulated(bundle.path / graph, ["logits"])(images)["logits"] - logits).max()
        assert variant.parity.max_abs_diff == pytest.approx(error, rel=1e-3)
        assert variant.accuracy is not None
        assert variant.accuracy.samples == len(exported.splits().test)
        assert variant.drop is not None
        assert abs(variant.drop) <= 0.01
    gate(bundle, [v.id for v in bundle.manifest.variants], AccuracyBounds())  # not run is not rejected


@needs_rtx
def test_every_quantized_layer_is_computed_in_int8(bundle: Bundle) -> None:
    variant = bundle.variant("trt-rtx-int8")
    record = read_record(bundle.path / variant.files[0].path)
    assert record is not None
    report = record.report
    assert len(report.quantized) == 7, (
        "all of ResNet-10 but the first convolution, which reads 3 channels, and narrow ones"
    )
    assert set(report.int8) == set(report.quantized)
    assert variant.quantization is not None
    tried = variant.quantization.tried
    assert {t.strategy for t in tried} == {"calibration"}, "it passes, so no other strategy is tried"
    assert [t.configuration for t in tried] == [f"signed 8-bit, {method}" for method in METHODS]
    assert all(t.unlabeled.agreement > 0.95 for t in tried)
    assert sorted(t.status for t in tried) == ["not chosen", "not chosen", "verified"], (
        "labels see the most faithful alone"
    )
    assert variant.quantization.judged_by == "its ONNX in ONNX Runtime"
    assert variant.quantization.engine_layers == EngineLayers(quantized=7, computed_in_int8=7, according_to="log")
    assert report.warnings == () or all("scales to fp32" in warning for warning in report.warnings)


def test_a_graph_that_is_not_the_network_is_rejected_though_no_engine_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_MOST", 128)  # images of the evaluation set, spread over the classes
    test, data = exported.splits().test, exported.RECIPE.data
    graph = tmp_path / "float.onnx"
    export_onnx(exported.pixels(), graph, image_size=data.image_size, classes=exported.splits().classes)
    reference = verify.ReferenceOutputs.of(CLASSIFICATION, exported.pixels(), test.images, test.labels)
    folder = tmp_path / "variant"
    folder.mkdir()
    sources = Sources(
        float_onnx=graph, calibration=Calibration(graph, test.images[:8], tmp_path), options=ExportOptions(), folder=folder,
        scratch=tmp_path, reference=dataclasses.replace(reference, outputs={"logits": -reference.outputs["logits"]}),
    )  # fmt: skip
    # Of a model that is always right, INT8 that agrees with another loses almost everything, whatever its ranges.
    worse = dataclasses.replace(
        reference, outputs={"logits": 10 * np.eye(10, dtype=np.float32)[test.labels]}, labels=test.labels
    )
    worse = dataclasses.replace(worse, images=np.ascontiguousarray(255 - worse.images))
    variant = tensorrt.make("trt", "fp16", sources)
    assert (variant.status, variant.executed) == ("rejected", False)
    assert "it decides otherwise on 100% of the golden images" in variant.note
    assert variant.note.endswith("run by ONNX Runtime on 128 images")
    quantized = tensorrt.make(
        "trt", "int8", dataclasses.replace(sources, options=ExportOptions(max_drop=0.0), reference=worse)
    )
    assert quantized.quantization is not None
    strategies = {t.strategy for t in quantized.quantization.tried}
    assert {"calibration", "equalization", "layers in float"} <= strategies
    assert (quantized.status, quantized.quantization.strategy) == ("rejected", None)


@needs_rtx
def test_a_fixed_batch_is_the_profile(tmp_path: Path) -> None:
    fixed = export(tmp_path / "a", targets=["trt-rtx"], precisions=["fp16"], batch=2)
    record = read_record(fixed.path / fixed.variant("trt-rtx-fp16").files[0].path)
    assert record is not None
    assert record.options.batch == BatchRange(min=2, opt=2, max=2)


@needs_rtx
def test_what_tensorrt_refuses_stops_the_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"FP32 GEMM is not supported.* \(leave out compute capability 7\.5"):
        export(tmp_path / "a", targets=["trt-rtx"], precisions=["fp32"], compute_capabilities=("7.5",))
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("name", [*NETWORKS[:2], pytest.param(NETWORKS[2], marks=pytest.mark.extra)])
def test_the_matrix_of_networks_precisions_and_batches_builds(name: str, tmp_path: Path) -> None:
    """Each is built for images that are not square; its ONNX in ONNX Runtime agrees with the network, and no quantized layer is left in float."""
    model = exported.untrained(name, FRAME)
    float_onnx = tmp_path / "float.onnx"
    export_onnx(model, float_onnx, image_size=FRAME, classes=[f"class {i}" for i in range(10)])
    images = np.random.default_rng(0).integers(0, 256, (16, *FRAME, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    calibration = Calibration(float_onnx, images, tmp_path)
    for precision, at_most in (("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.6)):
        path = tmp_path / f"{precision}.onnx"
        exported.for_tensorrt(calibration, path, precision)
        error = np.abs(simulated(path, ["logits"])(images)["logits"] - expected).max() / np.abs(expected).max()
        assert error <= at_most, precision
        for batch in (BatchRange(max=8), BatchRange(min=1, opt=1, max=1)):
            options = BuildOptions(
                flavor="trt-rtx", precision=precision, batch=batch, compute_capabilities=("8.6", "8.9", "12.0")
            )
            report = build(path, tmp_path / "a.engine", options, lambda steps=1, note="": None)
            assert report.layers_from == "log"
            assert bool(report.quantized) == (precision == "int8")
            assert set(report.int8) == set(report.quantized), f"{name} {batch}: not in INT8"
