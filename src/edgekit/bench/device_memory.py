"""The memory that this process holds on an accelerator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

_QUERY = ("--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")


def device_memory() -> int | None:
    """Bytes that this process holds on NVIDIA GPUs; None where nvidia-smi does not tell (a Jetson's GPU shares main memory)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return held_by(os.getpid(), done.stdout.decode(errors="replace"))


def held_by(pid: int, listed: str) -> int | None:
    """Bytes that one process holds, by what nvidia-smi lists: a line of `pid, MiB` for each process and GPU.

    Returns:
        None where the process is not listed, or without a number ("[N/A]").
    """
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines()]
    numbers = [
        int(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid) and re.fullmatch("[0-9]{1,9}", row[1])
    ]
    return sum(numbers) << 20 if numbers else None
