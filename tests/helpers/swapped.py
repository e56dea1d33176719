"""Files that another process exchanges at every moment at which it could matter: while edgekit reads, or before a library opens them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# Calls before which another process may come in: each touches a file, and what happens to it elsewhere shows in the next one.
_FILES = {"open", "read", "memfd_create"}
# Packages that open paths themselves, by calls of these names: the moment before is the one that matters most.
_LIBRARIES = ("onnxruntime", "openvino", "safetensors", "torch/serialization.py", "stand_ins")
_OPEN = {"__init__", "read_model", "load", "load_file", "parse_from_file", "deserialize_cuda_engine"}


class Exchanges:
    """Exchanges `path` for other content at the n-th moment.

    Args:
        path: of the file.
        content: what it is to hold then.
        moment: which one, from 0; a number that is never reached exchanges nothing.
        in_place: write into the file, instead of a new one under its name.

    Attributes:
        seen: how many moments there were.
    """

    def __init__(self, path: Path, content: bytes, moment: int, *, in_place: bool = False) -> None:
        self.path = path
        self.content = content
        self.moment = moment
        self.in_place = in_place
        self.seen = 0
        self._library = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the moments in this block."""
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)

    def exchange(self) -> None:
        """Now."""
        if self.in_place:
            with open(self.path, "r+b") as stream:
                stream.write(self.content)
                stream.truncate()
        else:
            new = self.path.with_name(f"{self.path.name}.new")
            new.write_bytes(self.content)
            os.replace(new, self.path)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            matters = getattr(argument, "__name__", "") in _FILES
        else:
            code = frame.f_code
            library = next((name for name in _LIBRARIES if name in code.co_filename), "")
            entered, self._library = event == "call" and library not in ("", self._library), library
            matters = entered and code.co_name in _OPEN
        if matters:
            if self.seen == self.moment:
                self.exchange()
            self.seen += 1


def moments(of: Callable[[Exchanges], None], path: Path, content: bytes) -> int:
    """How many moments a function has; it is called once without an exchange."""
    counting = Exchanges(path, content, -1)
    of(counting)
    return counting.seen
