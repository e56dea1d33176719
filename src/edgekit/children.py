"""Child processes that end when the process that started them ends, however that came about: SIGKILL, lack of memory, a crash.

Linux does it: prctl(2), PR_SET_PDEATHSIG. Elsewhere a process that is killed alone may leave its children behind; Ctrl-C, SIGTERM and errors
end them everywhere, by the code that started them.

- A Python child of ours is started by `start` and calls `end_with_parent` first.
- A child of the module multiprocessing calls `end_with_parent` with the process that started it; the thread that started it waits for it.
- Any other program is started by `start` with `foreign=True`: a few lines of Python ask for the signal, then become that program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

# The environment variable that names a file for the error of a command, which then does not print it: whoever started the command reads
# it there rather than between other lines. `bench.remote.on_device`, which imports nothing, names it too.
ERROR_FILE = "EDGEKIT_ERROR_FILE"
PARENT = "EDGEKIT_PARENT"  # the environment variable that names a child's parent; of no meaning to others
_PR_SET_PDEATHSIG = 1
# Arguments: the parent, then the command. The signal stays with a process that becomes another program (execve(2)), unless that is setuid.
_BECOME = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def prctl(option: int, value: int) -> None:
    """Ask Linux for something (prctl(2)); elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: Sequence[str], *, foreign: bool = False, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one.

    Linux sends the signal when the thread that started a process ends, so a thread that ends before this process does hands the starting
    over to one that does not.

    Args:
        command: the program and its arguments; of a foreign program its absolute path.
        foreign: whether it is another program than ours; one of ours calls `end_with_parent`.
        options: of `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    command = list(command)
    if foreign and sys.platform == "linux" and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]
    elif not foreign:
        options["env"] = naming_parent(options.get("env"))
    if threading.current_thread() is threading.main_thread():
        return _popen(command, options)
    return _starter(os.getpid()).submit(_popen, command, options).result()


def naming_parent(environment: dict[str, str] | None = None) -> dict[str, str]:
    """An environment (None: this process's) that tells a child of ours which process is its parent."""
    return {**(os.environ if environment is None else environment), PARENT: str(os.getpid())}


def end_with_parent(parent: int | None = None) -> None:
    """End this process at once when the one that started it ends; where that one has ended already, end now.

    Args:
        parent: that process; None: as its environment says (see `naming_parent`), and nothing happens where it says nothing.
    """
    said = os.environ.pop(PARENT, "")  # children of this one have another parent
    if parent is None:
        if not said.isdecimal():
            return
        parent = int(said)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request
        os._exit(1)


@contextmanager
def without_main() -> Iterator[None]:
    """Where the module multiprocessing starts (spawns) processes of ours: they do not import the program's `__main__`.

    They would run a user's script from its top, edgekit's own call included, unless all of it stands below
    `if __name__ == "__main__"`; and a notebook has no file to import. They cannot load what is defined there (see `needs_main`).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def needs_main(pickled: bytes) -> bool:
    """Whether a pickle names something of the program's `__main__`."""
    import pickletools

    return any(
        isinstance(value, str) and value.split()[:1] == ["__main__"] for _, value, _ in pickletools.genops(pickled)
    )


def _popen(command: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **options)


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """A thread that lives as long as this process; a fork of it has one of its own."""
    return ThreadPoolExecutor(1, thread_name_prefix="starter")
