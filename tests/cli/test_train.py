"""`edgekit train`: the commands that it prints at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli.train import _next
from edgekit.run import Run
from edgekit.stages import STAGES


@pytest.mark.parametrize(
    ("content", "bundle"),
    [
        ("data: {labeled: digits}", "export"),
        ("task: recognition\ndata: {labeled: digits}", "export-recognition"),
        ("task: anomaly\ndata: {normal: textures}", "export"),
    ],
)
def test_the_commands_after_a_training(
    content: str, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.recipe_path.write_text(content)
    _next(run, ["anomaly"] if "anomaly" in content else list(STAGES))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        f"{run.path} is complete. Next:",
        f"  edgekit evaluate {run.path}",
        f"  edgekit export {run.path}",
        f"  edgekit bench {run.path / bundle}",
        f"  edgekit report {run.path}",
    ]
