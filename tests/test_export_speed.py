"""A first look at speed: INT8 is timed beside float, and what was slower is never the default on such a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bundle import Bundle, BundleFile, Speed, Variant
from edgekit.export import speed as speed_module
from edgekit.export.speed import with_speed
from edgekit.machine import cpu_features
from edgekit.runtimes.predictor import default_variant
from tiny_bundle import make_bundle, some_images


def timed(ratio: float, p50: float = 1.0, isa: list[str] | None = None) -> Speed:
    return Speed(
        p50_ms=p50, float_p50_ms=p50 * ratio, ratio=ratio, batch=1, samples=9, cores=2, cpu="a CPU",
        isa=cpu_features() if isa is None else isa,
    )  # fmt: skip


def int8(bundle: Bundle, runtime: str, speed: Speed | None, status: str = "verified") -> Variant:
    """An INT8 variant beside those of the bundle; its file is the float one: only what is said about it counts here."""
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


def test_verified_int8_alone_is_timed_and_a_known_speed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path)
    known, fresh = int8(bundle, "openvino", timed(1.3)), int8(bundle, "onnxruntime", None)
    rejected = fresh.model_copy(update={"id": "bad-int8", "status": "rejected"})
    variants = [*bundle.manifest.variants, rejected]
    found = {v.id: v for v in with_speed(variants, bundle.path, bundle.path / "model.onnx", some_images(1), seconds=0)}
    assert list(found) == [v.id for v in variants]
    assert found["openvino-int8"] == known
    assert {id_ for id_, v in found.items() if v.speed} == {"openvino-int8", "onnxruntime-int8"}
    speed = found["onnxruntime-int8"].speed
    assert speed is not None
    assert speed.ratio == pytest.approx(speed.float_p50_ms / speed.p50_ms)
    assert (speed.batch, speed.samples, speed.isa) == (1, 15, cpu_features())
    assert ("slower than float" in found["onnxruntime-int8"].note) == (speed.ratio < 1)

    monkeypatch.setattr(speed_module, "saturates", lambda: True)
    slow = speed_module.why_slow(timed(0.5, p50=0.4), bundle.path / "model.onnx", fresh)
    assert "0.40 against 0.20 ms" in slow
    assert "VNNI" in slow
    assert "so small" in slow
    monkeypatch.setattr(speed_module, "saturates", lambda: False)
    assert ":" not in speed_module.why_slow(
        timed(0.5, p50=40), bundle.path / "model.onnx", fresh
    )  # no reason is made up
