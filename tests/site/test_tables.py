"""The tables and charts of the documentation are those of the result files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tools.site import figures, tables
from tools.site.tables import devices

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [path for path in tables.pages() if tables.marked(path.read_text())]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(tables.ROOT).as_posix())
def test_the_numbers_of_a_page_are_those_of_its_files(path: Path) -> None:
    text = path.read_text()
    assert text == tables.filled(text), "`make docs-update` writes the tables of the result files into the pages"


def test_every_table_and_number_is_shown_somewhere() -> None:
    shown = {name for path in PAGES for name in tables.marked(path.read_text())}
    assert shown == {*tables.TABLES, *tables.NUMBERS}


def test_no_table_of_measurements_is_copied_by_hand() -> None:
    """A row of several decimals belongs to a marked table. TensorRT's versions are no measurements."""
    decimal = re.compile(r"\**[−+-]?\d+\.\d+( %| s| MB| ms|×)?\**(, .*)?( / .*)?")
    found = []
    for path in tables.pages():
        text = re.sub(r"<!-- table: .*?<!-- /table -->", "", path.read_text(), flags=re.DOTALL)
        for row in text.splitlines():
            cells = [cell.strip() for cell in row.strip("| ").split("|")] if row.startswith("|") else []
            if sum(bool(decimal.fullmatch(cell)) for cell in cells) >= 2:
                found.append((path.name, row))
    assert {name for name, _ in found} <= {"tensorrt.md"}, found


def test_a_changed_number_is_seen() -> None:
    text = (DOCS / "results" / "accuracy.md").read_text()
    student = next(cell for cell in tables.read("methods_digits")["cells"] if cell["row"] == "simclr")
    shown = f"{100 * student['knn']:.1f}"
    assert tables.filled(text.replace(shown, "99.9")) == text


def test_a_table_or_number_that_does_not_exist_is_an_error() -> None:
    for page in ("<!-- table: nonsense -->\n<!-- /table -->", "a <!-- number: nonsense -->1<!-- /number --> b"):
        with pytest.raises(KeyError, match="nonsense"):
            tables.filled(page)


def test_a_number_in_a_sentence_is_that_of_its_file() -> None:
    row = next(row for row in tables.read("cifar10_hour")["rows"] if row["labels"] == 0.1)
    page = tables.filled("It is <!-- number: hour-10-probe -->0.0<!-- /number --> %.")
    found = re.fullmatch(r"It is <!-- number: hour-10-probe -->([\d.]+)<!-- /number --> %\.", page)
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * row["frozen_probe"], abs=0.0501)


def _rows(name: str) -> list[list[str]]:
    """Return the cells of a table's rows, without bold; an empty first cell has the text of the row above."""
    rows: list[list[str]] = []
    for line in tables.TABLES[name]().splitlines()[2:]:
        cells = [cell.strip().strip("*").replace("−", "-") for cell in line[1:-1].split("|")]
        rows.append([cells[0] or (rows[-1][0] if rows else ""), *cells[1:]])
    return rows


def test_the_table_of_the_accuracy_search_is_that_of_its_file() -> None:
    measured = tables.read("int8_recovery")["measured"]
    rows = _rows("int8-recovery")
    assert len(rows) == 3 * len(measured)
    for i, found in enumerate(measured.values()):
        for row, target in zip(rows[3 * i : 3 * i + 3], ("onnx-int8", "openvino-int8", "trt-int8"), strict=True):
            plain, search = found[target]["plain"], found[target]["ladder"]
            assert float(row[2]) == pytest.approx(100 * plain["drop"], abs=0.00501)
            assert float(row[3]) == pytest.approx(100 * search["drop"], abs=0.00501)
            assert ("biases corrected" in row[4]) == ("biases corrected" in search["way"])
            assert (row[6] == "not run") == (search["speed"] is None)


def test_the_table_of_configurations_is_that_of_its_file() -> None:
    measured = tables.read("int8_ways")["measured"]
    rows = _rows("int8-configurations")
    assert len(rows) == len(measured)
    shown = sorted((float(row[2]), float(row[4]), float(row[5])) for row in rows)
    wanted = sorted((100 * row["drop"], row["p50_ms"], row["times_faster_than_float"]) for row in measured)
    for left, right in zip(shown, wanted, strict=True):
        assert left == pytest.approx(right, abs=0.00501)


def test_a_table_of_training_has_the_cell_of_its_file() -> None:
    cells = tables.read("finetune_ablation")["cells"]
    wanted = next(
        100 * cell["finetuned"]
        for cell in cells
        if (cell["set"], cell["labels"], cell["draw"], cell["row"])
        == ("mnist", 10, 0, "linear first, no consistency, four times the steps")
    )
    row = next(row for row in _rows("finetuning") if row[:2] == ["linear first, no consistency", "600"])
    assert float(row[5]) == pytest.approx(wanted, abs=0.0501)
    # Of two trainings with the same row, that of the fewest steps stands beside the others of few steps.
    short = {
        cell["steps"]: 100 * cell["finetuned"]
        for cell in cells
        if (cell["set"], cell["labels"], cell["draw"], cell["row"]) == ("textures", 10, 0, "default")
    }
    shown = [float(row[7]) for row in _rows("finetuning") if row[0] == "default"]
    assert shown[:2] == [pytest.approx(short[min(short)], abs=0.0501), pytest.approx(short[max(short)], abs=0.0501)]
    students = tables.read("distillation")["rows"]
    wanted = next(
        100 * row["student"] for row in students if (row["way"], row["cell"]) == ("mixed images", "photographs-5")
    )
    row = next(row for row in _rows("distillation") if row[0].startswith("mixed images"))
    assert float(row[4]) == pytest.approx(wanted, abs=0.0501)


