"""Child processes that end when their parent process ends for any reason: SIGKILL, lack of memory, a crash.

Linux does it with prctl(2), PR_SET_PDEATHSIG. On other systems, a killed process may leave its children behind; Ctrl-C, SIGTERM and
errors end them on all systems, through the code that started them.

- A Python child of ours is started by `start` and first calls `end_with_parent`.
- A child of the module multiprocessing calls `end_with_parent` with its parent's process id; the thread that started it waits for it.
- Any other program is started by `start` with `foreign=True`: a few lines of Python request the signal, then become that program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# The environment variable that names a file for a command's error. The command then writes its error there instead of printing it, so that
# its parent need not search the output. `bench.remote.on_device`, which imports nothing of edgekit, uses the same name.
ERROR_FILE = "EDGEKIT_ERROR_FILE"
PARENT = "EDGEKIT_PARENT"  # the environment variable with a child's parent; for internal use
_PR_SET_PDEATHSIG = 1
# Arguments: the parent, then the command. A process keeps the setting when it becomes another program (execve(2)), unless that is setuid.
_BECOME = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl(2); no effect on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: Sequence[str], *, foreign: bool = False, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one.

    Linux sends the signal when the thread that started the process ends. So other threads than the main one, which may end early, let a
    permanent thread start it.

    Args:
        command: the program and its arguments; for a foreign program, its absolute path.
        foreign: whether it is not one of our programs, which call `end_with_parent`.
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
    """Return an environment (None: this process's) with this process as the parent of a child of ours."""
    return {**(os.environ if environment is None else environment), PARENT: str(os.getpid())}


def end_with_parent(parent: int | None = None) -> None:
    """End this process at once when its parent ends; if the parent has already ended, end now.

    Args:
        parent: the parent's process id; None: from the environment (see `naming_parent`), with no effect if it is not set.
    """
    parent_id = os.environ.pop(PARENT, "")  # this process's children have another parent
    if parent is None:
        if not parent_id.isdecimal():
            return
        parent = int(parent_id)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request
        os._exit(1)


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that multiprocessing spawns in this block from importing the program's `__main__`.

    They would run the user's script again, with its call of edgekit, unless all of it is below `if __name__ == "__main__"`; and a
    notebook has no file to import. So they cannot use objects that are defined there (see `needs_main`).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def needs_main(pickled: bytes) -> bool:
    """Whether a pickle refers to the program's `__main__`."""
    import pickletools

    return any(
        isinstance(value, str) and value.split()[:1] == ["__main__"] for _, value, _ in pickletools.genops(pickled)
    )


def _popen(command: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **options)


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """Return a thread that lives as long as this process; a fork gets its own."""
    from concurrent.futures import ThreadPoolExecutor  # only needed outside the main thread

    return ThreadPoolExecutor(1, thread_name_prefix="starter")
