"""Starting the worker, and bringing back what it measured or why it could not."""

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
_MOST_WORDS = 1 << 16  # of what a worker printed last


class BenchInterrupted(Exception):
    """The user interrupted a worker; `outcome` is what it had measured until then, None where nothing."""

    def __init__(self, outcome: RoundOutcome | None) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def run_worker(request: Request) -> RoundOutcome:
    """Measure one round of a scenario in a fresh process.

    Raises:
        EdgekitError: of the worker's own kind, or because it died.
        Interrupted: the user pressed Ctrl-C; the worker was asked to end and did.
    """
    content, sampler = _run(request)
    return watched(RoundOutcome.read(content), sampler)


def run_profiler(request: Request) -> ProfileOutcome:
    """Profile in a fresh process; raises as `run_worker` does."""
    content, _ = _run(request)
    return ProfileOutcome.read(content)


def _run(request: Request) -> tuple[dict[str, Any], Sampler]:
    """What a worker wrote, and the sensors that were read meanwhile."""
    with scratch_folder("bench") as folder:
        request_file, outcome_file = Path(folder, "request.json"), Path(folder, "outcome.json")
        try:
            request_file.write_text(json.dumps(asdict(request)))
        except OSError as error:
            raise _no_room(request, folder, error.strerror or str(error)) from error
        stopped, code = False, 0
        with open(Path(folder, "stderr"), "w+b") as stderr:
            with Sampler() as sampler:
                child = children.start(
                    [sys.executable, "-m", "edgekit.bench.worker", str(request_file), str(outcome_file)],
                    cwd=folder,  # `-m` puts the working folder first on the path: nothing of the user's may be imported from there
                    env={**os.environ, "PYTHONPATH": _python_path()},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None if os.environ.get("EDGEKIT_DEBUG") else stderr,
                    start_new_session=True,  # Ctrl-C reaches it only through `_stop`, once
                )
                try:
                    code = child.wait()
                except BaseException as error:
                    _stop(child)
                    if not isinstance(error, KeyboardInterrupt):
                        raise
                    stopped = True
            if stopped:
                raise BenchInterrupted(_until_then(request, _read(outcome_file), sampler))
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _MOST_WORDS))
            said = stderr.read().decode(errors="replace").strip().splitlines()
        outcome = _read(outcome_file)
    if code == CANNOT_WRITE:
        raise _no_room(request, folder, "the disk may be full")
    if outcome is None or code != 0:
        died = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
        raise EdgekitError(
            f"{request.variant}: the measuring process died ({died}){': ' + shortened(said[-1], 500) if said else ''}",
            "`edgekit --debug bench …` shows what it printed; SIGKILL means that memory ran out",
        )
    if "error" in outcome:
        failure = WorkerFailure(**outcome["error"])
        raise error_named(failure.kind)(failure.message, failure.hint)
    return outcome, sampler


def _no_room(request: Request, folder: Path, reason: str) -> EdgekitError:
    return EdgekitError(
        f"{request.variant}: the measuring process cannot write into {folder.parent}: {reason}",
        "free some space there, or set TMPDIR to a folder that has some",
    )


def _until_then(request: Request, content: dict[str, Any] | None, sampler: Sampler) -> RoundOutcome | None:
    """What an interrupted worker had measured; of a profile, nothing is kept."""
    if content is None or "error" in content or request.scenario == "profile":
        return None
    return watched(RoundOutcome.read(content), sampler)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the worker to end with what it has; kill it where it does not."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _read(path: Path) -> dict[str, Any] | None:
    """What a worker wrote; None where it was killed before or while it wrote."""
    try:
        outcome: dict[str, Any] = parse_json(read_bytes(path, _MOST_OUTCOME), path)
        return outcome
    except Unreadable:
        return None


def _python_path() -> str:
    """The inherited PYTHONPATH with absolute entries, since the worker's working folder is another."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(os.path.abspath(entry) for entry in entries)
