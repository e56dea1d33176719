"""Train in several processes from Python, by running `edgekit train` in a separate process.

PyTorch's launcher sets environment variables and signal handlers, and disables logging, which must not happen in the user's program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from edgekit import run as runs
from edgekit.children import ERROR_FILE, start
from edgekit.errors import EdgekitError
from edgekit.recipe import Recipe
from edgekit.stages import STAGES
from edgekit.stopping import was_stopped
from edgekit.temporary import scratch_folder
from edgekit.terminal import echo
from edgekit.train.draws import run_of_draw
from edgekit.train.stages.pipeline import Report


def train_in_processes(
    recipe: Recipe,
    run: runs.Run,
    reuse: Sequence[runs.Run],
    until: str,
    draws: int,
    on_stage: Callable[[Report, int], None],
) -> None:
    """Run `edgekit train` with the recipe's number of processes, show its output, and report its stages.

    Raises:
        EdgekitError: the training failed, with the command's own message.
        KeyboardInterrupt: after Ctrl-C, once the processes have ended.
    """
    with scratch_folder("train") as folder:
        path = Path(folder) / "recipe.yaml"
        recipe.write(path)
        command = [sys.executable, "-m", "edgekit", "train", str(path), "--run", str(run.path), "--until", until]
        command += [
            "--draws",
            str(draws),
            "--json",
            *(word for other in reuse for word in ("--reuse", str(other.path))),
        ]
        failed = Path(folder) / "error"
        environment = os.environ | {ERROR_FILE: str(failed)}
        child = start(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stderr is not None
        listener = threading.Thread(target=_relay, args=(child.stderr,), daemon=True)
        listener.start()
        try:
            for line in child.stdout:
                _report(line, run, on_stage)
            code = child.wait()
        except BaseException:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
        finally:
            listener.join(timeout=5)
            child.stdout.close()
        if was_stopped(code):
            raise KeyboardInterrupt
        if code:
            message = failed.read_text("utf-8") if failed.exists() else f"the training ended with exit code {code}"
            raise EdgekitError(message)


def _relay(stream: IO[bytes]) -> None:
    """Show the standard error of the command; its error message goes to a file."""
    with stream:
        for raw in stream:
            echo(raw.decode(errors="replace").rstrip("\n"), err=True)


def _report(line: bytes, run: runs.Run, on_stage: Callable[[Report, int], None]) -> None:
    content = json.loads(line)
    if content["stage"] not in STAGES:
        return
    draw = content.get("draw", 0)
    record = run_of_draw(run, draw).record(content["stage"])
    if record is not None:
        on_stage(Report(content["stage"], content["outcome"], record, True), draw)