def test_the_best_student_of_a_column_is_bold() -> None:
    lines = [line[1:-1].split("|") for line in tables.TABLES["distillation"]().splitlines()[2:-1]]
    for column in range(1, len(lines[0])):
        shown = [line[column].strip() for line in lines if line[column].strip() != "–"]
        best = max(float(cell.strip("*")) for cell in shown)
        assert f"**{best:.1f}**" in shown


def test_a_mean_is_that_of_all_draws() -> None:
    """The first cell of the table of CIFAR-10, computed from the file without the code of the tables."""
    path = DOCS.parent / "benchmarks" / "results" / "cifar10.json"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["labels"] == 0.01]
    teacher = sum(round(10_000 * cell["teacher"]) for cell in cells) / len(cells) / 100
    found = re.search(r"^\| 1 % \(500\) \| (\S+) \|", tables.TABLES["cifar10"](), re.MULTILINE)
    assert found is not None
    assert float(found[1]) == pytest.approx(teacher, abs=0.0501)


def test_a_mean_of_scores_is_that_of_all_pairs() -> None:
    """The first cells of the table of unknown images, computed from the single pairs."""
    path = DOCS.parent / "benchmarks" / "results" / "unknown.json"
    rows = [row for row in json.loads(path.read_text())["rows"] if row["variant"] == "onnx-int8" and not row["near"]]
    far = [row for row in rows if row["score"] == "distance, embedding"]
    found = re.search(
        r"^\| `distance`, with `--embedding` \|[^|]*\| ([\d.]+)% \| ([\d.]+)% \|", tables.TABLES["unknown"](), re.M
    )
    assert found is not None
    for shown, key in zip(found.groups(), ("auroc", "false_accepts"), strict=True):
        assert float(shown) == pytest.approx(100 * sum(row[key] for row in far) / len(far), abs=0.0501)


def test_the_readme_shows_the_measured_gains() -> None:
    assert "gains" in tables.marked((tables.ROOT / "README.md").read_text())


def test_a_gain_is_that_of_its_cell() -> None:
    """The row of MNIST, from the file without the code of the tables."""
    cells = json.loads((tables.ROOT / "benchmarks" / "results" / "promise.json").read_text())["cells"]
    first = {cell["labels"]: cell for cell in cells if cell["set"] == "mnist" and cell["draw"] == 0}
    (line,) = (line for line in tables.TABLES["gains"]().splitlines() if line.startswith("| MNIST"))
    shown = [[float(number) for number in cell.replace("*", "").split("/")] for cell in line.strip("| ").split("|")[1:]]
    wanted = [[100 * cell["student"], 100 * cell["scratch"]] for _, cell in sorted(first.items())]
    assert shown == [pytest.approx(pair, abs=0.0501) for pair in wanted]


@pytest.mark.parametrize("path", sorted(figures.files()))
def test_a_chart_is_that_of_its_file(path: str) -> None:
    assert (DOCS.parent / path).read_text() == figures.files()[path], "`make docs-update` draws the charts anew"


def test_a_bar_is_as_long_as_its_value() -> None:
    svg = figures.bars("two values", [("half <b>", "a", 0.5), ("all", "b", 1.0)])
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(2 * widths[0])
    assert "half &lt;b&gt;" in svg
    assert "50.0 %" in svg


def test_the_tables_of_mobile_runtimes_are_those_of_their_file() -> None:
    networks = tables.read("mobile_table")["networks"]
    for precision in ("fp32", "int8"):
        shown = tables.TABLES[f"mobile-{precision}"]().splitlines()
        assert len(shown) == 2 + sum("accuracy" not in row for row in networks.values())
        for title, name in (("MobileNetV3-small", "mobilenetv3_small"), ("ResNet-18", "resnet18")):
            (line,) = (line for line in shown if line.startswith(f"| {title} |"))
            for runtime in ("onnx", "openvino", "litert", "executorch", "official"):
                file = networks[name]["files"][f"{runtime}-{precision}"]
                assert f" {file['bytes'] / 1e6:.1f} MB, {file['cpu_seconds']:.0f} s |" in line
                if "ratio" in file:
                    assert f"| {file['p50_ms']:.2f} ms, {file['ratio']['median']:.2f}, " in line
    trained = [row for row in networks.values() if "accuracy" in row]
    assert tables.TABLES["mobile-trained"]().count("\n") == 1 + len(trained)
    assert len({row["files"]["onnx-fp32"]["bytes"] for row in trained}) >= 2  # architectures


def test_a_file_that_is_not_there_is_a_dash_and_so_is_a_time_that_was_not_measured() -> None:
    assert devices._mobile_cell(None) == devices._mobile_cell({"failed": "it does not lower"}) == "–"
    file = {"sqnr_db": 20.04, "bytes": 2_000_000, "cpu_seconds": 3.2}
    assert devices._mobile_cell(file) == "–, 20.0 dB, 2.0 MB, 3 s"
    timed = {**file, "sqnr_db": 118.7, "p50_ms": 1.236, "ratio": {"median": 0.345}}
    assert devices._mobile_cell(timed) == "1.24 ms, 0.34, 119 dB, 2.0 MB, 3 s"


def test_the_page_says_which_weights_the_official_converter_lost() -> None:
    file = tables.read("mobile_table")["networks"]["resnet10"]["files"]["official-fp32-as-is"]
    text = (DOCS / "export.md").read_text()
    (lost,) = file["lost_weights"]
    assert f"`{lost.removeprefix('model.encoder.network.')}`" in text
    assert f"{file['sqnr_db']:.1f} dB in FP32" in text
