"""Run a function in its own process: what it loads, and a crash, stay there."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from edgekit.children import end_with_parent, without_main
from edgekit.errors import EdgekitError, error_named, signal_name


class ProcessDied(EdgekitError):
    """The process ended before it replied; `how` is the signal or the exit code."""

    def __init__(self, how: str) -> None:
        super().__init__(
            f"the process died ({how})",
            "SIGILL: built for another processor; SIGKILL: out of memory; EDGEKIT_DEBUG=1 shows its output",
        )
        self.how = how


def run_in_subprocess(function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
    """Call `function(*arguments)` in a new process and return its result.

    Args:
        function: defined at the top level of a module, so that the other process can import it; its result must be picklable.
        arguments: picklable.
        seconds: time limit; None for no limit.

    Raises:
        ProcessDied: it ended before it replied.
        EdgekitError: the function raised it, or it took too long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(os.getpid(), theirs, function, arguments), daemon=True)
    with without_main():
        child.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise EdgekitError(f"no answer within {seconds:.0f} s")
        reply = ours.recv()
    except (EOFError, OSError):  # it died before or during its reply
        child.join()
        code = child.exitcode or 0
        how = signal_name(-code) if code < 0 else f"exit code {code}"
        raise ProcessDied(how) from None
    finally:
        ours.close()
        child.terminate()  # its reply is here; a runtime that hangs while it unloads must not block this process
        child.join()
    if "error" in reply:
        kind, message, hint = reply["error"]
        raise error_named(kind)(message, hint)
    return reply["value"]


def _child(parent: int, connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    if not os.environ.get("EDGEKIT_DEBUG"):  # runtimes print messages about missing devices
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    try:
        connection.send({"value": function(*arguments)})
    except EdgekitError as error:
        connection.send({"error": (type(error).__name__, error.message, error.hint)})
    except Exception as error:
        connection.send({"error": ("EdgekitError", f"{type(error).__name__}: {error}", "")})
