"""The course of an export: resuming, several variants at a time, outputs and batch sizes, models without labels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.bundle import Bundle, BundleFile, Variant
from edgekit.errors import ExportError
from edgekit.export import jobs, verify
from edgekit.export.staging import staged
from edgekit.runtimes import load
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported
from tests.helpers.exported import export
from tests.helpers.patience import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Logits and embedding, three images at a time."""
    output = tmp_path_factory.mktemp("fixed") / "export"
    return export(output, precisions=["fp32", "fp16", "int8"], embedding=True, batch=3)


def test_logits_and_embedding_at_a_fixed_batch(fixed: Bundle) -> None:
    manifest = fixed.manifest
    assert manifest.input.shape == [3, 16, 16, 3]
    assert [(o.name, o.shape) for o in manifest.outputs] == [("logits", [3, 10]), ("embedding", [3, 64])]
    golden = fixed.golden_outputs()
    assert golden["embedding"].shape == (16, 64)
    # What the trained network's head makes of the golden embedding are the golden logits.
    head = exported.classifier().head
    logits = golden["embedding"] @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    for variant in manifest.variants:
        assert variant.status == "verified", variant.note
        assert variant.parity is not None
        assert variant.parity.embedding_cosine is not None
        assert variant.parity.embedding_cosine > (0.999 if variant.precision != "int8" else 0.98)
        session = load(fixed, variant, threads=1)
        assert (session.batch, sorted(session.outputs)) == (3, ["embedding", "logits"])
        outputs = session.run_all(golden["images"][:3])
        session.close()
        for name, value in outputs.items():
            close = 1e-4 if variant.precision == "fp32" else 0.02 if variant.precision == "fp16" else 0.2
            np.testing.assert_allclose(value, golden[name][:3], atol=close * np.abs(golden[name]).max())


def test_files_say_what_they_are(fixed: Bundle) -> None:
    import openvino as ov

    expected = {"name": "digits", "classes": json.dumps(exported.splits().classes)}
    for variant in fixed.manifest.variants:
        path = fixed.path / variant.files[0].path
        if variant.runtime == "onnxruntime":
            facts = {p.key: p.value for p in onnx.load(path).metadata_props}
            assert facts["edgekit"] == fixed.manifest.edgekit
        else:
            facts = {key: value.value for key, value in ov.Core().read_model(path).get_rt_info()["edgekit"].items()}
            assert facts["version"] == fixed.manifest.edgekit
        assert expected.items() <= facts.items()
        assert facts["precision"] == variant.precision
        assert json.loads(facts["preprocessing"]) == fixed.manifest.preprocessing.model_dump(mode="json")


def test_a_wrong_embedding_is_seen(fixed: Bundle) -> None:
    test = exported.splits().test
    run = verify.runner(exported.pixels(), CLASSIFICATION, embedding=True)

    def negated(images: np.ndarray) -> verify.Outputs:
        outputs = run(images)
        return {"logits": outputs["logits"], "embedding": -outputs["embedding"]}

    reference = verify.ReferenceOutputs.of(CLASSIFICATION, negated, test.images, test.labels)
    checked = verify.verify(fixed.variant("onnx-fp32"), fixed.path, reference, verify.AccuracyBounds())
    assert checked.parity is not None
    assert checked.parity.embedding_cosine == pytest.approx(-1, abs=1e-3)


def test_without_labels_the_loss_is_the_one_that_the_model_expects(tmp_path: Path) -> None:
    pool = exported.splits().pool.center_crop(16).images[:120]
    bundle = export(tmp_path / "export", calibration=pool, evaluation=None, targets=["onnx"])
    assert bundle.manifest.accuracy is None
    for variant in bundle.manifest.variants:
        assert (variant.status, variant.accuracy, variant.drop_is) == ("verified", None, "expected")
        assert variant.agreement is not None
        assert variant.agreement > 0.95
        assert variant.drop is not None
        assert 0 <= variant.drop < 0.01
    # A file that decides otherwise where the model is sure is rejected.
    sure = np.full((4, 2), [8, 0], np.float32)
    reference = verify.ReferenceOutputs(CLASSIFICATION, pool[:4], None, {"logits": sure}, np.arange(4))
    judged = verify.judge(
        bundle.variant("onnx-int8"), {"logits": sure[:, ::-1]}, {}, reference, verify.AccuracyBounds(max_drop=5)
    )
    assert judged.status == "rejected"
    assert "expected to lose 99.9" in judged.note


