"""Running a function in a process of its own: what it loads and what kills it stays there."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from edgekit.children import end_with_parent, without_main
from edgekit.errors import EdgekitError, error_named, signal_name


def run_in_subprocess(function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
    """What `function(*arguments)` returns, called in a fresh process.

    Args:
        function: of a module, so that the other process finds it; it returns what can be pickled.
        arguments: likewise.
        seconds: how long it may take.

    Raises:
        EdgekitError: the function's own one; or the process died, of which the message says how, or took too long.
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
        said = ours.recv()
    except (EOFError, OSError):  # before its answer, or in the middle of it
        child.join()
        code = child.exitcode or 0
        how = signal_name(-code) if code < 0 else f"exit code {code}"
        raise EdgekitError(
            f"the process died ({how})",
            "SIGILL: built for another processor; SIGKILL: memory ran out; EDGEKIT_DEBUG=1 shows what it printed",
        ) from None
    finally:
        ours.close()
        child.terminate()  # it has said what it had to say; a runtime that hangs when it is unloaded must not hang this one
        child.join()
    if "error" in said:
        kind, message, hint = said["error"]
        raise error_named(kind)(message, hint)
    return said["value"]


def _child(parent: int, connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    if not os.environ.get("EDGEKIT_DEBUG"):  # runtimes print about devices that they do not find
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    try:
        connection.send({"value": function(*arguments)})
    except EdgekitError as error:
        connection.send({"error": (type(error).__name__, error.message, error.hint)})
    except Exception as error:
        connection.send({"error": ("EdgekitError", f"{type(error).__name__}: {error}", "")})
