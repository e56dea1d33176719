"""The device side on aarch64: Debian's arm64 Python and the aarch64 wheels under user-mode emulation; nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import exported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "aarch64.py"


@pytest.mark.slow
def test_golden_tensors_are_proved_on_aarch64(tmp_path: Path, require_tool: Callable[[str, str], str]) -> None:
    """Downloads included, 60 s on one core: the only test that runs on the architecture of a Jetson or a Raspberry Pi."""
    for tool in ("qemu-aarch64-static", "apt-get", "dpkg-deb", "uv"):
        require_tool(tool, "runs the aarch64 wheels here")
    made = {"onnx": ["fp32"], "openvino": ["fp16"], "litert": ["fp32", "int8"]}
    for target, precisions in made.items():  # one bundle
        exported.export(tmp_path / "bundle", targets=[target], precisions=precisions)
    command = [
        sys.executable,
        str(SCRIPT),
        "--bundle",
        str(tmp_path / "bundle"),
        "--output",
        str(tmp_path / "result.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().rpartition("\n")[2]
    if last.startswith("out of reach: "):
        pytest.skip(last)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["emulated"] is True
    assert result["machine"]["architecture"] == "aarch64"
    assert {"torch", "onnx", "lightning"}.isdisjoint(result["machine"]["packages"])
    outcomes = {row["variant"]: row["outcome"] for row in result["variants"]}
    assert outcomes == {f"{target}-{precision}": "proved" for target in made for precision in made[target]}
    assert all(row["agreement"] == 1 for row in result["variants"] if "int8" not in row["variant"])
