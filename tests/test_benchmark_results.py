"""The result files under benchmarks/: summaries in the place of samples, and what the documents quote of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT / "benchmarks"))

import export_sweep  # noqa: E402
import mobile_table  # noqa: E402
from result_files import QUANTILES, WIDTH, rounded, summarize, write_rows  # noqa: E402


def test_a_summary_has_the_quantiles_and_every_sample_in_its_histogram() -> None:
    samples = np.random.default_rng(0).lognormal(11, 0.2, 2000)
    found = summarize(samples)
    assert found["count"] == 2000
    assert found["quantiles"] == {f"{q:g}": float(np.quantile(samples, q)) for q in QUANTILES}
    histogram = found["histogram"]
    assert sum(histogram["counts"]) + histogram["above"] == 2000
    edges = np.linspace(histogram["from"], histogram["to"], len(histogram["counts"]) + 1)
    at = int(np.argmax(histogram["counts"]))
    inside = (samples >= edges[at]) & (samples < edges[at + 1])
    assert histogram["counts"][at] == inside.sum()


@pytest.mark.parametrize("samples", [[7], [7, 7, 7], [1, 2]])
def test_a_summary_of_few_samples(samples: list[int]) -> None:
    found = summarize(samples)
    assert (found["min"], found["max"]) == (min(samples), max(samples))
    assert sum(found["histogram"]["counts"]) + found["histogram"]["above"] == len(samples)


def test_a_written_row_stays_on_one_line(tmp_path: Path) -> None:
    content = {"rows": [{"name": f"row {i}", "value": i / 3, "parts": list(range(20))} for i in range(50)], "of": {}}
    write_rows(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == rounded(content)
    lines = text.splitlines()
    assert len([line for line in lines if '"name"' in line]) == 50
    assert max(map(len, lines)) <= WIDTH + 10


def test_a_later_call_adds_to_the_table_of_mobile_runtimes() -> None:
    rows = {"a": {"load": 1, "files": {"onnx": {"ms": 1}, "litert": {"ms": 2}}}, "b": {"files": {"onnx": {"ms": 3}}}}
    may = {"created": "May", "machine": {"cores": 2}}
    row = {"load": 5, "files": {"onnx": {"ms": 4}, "executorch": {"ms": 5}}}
    found = mobile_table.merged({**may, "install": 6, "networks": rows}, {"created": "June"}, "a", row)
    assert list(found) == ["install", "calls", "networks"]
    assert found["calls"] == [may, {"created": "June"}]
    assert found["networks"]["b"] == {**rows["b"], "call": 0}
    files = {"onnx": {"ms": 4}, "executorch": {"ms": 5}, "litert": {"ms": 2, "call": 0}}
    assert found["networks"]["a"] == {"load": 5, "call": 1, "files": files}
    # The first call is forgotten when nothing is left of it.
    found = mobile_table.merged(found, {"created": "July"}, "b", rows["b"])
    assert [call["created"] for call in found["calls"]] == ["May", "June", "July"]
    assert found["networks"]["b"]["call"] == 2
    found = mobile_table.merged(found, {"created": "August"}, "a", {"files": {**row["files"], "litert": {"ms": 6}}})
    assert [call["created"] for call in found["calls"]] == ["July", "August"]
    assert {name: row["call"] for name, row in found["networks"].items()} == {"a": 1, "b": 0}
    assert mobile_table.merged({}, {"created": "May"}, "a", row)["calls"] == [{"created": "May"}]


def test_the_export_sweep_reads_what_it_wrote(tmp_path: Path) -> None:
    path = RESULTS / "export_sweep.json"
    rows = export_sweep.unpacked(json.loads(path.read_text()))
    again = {"variant_columns": list(export_sweep.COLUMNS), "networks": export_sweep.packed(rows)}
    write_rows(tmp_path / "again.json", again)
    assert export_sweep.unpacked(json.loads((tmp_path / "again.json").read_text())) == rows
    assert sum(row["status"] == "verified" for row in rows.values()) == 108
    assert all(v["agree"] for row in rows.values() for v in row.get("variants", {}).values())


def test_the_readme_quotes_the_measured_session_overhead() -> None:
    measured = json.loads((RESULTS / "session_overhead.json").read_text())["measurements"]
    assert all(row["ratios"]["quantiles"]["0.5"] == row["ratio"] for row in measured)
    shares = [100 * (row["ratio"] - 1) for row in measured if row["bare_ms"] >= 1]
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text())
    quoted = re.search(r"costs (\S+) to (\S+) % over the bare runtime call", text)
    assert quoted
    # It is quoted to the nearest twentieth of a percent.
    assert [float(quoted[1]), float(quoted[2])] == pytest.approx([min(shares), max(shares)], abs=0.025)


def test_the_page_on_phones_quotes_the_measured_levels() -> None:
    levels = json.loads((RESULTS / "phone_resize.json").read_text())["levels"]
    text = (ROOT / "docs" / "phones.md").read_text()
    for name, way in (("4 neighbors", "4 neighbors"), ("averages of areas", "areas")):
        quoted = re.search(rf"^\| {name}.*?\| (\S+), (\d+) \| (\S+), (\d+) \| (\S+) % \|$", text, re.M)
        assert quoted is not None
        large, small = levels["224"][way], levels["96"][way]
        measured = [large["mean"], large["largest"], small["mean"], small["largest"], 100 * small["over_16"]]
        assert [float(value) for value in quoted.groups()] == pytest.approx(measured, abs=0.051)
