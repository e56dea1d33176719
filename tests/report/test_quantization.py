"""The report on INT8: the strategy, every attempt, and the sensitive layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import Bundle, Speed, write_manifest
from edgekit.quantization import Quantization
from edgekit.report import quantization
from edgekit.report.facts import collect
from edgekit.report.page import render
from edgekit.report.quantization import accuracy_searches
from tests.helpers.report_sample import make_run

LAYERS = [f"/model/encoder/network/layer{i}/layer{i}.0/conv{j}/Conv" for i in range(1, 5) for j in (1, 2)]
TRIED: list[dict[str, Any]] = [
    {"strategy": "calibration", "configuration": "7-bit, percentile", "status": "rejected", "seconds": 1.31, "top1": 0.91, "drop": 0.051,
     "unlabeled": {"agreement": 0.93, "sqnr_db": 14.2, "images": 256}},
    {"strategy": "calibration", "config": "nncf", "status": "failed", "seconds": 0.4, "why": "NNCF cannot <quantize> it"},
    {"strategy": "layers in float", "configuration": "7-bit, percentile, 2 nodes in float", "status": "verified", "seconds": 2.0, "drop": -0.002,
     "unlabeled": {"agreement": 1.0, "sqnr_db": None, "images": 256}},
]  # fmt: skip
SENSITIVITY = [
    {"layer": name, "operator": "Conv", "agreement": 0.95, "sqnr_db": 14.2 + gain, "gain_db": gain}
    for name, gain in zip(LAYERS, (9.4, 1.2, 0.6, 0.4, 0.2, 0.1, 0.0, -0.1), strict=True)
]


def with_accuracy_search(folder: Path) -> Path:
    run = make_run(folder)
    bundle = Bundle.open(run / "export")
    variant = bundle.variant("onnx-int8")
    variant.quantization = Quantization.model_validate(
        {
            "strategy": "layers in float",
            "configuration": TRIED[2]["configuration"],
            "tried": TRIED,
            "sensitivity": SENSITIVITY,
            "kept_in_float": LAYERS[:1],
        }
    )
    variant.speed = Speed(
        p50_ms=0.5, float_p50_ms=0.4, ratio=0.8, batch=1, samples=900, cores=2, cpu="a CPU", isa=["avx2"]
    )
    write_manifest(bundle.path, bundle.manifest)
    return run


def test_the_strategy_is_described_and_every_layer_is_in_the_table(tmp_path: Path) -> None:
    facts = collect(with_accuracy_search(tmp_path / "digits"))
    (found,) = accuracy_searches(facts)
    assert found.variant == "onnx-int8"
    assert "as few as possible, to keep the accuracy" in found.words
    assert "that is, slower" in found.words
    assert [row[5].text for row in found.tried.rows] == ["rejected", "failed", "verified"]
    assert found.tried.rows[2][4].text == "\u22120.20"
    assert found.layers is not None
    assert [row[5].text for row in found.layers.rows] == ["float"] + ["INT8"] * 7
    page = render(facts)
    assert page.count("How onnx-int8 was made") == 1
    assert "NNCF cannot &lt;quantize&gt; it" in page
    assert str(found.plot).count('class="dot"') == 2 * len(LAYERS)  # wide and narrow
    assert "NaN" not in str(found.plot)


def test_a_bundle_that_says_something_else_breaks_nothing(tmp_path: Path) -> None:
    run = with_accuracy_search(tmp_path / "digits")
    path = run / "export" / "bundle.json"
    content = json.loads(path.read_text())
    (variant,) = (v for v in content["variants"] if v["id"] == "onnx-int8")
    for record in (None, {}, {"tried": "twice"}, {"tried": [3]}, {"tried": [{}], "sensitivity": [{"layer": "x"}]}):
        variant["quantization"] = record
        path.write_text(json.dumps(content))
        assert "digits" in render(collect(run))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "0.80 times the speed of float in the same runtime, that is, slower: 0.500"),
        ({"ratio": 2.0, "verdict": "faster", "low": 1.9, "high": 2.1, "clock": "cpu", "threads": 1},
         "2.00 (1.90 to 2.10) times the speed of float in the same runtime: 0.500"),
        ({"verdict": "undecided", "low": 0.7, "high": 1.3, "clock": "cpu"}, "0.80 (0.70 to 1.30) times the speed"),
        ({"verdict": "undecided", "low": 0.7, "high": 1.3, "clock": "cpu"}, "not clearly faster: float stays the default"),
        ({"verdict": "faster", "clock": "cpu"}, "of CPU time on one thread"),
    ],
)  # fmt: skip
def test_the_speed_is_said_with_its_interval_and_its_verdict(more: dict[str, Any], words: str) -> None:
    speed = Speed(
        p50_ms=0.5, float_p50_ms=0.4, batch=1, samples=900, cores=2, cpu="a CPU", isa=[], **{"ratio": 0.8, **more}
    )
    assert words in quantization._speed(speed)
