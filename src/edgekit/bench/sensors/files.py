"""Read Linux's small sensor files. A value that is absent or cannot be read is None, never 0."""

from __future__ import annotations

import math
import os
from pathlib import Path


def text(path: Path | str) -> str | None:
    """Return a file's text without surrounding white space and NUL bytes; None if it is absent, unreadable, or empty."""
    try:
        return raw(path) or None
    except OSError:  # absent, not permitted, or a sensor that sleeps (EAGAIN)
        return None


def raw(path: Path | str) -> str:
    """Return a file's text without surrounding white space and NUL bytes.

    Unbuffered, because a sampler reads dozens of these files ten times per second.

    Raises:
        OSError: absent or not permitted.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while block := os.read(handle, 1 << 16):  # /proc returns one page at a time
            content += block
    finally:
        os.close(handle)
    return content.decode(errors="replace").strip("\0 \t\r\n")


def number(path: Path | str) -> float | None:
    """Return the number that a file holds, or None."""
    return to_number(text(path))


def to_number(content: str | None) -> float | None:
    """Return a finite decimal number, or None if the text is not one."""
    try:
        value = float(content) if content else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(paths: list[Path]) -> list[float]:
    """Return the numbers of those files that hold one."""
    return [value for value in map(number, paths) if value is not None]


def found(root: Path, pattern: str) -> list[Path]:
    """Return the files or folders below `root` that match a pattern, in natural order: cpu2 before cpu10."""
    return sorted(root.glob(pattern), key=lambda path: (len(path.as_posix()), path.as_posix()))