def test_a_variant_as_good_that_decides_otherwise_is_remarked_upon_and_may_be_bounded() -> None:
    """Exchange errors: the accuracy stays the same, but half of the predictions change."""
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.array([0, 0, 1, 1])
    trained, other = (np.eye(2, dtype=np.float32)[rows] for rows in ([0, 1, 1, 0], [1, 0, 1, 0]))
    reference = verify.ReferenceOutputs(CLASSIFICATION, images, labels, {"logits": trained}, np.arange(4))
    file = BundleFile(path="model.onnx", bytes=1, sha256="0" * 64)
    variant = Variant(
        id="onnx-int8", runtime="onnxruntime", precision="int8", files=[file], executed=False, status="unexecuted"
    )
    judged = verify.judge(variant, {"logits": other}, {}, reference, verify.AccuracyBounds())
    assert (judged.status, judged.drop, judged.agreement) == ("verified", 0.0, 0.5)
    assert "its class differs from the trained model's on 50.0% of the images" in judged.note
    bounded = verify.judge(variant, {"logits": other}, {}, reference, verify.AccuracyBounds(min_agreement=0.9))
    assert bounded.status == "rejected"
    assert "on 50.0% of the images, fewer than 90.0%" in bounded.note


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tests.export.test_jobs as tests
from edgekit.export import jobs
make = jobs.make
def dies(id_, sources):
    if id_ == "onnx-int8":
        (sources.folder / "model.u8.onnx").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return make(id_, sources)
jobs.make = dies
tests.export(Path(sys.argv[2]), targets=["onnx"], jobs=1)
"""


def test_a_killed_export_keeps_what_it_had_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "export"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(ROOT), str(output)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    made: list[str] = []
    make = jobs.make
    monkeypatch.setattr(jobs, "make", lambda id_, sources: made.append(id_) or make(id_, sources))
    bundle = export(output, targets=["onnx"], jobs=1)
    assert made == ["onnx-int8"]
    assert [v.status for v in bundle.manifest.variants] == ["verified", "verified"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_finished_work_that_was_damaged_or_is_of_another_network_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, staging = tmp_path / "export", tmp_path / ".export.partial"
    made: list[str] = []
    make = jobs.make

    def fails_at_int8(id_: str, sources: Any) -> Any:
        if id_ == "onnx-int8":
            raise ExportError("no")
        made.append(id_)
        return make(id_, sources)

    monkeypatch.setattr(jobs, "make", fails_at_int8)
    for spoil in (
        lambda: None,
        lambda: (staging / "variants" / "onnx-fp32" / "model.onnx").write_bytes(b"damaged"),
        lambda: (staging / "variants" / "onnx-fp32" / "record.json").write_text("{"),
        lambda: (staging / "inputs.json").write_text('"of something else"'),
    ):
        spoil()
        with pytest.raises(ExportError, match="no"):
            export(output, targets=["onnx"], jobs=1)
    assert made == ["onnx-fp32"] * 4
    with pytest.raises(ExportError, match="no"):  # and once more with nothing spoilt
        export(output, targets=["onnx"], jobs=1)
    assert made == ["onnx-fp32"] * 4


def test_two_exports_do_not_write_one_bundle(tmp_path: Path) -> None:
    with staged(tmp_path / "export"), pytest.raises(ExportError, match="another export"), staged(tmp_path / "export"):
        pass
    assert not list(tmp_path.iterdir())


SEVERAL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tests.export.test_jobs as tests
if __name__ == "__main__":
    tests.export(Path(sys.argv[2]), targets=["onnx", "openvino"], jobs=2)
"""


@pytest.mark.extra
def test_several_at_a_time_interrupted_and_repeated_give_what_one_by_one_gives(tmp_path: Path) -> None:
    script, output = tmp_path / "several.py", tmp_path / "two" / "export"
    script.write_text(SEVERAL)
    first = subprocess.Popen([sys.executable, str(script), str(ROOT), str(output)], start_new_session=True)
    variants = output.with_name(".export.partial") / "variants"
    until(lambda: list(variants.glob("*/record.json")), first)
    os.killpg(first.pid, signal.SIGINT)
    first.wait()
    assert not output.exists()
    assert list(variants.glob("*/record.json"))
    until(lambda: not _of_session(first.pid))  # nobody goes on working: what is finished below stays unfinished then
    finished = {path.parent.name: path.stat().st_mtime_ns for path in variants.glob("*/record.json")}
    assert len(finished) < 4

    subprocess.run([sys.executable, str(script), str(ROOT), str(output)], check=True)
    assert [path.name for path in output.parent.iterdir()] == ["export"]
    one_by_one = export(tmp_path / "one" / "export", targets=["onnx", "openvino"], jobs=1)
    several = Bundle.open(output)
    assert _without_seconds(several) == _without_seconds(one_by_one)


def _of_session(session: int) -> list[str]:
    """Processes that still belong to a session."""
    found = subprocess.run(["ps", "-s", str(session), "-o", "stat=,args="], check=False, capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if not line.startswith("Z")]


def _without_seconds(bundle: Bundle) -> list[Any]:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            # `note`: whether OpenVINO's race between threads is met is chance.
            return {key: clean(v) for key, v in value.items() if key not in {"seconds", "making_seconds", "note"}}
        return [clean(v) for v in value] if isinstance(value, list) else value

    return [clean(v.model_dump(mode="json")) for v in bundle.manifest.variants]
