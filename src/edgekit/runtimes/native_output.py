"""What libraries write to standard error from C++, where `sys.stderr` does not see it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class Caught:
    """The output of a block; complete when the block has ended.

    Attributes:
        content: all of it.
    """

    content = b""

    @property
    def lines(self) -> list[str]:
        """Its lines that are not empty."""
        return [line for line in self.content.decode(errors="replace").splitlines() if line.strip()]


@contextmanager
def caught_stderr() -> Iterator[Caught]:
    """Keep what the process writes to standard error, by any language, until the block ends."""
    sys.stderr.flush()
    caught, saved = Caught(), os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield caught
            finally:
                os.dup2(saved, 2)
                file.seek(0)
                caught.content = file.read()
    finally:
        os.close(saved)
