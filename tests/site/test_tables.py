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


def test_every_table_is_shown_somewhere() -> None:
    shown = {name for path in PAGES for name in tables.marked(path.read_text())}
    assert shown == {*tables.TABLES}


def test_a_changed_number_is_seen() -> None:
    text = (DOCS / "results" / "accuracy.md").read_text()
    student = next(cell for cell in tables.read("methods_digits")["cells"] if cell["row"] == "simclr")
    shown = f"{100 * student['knn']:.1f}"
    assert tables.filled(text.replace(shown, "99.9")) == text


def test_a_table_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        tables.filled("<!-- table: nonsense -->\n<!-- /table -->")


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
                    assert f"| {file['ratio']['median']:.2f}, " in line
    trained = [row for row in networks.values() if "accuracy" in row]
    assert tables.TABLES["mobile-trained"]().count("\n") == 1 + len(trained)
    assert len({row["files"]["onnx-fp32"]["bytes"] for row in trained}) >= 2  # architectures


def test_a_file_that_is_not_there_is_a_dash_and_so_is_a_time_that_was_not_measured() -> None:
    assert devices._mobile_cell(None) == devices._mobile_cell({"failed": "it does not lower"}) == "–"
    file = {"sqnr_db": 20.04, "bytes": 2_000_000, "cpu_seconds": 3.2}
    assert devices._mobile_cell(file) == "–, 20.0 dB, 2.0 MB, 3 s"
    timed = {**file, "sqnr_db": 118.7, "ratio": {"median": 0.345}}
    assert devices._mobile_cell(timed) == "0.34, 119 dB, 2.0 MB, 3 s"


def test_the_page_says_which_weights_the_official_converter_lost() -> None:
    file = tables.read("mobile_table")["networks"]["resnet10"]["files"]["official-fp32-as-is"]
    text = (DOCS / "export.md").read_text()
    (lost,) = file["lost_weights"]
    assert f"`{lost.removeprefix('model.encoder.network.')}`" in text
    assert f"{file['sqnr_db']:.1f} dB in FP32" in text
