"""`tools/record_demo.py`: every printed line is in the picture, in its order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tools import record_demo

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = [
    "edgekit train r.yaml\n0.10\tdata <1> & more\n900.00\tpretrain\n",
    "edgekit report runs/r\n2.00\truns/r/report.html\n",
]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_lines_keep_their_order_and_a_training_is_not_waited_for() -> None:
    lines = record_demo.timeline(RECORDINGS)
    assert [text for _, text, _ in lines] == [
        "edgekit train r.yaml",
        "data <1> & more",
        "pretrain",
        "edgekit report runs/r",
        "runs/r/report.html",
    ]
    seconds = [second for second, _, _ in lines]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 10
    assert texts(record_demo.draw(lines))[1] == "data <1> & more"


def test_a_long_output_scrolls_to_its_last_line() -> None:
    long = ["edgekit train r.yaml\n" + "".join(f"{i}.00\tline {i}\n" for i in range(100))]
    svg = record_demo.draw(record_demo.timeline(long))
    hidden = 101 - record_demo.ROWS
    assert f"100% {{ transform: translateY({-hidden * record_demo.LINE}px)" in svg
    assert len(texts(svg)) == 101


def test_the_script_draws_captured_outputs(tmp_path: Path) -> None:
    for number, recording in enumerate(RECORDINGS, 1):
        (tmp_path / f"{number}-x.txt").write_text(recording)
    command = [sys.executable, str(ROOT / "tools/record_demo.py"), str(tmp_path / "a.svg"), "--from", str(tmp_path)]
    command += ["--outputs", str(tmp_path / "recorded")]
    subprocess.run(command, check=True)
    assert (tmp_path / "a.svg").read_text() == record_demo.draw(record_demo.timeline(RECORDINGS))
    assert (tmp_path / "recorded" / "train.txt").read_text() == "$ edgekit train r.yaml\ndata <1> & more\npretrain\n"


def test_the_commands_are_those_of_make_demo() -> None:
    recipe = re.search(r"^demo:.*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip().replace("$(BIN)/", "").replace("$(RUN)", "runs/digits") for line in recipe[1].splitlines()]
    assert [line for line in lines if line.startswith("edgekit ")] == [*record_demo.COMMANDS]


@pytest.mark.parametrize("name", ["demo.svg"])
def test_the_committed_recording_is_small_and_loads_nothing(name: str) -> None:
    path = ROOT / "docs" / "images" / name
    svg = path.read_text()
    assert len(svg) < 60_000
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|<image", svg)
    assert [text for text in texts(svg) if text.startswith("$ edgekit ")] == [
        f"$ {command}" for command in record_demo.COMMANDS
    ]
