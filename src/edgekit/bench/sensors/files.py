"""Reading the small files that Linux shows its sensors in. What is absent, or cannot be read now, is None and never 0."""

from __future__ import annotations

import math
import os
from pathlib import Path


def text(path: Path | str) -> str | None:
    """A file's text without white space and NUL bytes around it; None where it is absent, unreadable, or empty."""
    try:
        return raw(path) or None
    except OSError:  # absent, not permitted, or a sensor that sleeps (EAGAIN)
        return None


def raw(path: Path | str) -> str:
    """A file's text without white space and NUL bytes around it.

    Unbuffered: a sampler reads some dozens of these ten times a second.

    Raises:
        OSError: absent or not permitted.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while block := os.read(handle, 1 << 16):  # /proc gives a page at a time
            content += block
    finally:
        os.close(handle)
    return content.decode(errors="replace").strip("\0 \t\r\n")


def number(path: Path | str) -> float | None:
    """The number that a file holds, or None."""
    return to_number(text(path))


def to_number(content: str | None) -> float | None:
    """A finite decimal number, or None where it is none."""
    try:
        value = float(content) if content else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(paths: list[Path]) -> list[float]:
    """The numbers of those files that hold one."""
    return [value for value in map(number, paths) if value is not None]


def found(root: Path, pattern: str) -> list[Path]:
    """The files or folders below `root` that a pattern matches, sorted as a person counts: cpu2 before cpu10."""
    return sorted(root.glob(pattern), key=lambda path: (len(path.as_posix()), path.as_posix()))
