"""Compilation for an Arm Ethos-U by Vela (`ethos-u-vela`), in a process of its own; its figures are estimates of its performance model."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekit.board import NpuCompilation
from edgekit.errors import ExportError, RuntimeMissing, near, one_line
from edgekit.export.micro.limits import operators
from edgekit.foreign import read_csv

ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512", "ethos-u85-128", "ethos-u85-256",
    "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip
_OPERATORS = re.compile(r"(CPU|NPU) operators = (\d+)")
_SECONDS = 600


def check_accelerator(name: str) -> None:
    """Check the name of an NPU.

    Raises:
        ExportError: Vela does not compile for it.
    """
    if name not in ACCELERATORS:
        raise ExportError(
            f"--ethos-u {name}: unknown NPU", near(name, ACCELERATORS) or f"choose one of {', '.join(ACCELERATORS)}"
        )


def require_compiler() -> None:
    """Check that Vela is installed.

    Raises:
        RuntimeMissing: it is not.
    """
    if util.find_spec("ethosu") is None:
        raise RuntimeMissing(
            "ethos-u-vela is not installed", "install edgekit's wheel with the extra [micro], or leave --ethos-u out"
        )


def compile_for_npu(path: Path, accelerator: str, persistent: int = 0) -> NpuCompilation:
    """Compile a `.tflite` in INT8 into a file beside it.

    Args:
        path: the file.
        accelerator: the NPU, one of `ACCELERATORS`.
        persistent: bytes of the arena that stay while the uncompiled file runs.

    Raises:
        ExportError: Vela fails, or does not compile for this NPU.
        RuntimeMissing: Vela is not installed.
    """
    check_accelerator(accelerator)
    require_compiler()
    with TemporaryDirectory(prefix="vela-") as folder:
        command = [
            sys.executable, "-m", "ethosu.vela", str(path), "--accelerator-config", accelerator, "--output-dir", folder,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder)
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"ethos-u-vela took more than {_SECONDS} seconds for {accelerator}", "leave --ethos-u out"
            ) from error
        compiled = next(Path(folder).glob("*_vela.tflite"), None)
        summary = next(Path(folder).glob("*_summary_*.csv"), None)
        if done.returncode or compiled is None or summary is None:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise ExportError(
                f"ethos-u-vela cannot compile for {accelerator}: {one_line(' '.join(said), 200)}", "leave --ethos-u out"
            )
        target = path.with_name(f"{path.stem}.{accelerator}.tflite")
        target.write_bytes(compiled.read_bytes())
        _, rows = read_csv(summary)
        _, row = next(rows)
    return _record(target, accelerator, done.stdout, row, persistent)


def _record(path: Path, accelerator: str, said: str, row: dict[str, str], persistent: int) -> NpuCompilation:
    counts = {where: int(count) for where, count in _OPERATORS.findall(said)}
    on_npu, on_cpu = counts.get("NPU", 0), counts.get("CPU", 0)

    def size(*columns: str) -> int:
        return round(1024 * sum(float(row[column]) for column in columns))

    return NpuCompilation(
        file=path.name,
        accelerator=accelerator,
        compiler=f"ethos-u-vela {metadata.version('ethos-u-vela')}",
        system=row["system_config"],
        memory_mode=row["memory_mode"],
        npu_operators=on_npu,
        cpu_operators=on_cpu,
        npu_share=on_npu / max(1, on_npu + on_cpu),
        file_bytes=path.stat().st_size,
        arena_bytes=size("sram_memory_used", "dram_memory_used") + persistent,
        operators=operators(path),
        sram_bytes=size("sram_memory_used"),
        flash_bytes=size("on_chip_flash_memory_used", "off_chip_flash_memory_used"),
        macs=int(float(row["nn_macs"])),
        estimated_ms=1000 * float(row["inference_time"]),
    )
