"""The device side on aarch64: Debian's arm64 Python and the aarch64 wheels under user-mode emulation; nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.tiny_bundle import make_bundle

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "aarch64.py"


@pytest.mark.slow
def test_golden_tensors_are_proved_on_aarch64(tmp_path: Path, require_tool: Callable[[str, str], str]) -> None:
    """Downloads included, 40 s on one core: the only test that runs on the architecture of a Jetson or a Raspberry Pi."""
    for tool in ("qemu-aarch64-static", "apt-get", "dpkg-deb", "uv"):
        require_tool(tool, "runs the aarch64 wheels here")
    bundle = make_bundle(tmp_path / "bundle").path
    command = [sys.executable, str(SCRIPT), "--bundle", str(bundle), "--output", str(tmp_path / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().rpartition("\n")[2]
    if last.startswith("out of reach: "):
        pytest.skip(last)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["emulated"] is True
    assert result["machine"]["architecture"] == "aarch64"
    assert {"torch", "onnx", "lightning"}.isdisjoint(result["machine"]["packages"])
    proofs = {row["variant"]: (row["outcome"], row["agreement"]) for row in result["variants"]}
    assert proofs == {"onnx-fp32": ("proved", 1), "openvino-fp16": ("proved", 1)}
