"""The reports that the documentation shows: there, small, linked, self-contained, and made by commands that exist."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
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


def test_the_picture_is_of_the_report_that_is_there() -> None:
    page = make_reports.REPORTS / "digits.html"
    with Image.open(make_reports.PICTURE) as picture:
        assert picture.size == make_reports.PICTURE_SIZE
        assert picture.info["page"] == hashlib.sha256(page.read_bytes()).hexdigest(), (
            "python tools/make_reports.py --picture"
        )


def test_the_picture_is_what_a_browser_shows(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fonts differ from machine to machine; where text and charts lie does not."""
    monkeypatch.setattr(make_reports, "PICTURE", tmp_path / "report.png")
    tracked = make_reports.ROOT / "docs" / "images" / "report.png"
    drawn = make_reports.draw(browser)
    light = []
    for path in (tracked, drawn):
        with Image.open(path) as picture:
            light.append(np.asarray(picture.convert("L").resize((14, 16), Image.Resampling.BOX), dtype=np.float64))
    assert np.corrcoef(light[0].ravel(), light[1].ravel())[0, 1] > 0.5
    assert drawn.stat().st_size <= make_reports.MOST_BYTES
