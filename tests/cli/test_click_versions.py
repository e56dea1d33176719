"""The command line runs with every click from 8.1 on, and depends on no name that click 9 removes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "edgekit"


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["export", "--list"]])
def test_a_closed_pipe_ends_quietly_and_no_removed_name_is_used(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-W", "error::DeprecationWarning:edgekit.cli.main", "-m", "edgekit", *arguments]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_no_class_of_click_is_subscripted_at_import() -> None:
    """Those of click 8.1 are not generic. Annotations are never evaluated."""
    found = [
        f"{path.relative_to(SOURCE)}:{base.lineno}"
        for path in sorted((SOURCE / "cli").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Subscript) and ast.unparse(base.value).startswith("click.")
    ]
    assert not found
