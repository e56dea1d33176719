"""Start the measuring process (worker) and return its outcome or error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit import children
from edgekit.bench.outcome import ProfileOutcome, RoundOutcome, WorkerFailure
from edgekit.bench.request import CANNOT_WRITE, Request
from edgekit.bench.sensors import Sampler
from edgekit.bench.watch import watched
from edgekit.errors import EdgekitError, error_named, shortened, signal_name
from edgekit.foreign import Unreadable, parse_json, read_bytes
from edgekit.temporary import scratch_folder

_GRACE_SECONDS = 60.0
_MOST_OUTCOME = 1 << 30  # bytes: every sample is in it
_MOST_STDERR = 1 << 16  # bytes of a worker's last output


class BenchInterrupted(Exception):
    """The user interrupted a worker; `outcome` is what it had measured until then, None if nothing."""

    def __init__(self, outcome: RoundOutcome | None) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def run_worker(request: Request) -> RoundOutcome:
    """Measure one round of a scenario in a new process.

    Raises:
        EdgekitError: the worker's own error, or the worker died.
        BenchInterrupted: the user pressed Ctrl-C; the worker has been stopped.
    """
    content, sampler = _run(request)
    return watched(RoundOutcome.read(content), sampler)


def run_profiler(request: Request) -> ProfileOutcome:
    """Profile in a new process; raises the same errors as `run_worker`."""
    content, _ = _run(request)
    return ProfileOutcome.read(content)


def _run(request: Request) -> tuple[dict[str, Any], Sampler]:
    """Return the content that a worker wrote, and the sensors that were sampled meanwhile."""
    with scratch_folder("bench") as folder:
        request_file, outcome_file = Path(folder, "request.json"), Path(folder, "outcome.json")
        try:
            request_file.write_text(json.dumps(asdict(request)))
        except OSError as error:
            raise _cannot_write(request, folder, error.strerror or str(error)) from error
        stopped, code = False, 0
        with open(Path(folder, "stderr"), "w+b") as stderr:
            with Sampler() as sampler:
                child = children.start(
                    [sys.executable, "-m", "edgekit.bench.worker", str(request_file), str(outcome_file)],
                    cwd=folder,  # `-m` puts the working folder first on the path, and no user file may be imported from there
                    env={**os.environ, "PYTHONPATH": _python_path()},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None if os.environ.get("EDGEKIT_DEBUG") else stderr,
                    start_new_session=True,  # Ctrl-C reaches it only once, through `_stop`
                )
                try:
                    code = child.wait()
                except BaseException as error:
                    _stop(child)
                    if not isinstance(error, KeyboardInterrupt):
                        raise
                    stopped = True
            if stopped:
                raise BenchInterrupted(_partial_outcome(request, _read(outcome_file), sampler))
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _MOST_STDERR))
            output_lines = stderr.read().decode(errors="replace").strip().splitlines()
        outcome = _read(outcome_file)
    if code == CANNOT_WRITE:
        raise _cannot_write(request, folder, "the disk may be full")
    if outcome is None or code != 0:
        how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
        raise EdgekitError(
            f"{request.variant}: the measuring process died ({how}){': ' + shortened(output_lines[-1], 500) if output_lines else ''}",
            "`edgekit --debug bench …` shows its output; SIGKILL means out of memory",
        )
    if "error" in outcome:
        failure = WorkerFailure(**outcome["error"])
        raise error_named(failure.kind)(failure.message, failure.hint)
    return outcome, sampler


def _cannot_write(request: Request, folder: Path, reason: str) -> EdgekitError:
    return EdgekitError(
        f"{request.variant}: the measuring process cannot write into {folder.parent}: {reason}",
        "free some space there, or set TMPDIR to a folder on another disk",
    )


def _partial_outcome(request: Request, content: dict[str, Any] | None, sampler: Sampler) -> RoundOutcome | None:
    """Return what an interrupted worker had measured; None for a profile."""
    if content is None or "error" in content or request.scenario == "profile":
        return None
    return watched(RoundOutcome.read(content), sampler)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the worker to end and keep what it has; kill it if it does not."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content that a worker wrote; None if it was killed before or while it wrote."""
    try:
        outcome: dict[str, Any] = parse_json(read_bytes(path, _MOST_OUTCOME), path)
        return outcome
    except Unreadable:
        return None


def _python_path() -> str:
    """Return the inherited PYTHONPATH with absolute entries, because the worker has another working folder."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(os.path.abspath(entry) for entry in entries)
