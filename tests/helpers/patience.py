"""Waiting in tests: until something has happened, however long that takes.

A busy machine is slow, not wrong, so no test counts seconds. What hangs is ended by pytest's own timeout (pyproject.toml).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until(happened: Callable[[], T], process: subprocess.Popen[Any] | None = None) -> T:
    """Wait until a call gives something true, and give that; fail where the process that is to bring it about has ended."""
    while not (found := happened()):
        if process is not None and process.poll() is not None:
            if found := happened():  # its last deed
                break
            raise AssertionError(f"the process ended with {process.returncode} before what was waited for")
        time.sleep(0.02)
    return found
