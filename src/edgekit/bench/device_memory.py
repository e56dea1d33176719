"""The memory that this process uses on an accelerator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

_QUERY = ("--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")


def device_memory() -> int | None:
    """Return the bytes that this process uses on NVIDIA GPUs; None if nvidia-smi does not report it (a Jetson's GPU shares main memory)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return held_by(os.getpid(), done.stdout.decode(errors="replace"))


def held_by(pid: int, listed: str) -> int | None:
    """Return the bytes that one process uses, from nvidia-smi's lines `pid, MiB`, one for each process and GPU.

    Returns:
        None if the process is not listed, or is listed without a number ("[N/A]").
    """
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines()]
    numbers = [
        int(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid) and re.fullmatch("[0-9]{1,9}", row[1])
    ]
    return sum(numbers) << 20 if numbers else None
