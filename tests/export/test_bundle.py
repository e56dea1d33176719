"""From a trained network to a bundle: every variant in its runtime, the gate, and the existing bundle."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import ExportError, GateFailed, RuntimeMissing
from edgekit.export import jobs, pack, pipeline, served, verify
from edgekit.export.gate import gate
from edgekit.export.pipeline import plan
from edgekit.export.served import configurations
from edgekit.export.verify import AccuracyBounds
from edgekit.files import sha256
from edgekit.quantize import qdq, quantizer, ranges
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import FULL, REDUCED, UNSIGNED, quantize_onnx
from edgekit.quantize.quantizer import QuantizationConfig
from edgekit.quantize.sensitivity import quantizable
from edgekit.runtimes import load
from edgekit.sizes import ImageSize
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported
from tests.helpers.exported import export

EVERY = ["onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-fp16", "openvino-int8"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tmp_path_factory.mktemp("bundle") / "export", precisions=["fp32", "fp16", "int8"])


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(bundle.path, tmp_path / "export")
    return Bundle.open(tmp_path / "export")


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


def test_the_bundle_says_what_is_in_it(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert [v.id for v in manifest.variants] == EVERY
    assert manifest.classes == exported.splits().classes
    assert manifest.input.shape == [None, 16, 16, 3]
    assert manifest.accuracy is not None
    assert manifest.accuracy.top1 > 0.9  # the network is really trained, so the figures below mean something
    assert manifest.accuracy.top5 is not None
    assert manifest.provenance["graph"] == sha256(bundle.path / "model.onnx")
    assert manifest.provenance["machine"]["packages"]["torch"]
    listed = {MANIFEST, manifest.golden.path, *(f.path for v in manifest.variants for f in v.files)}
    assert {path.name for path in bundle.path.iterdir()} == listed


def test_golden_tensors_are_the_trained_models_own(bundle: Bundle) -> None:
    with np.load(bundle.path / bundle.manifest.golden.path) as arrays:
        assert set(arrays.files) == {"images", *(output.name for output in bundle.manifest.outputs)}
    images, logits = bundle.golden()
    assert images.shape == (16, 16, 16, 3)
    with torch.no_grad():
        expected = exported.pixels()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert len(set(logits.argmax(1))) >= 8  # of 10: the images are spread over the classes


@pytest.mark.parametrize("id_", EVERY)
def test_every_variant_computes_what_it_says(bundle: Bundle, id_: str) -> None:
    variant = bundle.variant(id_)
    images, golden = bundle.golden()
    test = exported.splits().test
    session = load(bundle, variant, threads=1)
    logits, on_test = session.run(images), session.run(test.images)
    session.close()
    assert variant.executed
    assert variant.status == "verified", variant.note
    assert variant.parity is not None
    assert variant.accuracy is not None
    assert variant.drop is not None
    assert variant.parity.samples == 16
    assert variant.parity.max_abs_diff == pytest.approx(np.abs(logits - golden).max(), rel=0.05, abs=1e-4)
    # INT8 kernels round by batch and threads: an image on the border of two classes may fall to either side.
    border = 3 / len(test) if variant.precision == "int8" else 1e-9
    assert variant.accuracy.top1 == pytest.approx((on_test.argmax(1) == test.labels).mean(), abs=border)
    assert variant.drop <= 0.01 + 1e-9
    if variant.precision != "int8":
        assert (logits.argmax(1) == golden.argmax(1)).all()
        assert variant.parity.max_abs_diff < (1e-4 if variant.precision == "fp32" else 0.1)
    else:
        assert variant.parity.sqnr_db is not None
        assert variant.parity.sqnr_db > 15
        assert variant.accuracy.agreement is not None
        assert variant.accuracy.agreement > 0.95
    if variant.runtime == "openvino":
        assert variant.settings == {"INFERENCE_PRECISION_HINT": "f32"}


def test_quantized_files_are_small(bundle: Bundle) -> None:
    def weights(id_: str) -> int:
        return sum(f.bytes for f in bundle.variant(id_).files if f.path.endswith(".bin"))

    assert weights("openvino-int8") < 0.4 * weights("openvino-fp32")
    assert weights("openvino-fp16") < 0.6 * weights("openvino-fp32")


def test_int8_keeps_preprocessing_classifier_and_biases_in_float(bundle: Bundle) -> None:
    graph = onnx.load(bundle.path / "model.u8.onnx").graph
    initializers = {t.name: t for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    (classifier,) = (n for n in graph.node if "logits" in n.output)
    assert classifier.op_type == "Gemm"
    assert all(t.data_type == TensorProto.FLOAT for name in classifier.input[1:] if (t := initializers[name]))
    assert makers[classifier.input[0]].op_type != "DequantizeLinear"
    (image_reader,) = (n for n in graph.node if "image" in n.input)
    assert image_reader.op_type == "Cast"
    for convolution in (n for n in graph.node if n.op_type == "Conv"):
        assert makers[convolution.input[0]].op_type == "DequantizeLinear"
        weight = initializers[makers[convolution.input[1]].input[0]]
        scales = initializers[makers[convolution.input[1]].input[1]]
        assert weight.data_type in {TensorProto.INT8, TensorProto.UINT8}
        assert list(scales.dims) == [weight.dims[0]]  # one scale an output channel
        assert initializers[convolution.input[2]].data_type == TensorProto.FLOAT
    points = {makers[c.input[0]].input[2] for c in graph.node if c.op_type == "Conv"}
    assert {initializers[name].data_type for name in points} == {TensorProto.UINT8}


@pytest.mark.parametrize(
    ("scheme", "largest"), [(FULL, range(120, 128)), (REDUCED, range(60, 65)), (UNSIGNED, range(120, 129))]
)
def test_schemes(bundle: Bundle, tmp_path: Path, scheme: qdq.Scheme, largest: range) -> None:
    images = exported.splits().pool.center_crop(16).images[:25]
    calibration = Calibration(bundle.path / "model.onnx", images, tmp_path)
    quantization = quantize_onnx(calibration, tmp_path / "q.onnx", scheme)
    graph = onnx.load(tmp_path / "q.onnx").graph
    initializers = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    reach = 0
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers:
            center = initializers[node.input[2]].astype(int).reshape(-1, *[1] * (initializers[node.input[0]].ndim - 1))
            reach = max(reach, int(np.abs(initializers[node.input[0]].astype(int) - center).max()))
    assert reach in largest
    assert quantization.calibration.images == 25


def test_no_configuration_that_saturates_is_tried_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, machine, first in (
        (["avx2"], "x86_64", REDUCED),
        (["avx2", "avx_vnni"], "x86_64", FULL),
        ([], "aarch64", FULL),
    ):
        monkeypatch.setattr(qdq, "has_int8_dot_product", lambda f=features: "avx_vnni" in f)
        monkeypatch.setattr("platform.machine", lambda m=machine: m)
        for target in ("onnx", "openvino"):
            assert {config.scheme for config in configurations(target)[0]} == {first}


@pytest.mark.parametrize("dot_product", [True, False], ids=["VNNI", "no VNNI"])
def test_bad_quantization_is_rejected_marked_and_kept_out_of_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dot_product: bool
) -> None:
    # What is bad here are the ranges, so either scheme is bad on either kind of CPU.
    monkeypatch.setattr(qdq, "has_int8_dot_product", lambda: dot_product)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(served, "METHODS", ("percentile",))
    blank = np.zeros((20, 16, 16, 3), np.uint8)  # nothing can be learned about the activations' ranges from these
    # How much is lost is up to the kernels (2.5 points on one CPU, over 5 on another); one image of 359 is more than the bound.
    bundle = export(tmp_path / "export", calibration=blank, targets=["onnx"], max_drop=0.1)
    bad = bundle.variant("onnx-int8")
    assert bad.status == "rejected"
    assert bad.executed
    assert bad.drop is not None
    assert bad.drop > 0.001
    assert "points of accuracy" in bad.note
    assert bad.quantization is not None
    tried = bad.quantization.tried
    assert [t.configuration for t in tried[:1]] == [QuantizationConfig(FULL if dot_product else REDUCED).name]
    strategies, sensitivity = {t.strategy for t in tried}, bad.quantization.sensitivity
    assert {"calibration", "equalization"} <= strategies
    # Every layer was left in float alone; whether that helps any of them is up to the kernels, and decides whether this strategy is tried.
    assert {s.layer for s in sensitivity} == set(quantizable(onnx.load(bundle.path / "model.onnx")))
    assert ("layers in float" in strategies) == any(s.gain_db > 0 for s in sensitivity)
    assert ("unsigned weights" in strategies) == (not dot_product)
    assert bad.quantization.strategy is None
    assert bundle.variant("onnx-fp32").status == "verified"
    gate(bundle, ["onnx-fp32"], AccuracyBounds())
    with pytest.raises(GateFailed, match="onnx-int8"):
        gate(bundle, ["onnx-fp32", "onnx-int8"], AccuracyBounds(max_drop=0.1))
    # Asked again it is rejected again, without being made again.
    again = export(tmp_path / "export", calibration=blank, targets=["onnx"], max_drop=0.1)
    assert again.digest == bundle.digest


def test_nncf_is_the_second_group_of_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "METHODS", ("percentile",))
    monkeypatch.setattr(ranges, "PERCENTILE", 30.0)  # spoils the first configuration
    bundle = export(tmp_path / "export", targets=["openvino"], precisions=["int8"])
    variant = bundle.variant("openvino-int8")
    assert variant.quantization is not None
    first, second = variant.quantization.tried
    assert (first.status, second.configuration, second.status) == ("rejected", "nncf", "verified")
    assert variant.quantization.tool.startswith("nncf")
    assert variant.accuracy is not None
    assert variant.accuracy.top1 == second.score
    assert "VNNI" not in variant.note
    images, golden = bundle.golden()
    assert (load(bundle, variant).run(images).argmax(1) == golden.argmax(1)).mean() > 0.9


def test_a_configuration_that_fails_leads_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ExportError("cannot quantize this")

    monkeypatch.setattr(quantizer, "quantize_onnx", fail)
    bundle = export(tmp_path / "export", targets=["openvino"], precisions=["int8"])
    variant = bundle.variant("openvino-int8")
    assert variant.quantization is not None
    assert [t.status for t in variant.quantization.tried] == ["failed", "failed", "failed", "verified"]
    with pytest.raises(ExportError, match="cannot quantize this"):
        export(tmp_path / "other", targets=["onnx"])
    assert not (tmp_path / "other").exists()


def test_a_float_variant_that_decides_otherwise_is_rejected(bundle: Bundle) -> None:
    test = exported.splits().test
    assert test.labels is not None
    reference = verify.ReferenceOutputs.of(CLASSIFICATION, exported.pixels(), test.images, test.labels)
    logits = reference.outputs["logits"].copy()
    row = reference.golden[3]
    logits[row] = np.roll(logits[row], 1)
    other = dataclasses.replace(reference, outputs={"logits": logits})
    checked = verify.verify(bundle.variant("onnx-fp32"), bundle.path, other, verify.AccuracyBounds(max_drop=100))
    assert checked.status == "rejected"
    assert "golden" in checked.note
    assert (
        verify.verify(bundle.variant("onnx-fp32"), bundle.path, reference, verify.AccuracyBounds(100)).status
        == "verified"
    )


def test_what_cannot_run_here_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "why_not", lambda runtime: RuntimeMissing(f"{runtime} is not installed"))
    test = exported.splits().test
    assert test.labels is not None
    reference = verify.ReferenceOutputs.of(CLASSIFICATION, exported.pixels(), test.images, test.labels)
    fresh = bundle.variant("onnx-fp32").model_copy(update={"parity": None, "accuracy": None, "drop": None})
    checked = verify.verify(fresh, bundle.path, reference, verify.AccuracyBounds())
    assert (checked.status, checked.executed) == ("unexecuted", False)
    assert (checked.parity, checked.accuracy, checked.drop) == (None, None, None)
    assert "onnxruntime is not installed" in checked.note


def test_an_export_adds_to_a_bundle_of_the_same_weights(tmp_path: Path) -> None:
    first = export(tmp_path / "export", targets=["onnx"], precisions=["fp32"])
    second = export(tmp_path / "export", targets=["openvino"], precisions=["fp16"])
    assert [v.id for v in second.manifest.variants] == ["onnx-fp32", "openvino-fp16"]
    assert second.variant("onnx-fp32") == first.variant("onnx-fp32")
    Bundle.open(tmp_path / "export")


def test_what_has_not_changed_is_not_made_again(copied: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = jobs.make
    monkeypatch.setattr(jobs, "make", lambda id_, sources: made.append(id_) or make(id_, sources))
    again = export(copied.path, precisions=["fp32", "fp16", "int8"])
    assert (again.digest, made) == (copied.digest, [])
    pool = exported.splits().pool.center_crop(16).images
    export(
        copied.path, calibration=pool[:40], targets=["onnx"]
    )  # other images: INT8 depends on them, the float file does not
    assert made == ["onnx-int8"]


def test_another_network_starts_a_new_bundle(copied: Bundle) -> None:
    model = exported.pixels()
    changed = type(model)(model.model, model.mean, model.std * 1.01)  # not a weight, but no longer the same network
    other = export(copied.path, model=changed, targets=["onnx"], precisions=["fp32"])
    assert [v.id for v in other.manifest.variants] == ["onnx-fp32"]
    assert "model.fp16.xml" not in files_of(other.path)


def test_a_damaged_bundle_is_replaced(copied: Bundle) -> None:
    (copied.path / "model.u8.onnx").write_bytes(b"not what it was")
    mended = export(copied.path, targets=["onnx"], precisions=["fp32"])
    assert [v.id for v in mended.manifest.variants] == ["onnx-fp32"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ExportError("no"), OSError(28, "No space left on device")])
def test_an_export_that_ends_early_leaves_the_old_bundle(
    copied: Bundle, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = files_of(copied.path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "write_manifest", fail)
    with pytest.raises((KeyboardInterrupt, ExportError)):
        export(copied.path, max_drop=2.0, targets=["onnx"], precisions=["fp32"])
    assert files_of(copied.path) == before
    # Beside it is the work that was finished, for the next export to go on with.
    assert {path.name for path in copied.path.parent.iterdir()} == {"export", ".export.partial"}
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "make", fail)
    goes_on = export(copied.path, max_drop=2.0, targets=["onnx"], precisions=["fp32"])
    assert goes_on.manifest.provenance["max_drop"] == 2.0
    assert [path.name for path in copied.path.parent.iterdir()] == ["export"]


def test_a_kill_leaves_the_old_bundle(copied: Bundle) -> None:
    before = files_of(copied.path)
    script = (
        "import os, signal, sys; from pathlib import Path; from edgekit.export.pack import replaced\n"
        "with replaced(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'bundle.json').write_text('{}'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(copied.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert files_of(copied.path) == before
    assert Bundle.open(copied.path).digest == copied.digest


@pytest.mark.parametrize("in_one_step", [True, False])
def test_replacing_keeps_the_users_own_files(
    copied: Bundle, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    if not in_one_step:  # macOS, or a file system that cannot

        def refuse(*_: object, **__: object) -> None:
            raise OSError

        monkeypatch.setattr("ctypes.CDLL", refuse)
    (copied.path / "notes.txt").write_text("mine")
    with pack.replaced(copied.path) as folder:
        (folder / "new").write_text("new")
    assert set(files_of(copied.path)) == {"new", "notes.txt"}
    assert [path.name for path in copied.path.parent.iterdir()] == ["export"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"dear to somebody")
    with pytest.raises(ExportError, match="no bundle"):
        export(tmp_path / "photos")
    with pytest.raises(ExportError, match="is a file"):
        export(tmp_path / "photos" / "cat.jpg")
    with pytest.raises(ExportError, match="cannot be written"):
        export(tmp_path / "photos" / "cat.jpg" / "export")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"dear to somebody"


def test_a_zip_is_the_bundle(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    pack.zipped(bundle, tmp_path / "a.zip")
    pack.zipped(bundle, tmp_path / "b.zip")
    assert sha256(tmp_path / "a.zip") == sha256(tmp_path / "b.zip")
    assert set(zipfile.ZipFile(tmp_path / "a.zip").namelist()) == set(files_of(bundle.path))
    assert Bundle.open(tmp_path / "a.zip").digest == bundle.digest


def test_plan() -> None:
    assert plan(["onnx", "openvino"]) == ["onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"]
    assert plan(["onnx", "openvino", "onnx"], ["fp16"]) == ["openvino-fp16"]
    assert plan(["openvino"], ["fp32"]) == ["openvino-fp32"]
    with pytest.raises(ExportError, match="fp16"):
        plan(["onnx"], ["fp16", "fp32"])
    with pytest.raises(ExportError, match="tflite"):
        plan(["tflite"])


def test_golden_images_are_spread_over_the_classes() -> None:
    labels = np.repeat(np.arange(4), [1, 50, 50, 50])
    rows = verify.class_spread(labels, 16)
    assert len(set(rows)) == 16
    assert np.bincount(labels[rows]).tolist() == [1, 5, 5, 5]
    assert len(verify.class_spread(labels[:3], 16)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": np.zeros((0, 16, 16, 3), np.uint8)},
        {"calibration": np.zeros((4, 8, 8, 3), np.uint8)},
        {"evaluation": (np.zeros((4, 16, 16, 3), np.float32), np.zeros(4, np.int64))},
        {"evaluation": (np.zeros((4, 16, 16, 3), np.uint8), np.full(4, 10))},
        {"evaluation": (np.zeros((4, 16, 16, 3), np.uint8), np.zeros(3, np.int64))},
    ],
)
def test_wrong_images_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        export(tmp_path / "export", **changes)
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        pytest.param("timm:vit_tiny_patch16_224", marks=pytest.mark.extra),
        pytest.param("timm:tf_efficientnet_lite0", marks=pytest.mark.extra),
        pytest.param("resnet18", marks=pytest.mark.extra),
    ],
)
def test_other_architectures_reach_every_runtime(name: str, tmp_path: Path) -> None:
    """Random weights: INT8 need not pass, but every file must run, and float variants must predict the network's classes."""
    model = exported.untrained(name, 64)
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = model(torch.from_numpy(images)).argmax(1).numpy()
    bundle = export(
        tmp_path / "export",
        model=model,
        classes=[f"class {i}" for i in range(10)],
        preprocessing=exported.RECIPE.data.preprocessing().model_copy(
            update={"image_size": ImageSize(64, 64), "resize_to": 64}
        ),
        calibration=images[:20],
        evaluation=(images, labels),
        precisions=["fp32", "fp16", "int8"],
        max_drop=100.0,
    )
    assert [v.id for v in bundle.manifest.variants] == EVERY
    for variant in bundle.manifest.variants:
        assert variant.executed
        assert variant.accuracy is not None
        assert variant.accuracy.agreement is not None
        assert variant.accuracy.agreement >= {"fp32": 1.0, "fp16": 0.95, "int8": 0.5}[variant.precision], variant.id
