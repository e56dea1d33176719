"""The reports that the documentation shows: there, small, linked, self-contained, and made by commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tools import make_reports

from edgekit.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_every_report_is_there_and_linked() -> None:
    assert {path.stem for path in make_reports.REPORTS.glob("*.html")} == {*make_reports.SHOWN}
    readme, results = (ROOT / "README.md").read_text(), (ROOT / "docs/results/index.md").read_text()
    for name in make_reports.SHOWN:
        assert f"](docs/reports/{name}.html)" in readme
        assert f"](../reports/{name}.html)" in results


@pytest.mark.parametrize("name", sorted(make_reports.SHOWN))
def test_a_report_is_one_small_file(name: str) -> None:
    path = make_reports.REPORTS / f"{name}.html"
    text = path.read_text()
    assert path.stat().st_size <= make_reports.MOST_BYTES
    assert "default-src 'none'" in text  # its content security policy: nothing is loaded
    assert not re.search(r"""(?:src|href)=["']https?://""", text)
    assert not re.search(r"/(?:tmp|home|root|work)/", text), "a path of the machine that made it"


@pytest.mark.parametrize(
    ("name", "words"),
    [("digits", "Confusion matrix"), ("textures", 'id="anomalies"'), ("digits-map", "map")],
)
def test_a_report_is_of_its_kind(name: str, words: str) -> None:
    assert words in (make_reports.REPORTS / f"{name}.html").read_text()


def test_the_commands_are_those_of_edgekit() -> None:
    for shown in make_reports.SHOWN.values():
        for line in shown.commands:
            program, command, *_ = shlex.split(line)
            assert (program, command in COMMANDS) == ("edgekit", True)


def test_the_script_runs_commands_and_copies_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a command that takes no time: it writes a recipe, here in place of a page."""
    line = "edgekit init textures --task anomaly --no-measure --output page.html --force"
    monkeypatch.setattr(make_reports, "SHOWN", {"x": make_reports.Shown((line,), "page.html")})
    monkeypatch.setattr(make_reports, "REPORTS", tmp_path / "reports")
    (tmp_path / "work").mkdir()
    path = make_reports.make("x", tmp_path / "work")
    assert path == tmp_path / "reports" / "x.html"
    assert "task: anomaly" in path.read_text()
    assert (tmp_path / "work" / "examples" / "digits.yaml").is_file()
    monkeypatch.setattr(make_reports, "MOST_BYTES", 10)
    with pytest.raises(SystemExit, match="more than 10"):
        make_reports.make("x", tmp_path / "work")
