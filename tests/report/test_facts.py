"""The report's numbers: how they are read, chosen and printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekit.bench.compare import compare
from edgekit.bundle import Bundle, read_manifest, write_manifest
from edgekit.errors import RecipeError, RunError
from edgekit.intervals import wilson
from edgekit.recipe import Architecture
from edgekit.report import figures
from edgekit.report import format as show
from edgekit.report.charts import TradeoffPoint, pareto
from edgekit.report.confidence import confidences, reliability
from edgekit.report.facts import collect
from edgekit.report.headline import headline, p50
from edgekit.report.latency import latencies, setting
from edgekit.report.page import render
from edgekit.report.story import architecture, tiles
from edgekit.report.svg import Scale, log_ticks, nice_ticks, padded
from edgekit.report.tables import stages, variants
from tests.helpers import report_sample
from tests.helpers.report_sample import CREATED, make_latency, make_run, write_result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "digits", samples=700)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "digits"))


@pytest.mark.parametrize(
    ("runtime", "title"), [("executorch", "ExecuTorch"), ("litert", "LiteRT"), ("tflite-micro", "TFLite Micro")]
)
def test_report_and_compare_take_every_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, title: str
) -> None:
    name = f"{runtime}-int8"
    monkeypatch.setitem(report_sample.VARIANTS, name, (runtime, "int8", 190_000, 0.9583, 0.2, "verified", 0.2))
    run = make_run(tmp_path / "digits", samples=700)
    page = render(collect(run))
    assert name in page
    assert title in page
    result = run / "bench" / f"{name}-b1.json"
    (pair,) = compare(result, result).pairs
    assert pair.name == f"{name}, threads 2"
    assert {row.change for row in pair.rows if row.metric == "p50"} == {0}
    bundles = {pair.name: pair for pair in compare(run / "export", run / "export").pairs}
    assert {row.metric for row in bundles[name].rows} == {"accuracy", "size"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show.percent(0.9639), "96.4 %"),
        (show.percent(None), "n/a"),
        (show.points(0.1167), "+11.7"),
        (show.points(-0.0056), "−0.6"),
        (show.points(-0.0001), "0.0"),
        (show.milliseconds(0.17712), "0.177 ms"),
        (show.milliseconds(12.345), "12.3 ms"),
        (show.milliseconds(1234.5), "1,234 ms"),
        (show.milliseconds(None), "n/a"),
        (show.size(187_000), "187 kB"),
        (show.size(999_900), "1.00 MB"),
        (show.size(712), "712 B"),
        (show.duration(8.24), "8.2 s"),
        (show.duration(185), "3 min 05 s"),
        (show.duration(8040), "2 h 14 min"),
        (show.difference(3.1e-6), "3.1e-06"),
        (show.difference(0.2141), "0.214"),
        (show.difference(0.0), "0"),
        (show.plain(0.00005), "5e−05"),
        (show.plain(25.0), "25"),
    ],
)
def test_numbers_as_a_person_reads_them(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected


def test_the_interval_is_wilsons() -> None:
    # Brown, Cai and DasGupta 2001: the interval stays inside [0, 1] and is not empty at the borders.
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    low, high = wilson(1.0, 10)
    assert (low, high) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(0.83, 0.97, 4) == [0.85, 0.9, 0.95]
    assert log_ticks(0.15, 12) == [0.2, 0.5, 1, 2, 5, 10]
    assert log_ticks(1e-3, 1e4) == [1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4]
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    low, high = padded([3.0, 3.0])
    assert low < 3 < high


def test_a_whole_run_has_no_gaps(whole: Path) -> None:
    facts = collect(whole)
    assert facts.gaps == []
    assert facts.data is not None
    assert facts.data.sets["pool"].images == 1291
    assert facts.data.skipped[0] == ("scans/0172.tif", "image file is truncated")
    history = facts.stages["pretrain"].history
    assert history is not None
    assert len(history.epochs) == 60
    assert set(history.columns) == {"loss", "lr", "collapse_std", "effective_rank"}


def test_the_headline(whole: Path) -> None:
    top = headline(collect(whole))
    assert top.student is not None
    assert top.student.value == 0.9639
    assert top.gain == pytest.approx(0.9639 - 0.8472)
    assert top.fastest is not None
    assert top.fastest.latency.variant == "openvino-int8"  # 0.17 ms, the lowest of the verified ones
    assert top.int8 is not None
    assert top.int8.id == "openvino-int8"
    assert top.full is not None
    assert top.full.id == "onnx-fp32"


def test_a_rejected_variant_is_never_the_fastest(run: Path) -> None:
    bundle = Bundle.open(run / "export")
    latency = make_latency(bundle.variant("onnx-int8-tensor"), bundle.digest, [1000 + i for i in range(700)])
    write_result(run / "bench" / "rejected.json", latency)
    top = headline(collect(run))
    assert top.fastest is not None
    assert top.fastest.latency.variant == "openvino-int8"


@pytest.mark.parametrize("changes", [{"interrupted": True}, {"bundle_digest": "f" * 64}, {"batch": 8}])
def test_a_latency_that_is_about_something_else_is_not_in_the_headline(run: Path, changes: dict[str, object]) -> None:
    bundle = Bundle.open(run / "export")
    latency = make_latency(bundle.variant("onnx-int8"), bundle.digest, [1000 + i for i in range(700)], **changes)
    write_result(run / "bench" / "other.json", latency)
    facts = collect(run)
    fastest = headline(facts).fastest
    assert fastest is not None
    assert (p50(fastest) or 0) > 0.1
    table = latencies(facts)
    assert table is not None
    assert len(table.rows) == 6  # and yet it is shown


def test_of_repeated_measurements_the_newest_counts(run: Path) -> None:
    bundle = Bundle.open(run / "export")
    newer = make_latency(bundle.variant("openvino-int8"), bundle.digest, [900_000] * 700)
    path = run / "bench" / "a-later-one.json"
    write_result(path, newer)
    path.write_text(path.read_text().replace(CREATED, "2026-03-02T12:30:00+00:00"))
    fastest = headline(collect(run)).fastest
    assert fastest is not None
    assert fastest.latency.variant == "openvino-fp16"


def test_a_percentile_without_its_samples_is_not_available(whole: Path) -> None:
    table = latencies(collect(whole))
    assert table is not None
    names = [column.name for column in table.columns]
    row = table.rows[0]
    assert row[names.index("Samples")].text == "700"
    assert row[names.index("p99")].text.endswith("ms")
    assert row[names.index("p99.9")].text == "n/a"
    assert row[names.index("p99.9")].title == "700 samples, but 6,636 are needed"
    assert row[0].warnings == ["short: less than 10 s or 662 samples, a first look and not a measurement"]


def test_tables_say_protocol_status_and_drop(whole: Path) -> None:
    facts = collect(whole)
    scores, shipped = stages(facts), variants(facts)
    assert scores is not None
    assert shipped is not None
    assert all(row[-1].text for row in scores.rows)
    rows = {row[0].text: row for row in shipped.rows}
    assert rows["onnx-int8-tensor"][1].badge == "rejected"
    assert rows["onnx-int8-tensor"][3].text == "9.2"
    assert rows["tensorrt-fp16"][2].text == "n/a"


@pytest.mark.parametrize(
    ("lost", "part", "command"),
    [
        ("data/stage.json", "data", "edgekit train"),
        ("pretrain/stage.json", "pretrain", "edgekit train"),
        ("distill/history.csv", "training", "edgekit train"),
        ("pretrain/views.png", "views", "edgekit train"),
        ("evaluate/evaluation.json", "evaluate", "edgekit evaluate"),
        ("export/bundle.json", "export", "edgekit export"),
        ("export/onnx-fp32.bin", "export", "edgekit export"),
        ("bench", "bench", "edgekit bench"),
    ],
)
def test_a_missing_part_is_named_with_what_makes_it(run: Path, lost: str, part: str, command: str) -> None:
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    gaps = collect(run).missing(part)
    assert len(gaps) == 1
    assert gaps[0].command.startswith(command)


@pytest.mark.parametrize(
    ("damaged", "part"),
    [
        ("data/splits.json", "data"),
        ("finetune/stage.json", "finetune"),
        ("pretrain/history.csv", "training"),
        ("evaluate/evaluation.json", "evaluate"),
        ("export/bundle.json", "export"),
        ("bench/onnx-fp32-b1.json", "bench"),
    ],
)
def test_a_damaged_part_is_a_gap_and_not_an_error(run: Path, damaged: str, part: str) -> None:
    (run / damaged).write_bytes(b"\xff\x00{ nonsense")
    assert len(collect(run).missing(part)) == 1


def test_latencies_of_another_export_are_said_to_be(run: Path) -> None:
    manifest = run / "export" / "bundle.json"
    manifest.write_text(manifest.read_text().replace("2026-03-01", "2026-03-05"))
    facts = collect(run)
    assert [gap.why for gap in facts.missing("bench")] == ["all latencies were measured on another export of this run"]
    assert headline(facts).fastest is None
    table = latencies(facts)
    assert table is not None
    assert "another export" in table.rows[0][0].warnings[0]


def test_commands_can_be_pasted(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/digits", "my runs/one"):
        Path(folder).mkdir(parents=True)
        shutil.copy(whole / "recipe.yaml", folder)
    usual, other = collect("runs/digits"), collect("my runs/one")
    assert usual.command("train") == "edgekit train runs/digits/recipe.yaml"
    assert other.command("train") == "edgekit train 'my runs/one/recipe.yaml' --run 'my runs/one'"
    assert other.command("bench") == "edgekit bench 'my runs/one/export'"


def test_a_student_that_is_worse_is_said_to_be(run: Path) -> None:
    path = run / "evaluate" / "evaluation.json"
    path.write_text(path.read_text().replace("0.9639", "0.8222"))
    facts = collect(run)
    tile = tiles(facts, headline(facts))[-1]
    assert (tile.name, tile.value, tile.loss) == ("The unlabeled images did not help here", "−2.5", True)


def test_a_setting_is_short_and_names_the_machine_only_among_several(run: Path) -> None:
    bundle = Bundle.open(run / "export")
    changes = {"runtime_version": "2026.4.1-22982-e213a147257-releases/2026/4", "threads": 0}
    latency = make_latency(bundle.variant("openvino-int8"), bundle.digest, [170_000] * 700, **changes)
    path = run / "bench" / "openvino-int8-b1.json"
    write_result(path, latency)
    facts = collect(run)
    measured = next(m for m in facts.measured if m.file == path.name)
    assert setting(measured, facts).replace("\u00a0", " ") == "OpenVINO 2026.4.1, batch 1, default threads"
    path.write_text(path.read_text().replace('"cpu": "', '"cpu": "Raspberry '))
    facts = collect(run)
    measured = next(m for m in facts.measured if m.file == path.name)
    assert "Raspberry" in setting(measured, facts)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        collect(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no recipe"):
        collect(tmp_path / "empty")
    (tmp_path / "recipe.yaml").write_text("name: [")
    with pytest.raises(RecipeError):
        collect(tmp_path)


def test_a_network_in_short_says_what_makes_it_another_one() -> None:
    assert architecture(Architecture(name="resnet18", width=0.5)) == "resnet18 ×0.5"
    assert architecture(Architecture(name="resnet50", width=2.0, selective_kernels=True)) == "resnet50 ×2 + SK"
    assert architecture(Architecture(name="vit_tiny_patch16_224", patch_size=4)) == "vit_tiny_patch16_224 /4"


def test_the_pareto_front_holds_what_nothing_else_beats() -> None:
    def point(
        label: str, latency: float, accuracy: float, energy: float | None = None, rejected: bool = False
    ) -> TradeoffPoint:
        return TradeoffPoint(label, latency, accuracy, "onnxruntime", "fp32", rejected, energy)

    marks = [
        point("fast", 1, 0.90),
        point("good", 3, 0.95),
        point("beaten", 3.5, 0.94),
        point("rejected", 0.5, 0.99, None, True),
    ]
    assert [p.label for p in pareto(marks)] == ["fast", "good"]
    # Slower and less accurate, but the thriftiest of those that were metered.
    metered = [point("fast", 1, 0.90, 0.02), point("thrifty", 2, 0.89, 0.01), point("neither", 2.5, 0.88, 0.03)]
    assert [p.label for p in pareto(metered)] == ["fast", "thrifty"]


def test_the_confidence_of_a_bundle_has_a_diagram_and_a_table(whole: Path) -> None:
    facts = collect(whole)
    assert facts.bundle is not None
    trained = facts.bundle.manifest.confidence
    assert trained is not None
    assert trained.quality is not None
    assert trained.quality.ece[0] > trained.quality.ece[1]
    figure, table = reliability(facts), confidences(facts)
    assert figure is not None
    assert table is not None
    dots = sum(len(bins) for bins in (trained.quality.bins_before, trained.quality.bins))
    assert figure.svg.count("<circle") == 2 * dots  # the wide drawing and the narrow one
    assert [row[0].text for row in table.rows] == ["Trained model", "onnx-fp32", "onnx-int8"]
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert show.percent(trained.quality.unknown) in row[5].text
        assert show.percent(trained.quality.ece[1]) in row[2].text
    assert [row[6].note for row in table.rows[1:]] == [
        "all: 96.4\u00a0%",
        "all: 95.8\u00a0%",
    ]  # top-1 without unknown stays what it is
    page = render(facts)
    assert "Confidence and unknown" in page
    assert "Reliability" in page


def test_a_bundle_without_a_confidence_has_neither(run: Path) -> None:
    manifest = read_manifest(run / "export")
    for part in (manifest, *manifest.variants):
        part.confidence = None
    write_manifest(run / "export", manifest)
    facts = collect(run)
    assert reliability(facts) is None
    assert confidences(facts) is None
    assert "Confidence and unknown" not in render(facts)


@pytest.mark.parametrize(
    ("left", "words"),
    [("finetuned", "encoder fine-tuned on few labels"), ("frozen", "linear probe on the frozen encoder")],
)
def test_the_chart_says_what_the_teacher_is(run: Path, left: str, words: str) -> None:
    path = run / "finetune" / "stage.json"
    content = json.loads(path.read_text())
    content["metrics"]["choice"] = {"left": left}
    path.write_text(json.dumps(content))
    facts = collect(run)
    chart = figures.stages(facts, headline(facts))
    assert chart is not None
    assert words in chart.svg
