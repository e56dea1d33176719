"""The speed comparison: INT8 is timed against float, and never is the default if it was not found faster on such a machine."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from onnx import helper, load_model, save_model

from edgekit.bench.compare import compare as compare_bundles
from edgekit.bench.paired import LOOKS, MARGIN
from edgekit.bundle import Bundle, BundleFile, Speed, Variant, Verdict, write_manifest
from edgekit.cli.export_table import _times_float
from edgekit.export import speed as speed_module
from edgekit.export.speed import with_speed
from edgekit.machine import cpu_features
from edgekit.processors import usable_cpus
from edgekit.runtimes.predictor import default_variant
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers.tiny_bundle import make_bundle, some_images


def timed(ratio: float, p50: float = 1.0, isa: list[str] | None = None, verdict: Verdict | None = None) -> Speed:
    return Speed(
        verdict=verdict,
        p50_ms=p50, float_p50_ms=p50 * ratio, ratio=ratio, batch=1, samples=9, cores=2, cpu="a CPU",
        isa=cpu_features() if isa is None else isa,
    )  # fmt: skip


def int8(bundle: Bundle, runtime: str, speed: Speed | None, status: str = "verified") -> Variant:
    """An INT8 variant added to the bundle; its file is the float one, because only its record matters here."""
    variant = Variant(
        id=f"{runtime}-int8", runtime=runtime, precision="int8", files=[BundleFile.of(bundle.path, "model.onnx")],
        executed=True, status=status, speed=speed,
    )  # fmt: skip
    bundle.manifest.variants.append(variant)
    return variant


@pytest.mark.parametrize(
    ("onnx", "openvino", "expected"),
    [
        (None, None, "onnx-fp32"),  # nothing is known: nothing is guessed
        (timed(2.0), None, "onnxruntime-int8"),
        (timed(0.9), None, "onnx-fp32"),  # never what is slower than float
        (timed(0.9), timed(0.8), "openvino-fp16"),  # the faster float
        (timed(1.5, 1.0), timed(1.1, 0.8), "openvino-int8"),  # the fastest of all
        (timed(1.5, 1.0), timed(0.9, 0.8), "openvino-fp16"),  # whose float beats the other's INT8
        (timed(2.0, isa=["another"]), timed(3.0, isa=[]), "onnx-fp32"),  # measured on another kind of machine
        (timed(0.5, isa=["another"]), timed(1.2), "openvino-int8"),
        (timed(33.0, verdict="undecided"), None, "onnx-fp32"),  # whatever the ratio is
        (timed(2.0, verdict="faster"), timed(33.0, 0.1, verdict="undecided"), "onnxruntime-int8"),
        (timed(2.0, verdict="slower"), None, "onnx-fp32"),
        (timed(2.0, verdict="faster"), timed(3.0, 0.5, verdict="faster"), "openvino-int8"),
    ],
)
def test_the_default_is_the_fastest_that_was_measured_on_such_a_machine(
    tmp_path: Path, onnx: Speed | None, openvino: Speed | None, expected: str
) -> None:
    bundle = make_bundle(tmp_path)
    int8(bundle, "onnxruntime", onnx)
    int8(bundle, "openvino", openvino)
    assert default_variant(bundle).id == expected


def test_what_was_rejected_is_no_default_however_fast(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    int8(bundle, "onnxruntime", timed(9.0), "rejected")
    assert default_variant(bundle).id == "onnx-fp32"


def test_slow_int8_is_still_there_where_it_is_all_there_is(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    only = int8(bundle, "onnxruntime", timed(0.5))
    bundle.manifest.variants[:] = [only]
    assert default_variant(bundle).id == only.id


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_beside_a_busy_process_one_and_the_same_model_is_not_said_to_be_many_times_as_fast(
    tmp_path: Path, runtime: str
) -> None:
    """Real sessions under real load: more busy programs than processors."""
    bundle = make_bundle(tmp_path, openvino=False, width=16, layers=3)
    same = int8(bundle, runtime, None)
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_never_pause, daemon=True) for _ in range(2 * usable_cpus())]
    for process in busy:
        process.start()
    try:
        (found,) = with_speed(
            [same], bundle.path, bundle.path / "model.onnx", some_images(1), CLASSIFICATION, seconds=1
        )
    finally:
        for process in busy:
            process.kill()
            process.join()
    speed = found.speed
    assert speed is not None
    assert speed.low is not None
    assert speed.high is not None
    assert speed.low <= speed.ratio <= speed.high
    assert speed.clock == "cpu"
    assert speed.verdict == (
        "faster" if speed.low > 1 + MARGIN else "slower" if speed.high < 1 / (1 + MARGIN) else "undecided"
    )
    assert 1 / 3 < speed.ratio < 3  # by the clock on the wall one was 33 times as fast


def _never_pause() -> None:
    while True:
        pass


def test_verified_int8_alone_is_timed_and_a_verdict_is_kept(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    model, image = bundle.path / "model.onnx", some_images(1)
    known, fresh = int8(bundle, "openvino", timed(1.3, verdict="faster")), int8(bundle, "onnxruntime", None)
    rejected = fresh.model_copy(update={"id": "bad-int8", "status": "rejected"})
    variants = [*bundle.manifest.variants, rejected]
    found = {v.id: v for v in with_speed(variants, bundle.path, model, image, CLASSIFICATION, seconds=0)}
    assert list(found) == [v.id for v in variants]
    assert found["openvino-int8"] == known
    assert {id_ for id_, v in found.items() if v.speed} == {"openvino-int8", "onnxruntime-int8"}
    speed = found["onnxruntime-int8"].speed
    assert speed is not None
    assert (speed.batch, speed.threads, speed.isa) == (1, 1, cpu_features())
    assert speed.samples >= LOOKS[0]
    assert found["onnxruntime-int8"].note.startswith({"faster": "", "slower": "slower than float",
                                                      "undecided": "not clearly faster"}[speed.outcome])  # fmt: skip


def test_what_was_not_decided_is_measured_again_and_its_note_replaced(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    older = int8(bundle, "onnxruntime", timed(33.0))  # by an edgekit that timed the wall
    undecided = older.model_copy(update={"id": "undecided", "speed": timed(1.0, verdict="undecided"),
                                         "note": "kept; not clearly faster than float on this machine (0.10 to 9.00 …)"})  # fmt: skip
    found = with_speed(
        [older, undecided], bundle.path, bundle.path / "model.onnx", some_images(1), CLASSIFICATION, seconds=0
    )
    for variant in found:
        assert variant.speed is not None
        assert variant.speed.verdict is not None
        assert variant.speed.ratio < 33
        assert "9.00" not in variant.note
    assert found[1].note.split("; ")[0] == "kept"


def test_the_table_shows_between_what_an_undecided_ratio_lies() -> None:
    unsure = timed(1.0, verdict="undecided").model_copy(update={"low": 0.91, "high": 1.14})
    assert [_times_float(s) for s in (unsure, timed(2.0, verdict="faster"), timed(0.5))] == [
        "0.91…1.14",
        "2.00",
        "0.50",
    ]


def test_a_note_says_between_what_the_ratio_lies_or_why_it_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    model, fresh = bundle.path / "model.onnx", int8(bundle, "onnxruntime", None)
    unsure = timed(1.0, verdict="undecided").model_copy(update={"low": 0.91, "high": 1.14})
    (note,) = speed_module._notes(unsure, model, fresh)
    assert "0.91 to 1.14 times its speed" in note
    assert speed_module._notes(timed(2.0, verdict="faster"), model, fresh) == []
    monkeypatch.setattr(speed_module, "saturates", lambda: True)
    (slow,) = speed_module._notes(timed(0.5, p50=0.4, verdict="slower"), model, fresh)
    assert "0.40 against 0.20 ms" in slow
    assert "VNNI" in slow
    assert "so small" in slow
    monkeypatch.setattr(speed_module, "saturates", lambda: False)
    assert ":" not in speed_module.why_slow(timed(0.5, p50=40), model, fresh)  # no reason is made up
    whole = {"xnnpack_partitions": "1", "outside_xnnpack": "1 to_dim_order_copy"}
    assert ":" not in speed_module.why_slow(timed(0.5, p50=40), model, fresh, whole)
    parts = {"xnnpack_partitions": "5", "outside_xnnpack": "4 PADV2"}
    slow = speed_module.why_slow(timed(0.5, p50=40), model, fresh, parts)
    assert slow.endswith(": XNNPACK runs it in 5 parts, because it does not compute what lies between them: 4 PADV2")


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("onnxruntime", "left in float between the layers are hard-swish, LayerNorm, GELU"),
        ("openvino", "left in float between the layers are hard-swish, LayerNorm, GELU"),
        ("executorch", "left in float between the layers are hard-swish, LayerNorm, GELU"),  # the same Q/DQ graph
        ("litert", "left in float between the layers are LayerNorm, GELU"),  # whose own graph has hard-swish in INT8
    ],
)
def test_a_note_names_what_the_runtimes_int8_leaves_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, reason: str
) -> None:
    monkeypatch.setattr(speed_module, "saturates", lambda: False)
    bundle, path = make_bundle(tmp_path, openvino=False), tmp_path / "other.onnx"
    graph = load_model(bundle.path / "model.onnx")
    kinds = ("HardSwish", "LayerNormalization", "Erf", "Relu")
    graph.graph.node.extend(helper.make_node(kind, ["x"], [kind], name=kind) for kind in kinds)
    save_model(graph, path)
    note = speed_module.why_slow(timed(0.5, p50=40), path, int8(bundle, runtime, None))
    assert note.endswith(f": {reason}")


def test_a_comparison_of_bundles_says_why_int8_is_slower(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    slower, faster = timed(0.5, verdict="slower"), timed(2.0, verdict="faster")
    parts = {"xnnpack_partitions": "5", "outside_xnnpack": "4 PADV2"}
    variant = int8(bundle, "litert", slower)
    reason = speed_module.why_slow(slower, bundle.path / "model.onnx", variant, parts)
    bundle.manifest.variants[-1] = variant.noted("kept").noted(reason)
    int8(bundle, "executorch", faster)
    write_manifest(bundle.path, bundle.manifest)
    (pair,) = [pair for pair in compare_bundles(bundle.path, bundle.path).pairs if pair.name == "litert-int8"]
    assert pair.after.warnings == [f"litert-int8 is {reason}"]
    assert "XNNPACK runs it in 5 parts" in reason
    (pair,) = [pair for pair in compare_bundles(bundle.path, bundle.path).pairs if pair.name == "executorch-int8"]
    assert pair.after.warnings == []
