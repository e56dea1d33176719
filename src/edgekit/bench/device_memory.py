"""The memory that this process holds on an accelerator."""

from __future__ import annotations

import os
import shutil
import subprocess

_QUERY = ("--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")


def device_memory() -> int | None:
    """Bytes that this process holds on NVIDIA GPUs; None where nvidia-smi does not tell (a Jetson's GPU shares main memory)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        said = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return held_by(os.getpid(), said)


def held_by(pid: int, listed: str) -> int | None:
    """Bytes that one process holds, by what nvidia-smi lists: a line of `pid, MiB` for each process and GPU.

    Returns:
        None where the process is not listed, or without a number ("[N/A]").
    """
    held = [line.split(",")[1].strip() for line in listed.splitlines() if line.split(",")[0].strip() == str(pid)]
    numbers = [int(mebibytes) for mebibytes in held if mebibytes.isdigit()]
    return sum(numbers) << 20 if numbers else None
