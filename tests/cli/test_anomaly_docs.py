"""docs/anomaly.md, block by block, in a folder with what it names: the whole way from good parts to a report."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from edgekit.cli.main import cli
from tests.helpers.anomalies import write_set

TEXT = (Path(__file__).parents[2] / "docs" / "anomaly.md").read_text(encoding="utf-8")


def run(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "edgekit"
    cli.main(words[1:], standalone_mode=False)


@pytest.mark.extra
def test_every_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "parts", train=60, each=10)
    (tmp_path / "new").mkdir()
    with Image.open(tmp_path / "parts/test/dark/000.png") as image:
        image.resize((50, 40)).save(tmp_path / "new/1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    lines = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).splitlines()
    assert len(lines) == 6
    for line in lines:
        run(line)
        if " init " in line:  # the same recipe, in a minute: its encoder is smaller and hardly trained
            recipe = Path("parts.yaml").read_text(encoding="utf-8")
            small = recipe.replace("epochs: auto", "epochs: 2").replace("width: 0.5", "width: 0.125")
            assert small.count("epochs: 2 ") == small.count("width: 0.125") == 1
            Path("parts.yaml").write_text(small, encoding="utf-8")
    with Image.open("maps/1.png") as drawn:
        assert drawn.size == (50, 40)
    page = Path("runs/parts/report.html").read_text(encoding="utf-8")
    assert 'id="anomalies"' in page
    assert page.count("data:image/png") >= 10
    capsys.readouterr()
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, {})
    assert capsys.readouterr().out.split()[0] in {"normal", "anomalous"}
    assert len(list(Path("textures/test").rglob("*.png"))) == 20 + 5 * 4
