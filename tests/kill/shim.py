"""The library that counts a command's changes to the file system (shim.c), and the state that it shares with the tests."""

from __future__ import annotations

import mmap
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

KINDS = ("count", "kill", "torn", "full", "eio")  # in the order of the library's own enumeration
_FORMAT = struct.Struct("=qqqq4096s4096s4096s")


def compiled(cc: str, folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([cc, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Change:
    """A change to the file system, as the library writes it down.

    Args:
        n: its number; the first is 1.
        process: that made it.
        takes_space: whether a full disk refuses it.
        writes: whether a faulty disk refuses it: all of those, and the opening of a file that is there.
        operation: write, rename, …
        path: below the folder that is watched.
    """

    n: int
    process: int
    takes_space: bool
    writes: bool
    operation: str
    path: str

    @property
    def pattern(self) -> str:
        """The operation and the path without what differs from run to run."""
        path = re.sub(r"\.[a-z0-9_]{8}\.tmp", ".RANDOM.tmp", self.path)
        path = re.sub(r"(tmp\w{8}|events\.out\.tfevents.*)", "RANDOM", path)
        return f"{self.operation} {re.sub(r'[0-9a-f]{16,}', 'DIGEST', path)}"


class State:
    """The memory shared with the library.

    Args:
        path: the file; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "a+b") as stream:
            stream.truncate(_FORMAT.size)
            self._memory = mmap.mmap(stream.fileno(), _FORMAT.size)

    def arm(self, root: Path, log: Path, kind: str, at: int) -> None:
        """Count the changes that this process and its children make below `root`, until `disarm`."""
        fields = (0, at, KINDS.index(kind), os.fsencode(root), os.fsencode(log), b"")
        self._memory[:] = _FORMAT.pack(0, *fields)
        self._memory[:8] = struct.pack("=q", os.getpid())

    def disarm(self) -> None:
        """Count no more."""
        self._memory[:8] = bytes(8)


def changes(log: Path) -> list[Change]:
    """What the library wrote down, in its order of counting."""
    found = []
    for line in log.read_text(errors="surrogateescape").splitlines():
        n, process, does, operation, path = line.split(" ", 4)
        found.append(Change(int(n), int(process), does == "1", does != "0", operation, path))
    return sorted(found, key=lambda change: change.n)
