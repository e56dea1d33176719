"""Starts workers, watches over them, and adds up what they say."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 20.0  # of the processor, or asleep: a busy machine does not make a case hang
_EACH = 2000  # cases of one worker: its memory begins anew
_POLL = 0.25
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Tally:
    """What became of the cases of one format."""

    format: str
    seed: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    hangs: int = 0
    crashes: int = 0
    uncaught: int = 0
    over_memory: int = 0
    peak_bytes: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def add(self, number: int, outcome: dict[str, Any]) -> None:
        """Count one case."""
        self.cases += 1
        self.peak_bytes = max(self.peak_bytes, outcome.get("peak", 0))
        self.slowest_seconds = max(self.slowest_seconds, outcome.get("seconds", 0.0))
        kind = outcome["kind"]
        if kind in {"accepted", "refused"}:
            setattr(self, kind, getattr(self, kind) + 1)
            return
        counter = {"hang": "hangs", "crash": "crashes"}.get(kind) or (
            "over_memory" if outcome["where"].startswith("memory over") else "uncaught"
        )
        setattr(self, counter, getattr(self, counter) + 1)
        found = self.findings.setdefault(outcome["where"], {"count": 0, "cases": [], "detail": outcome["detail"]})
        found["count"] += 1
        found["cases"] = [*found["cases"], number][:5]


def fuzz(
    kind: str, folder: Path, *, seed: str = "0", first: int = 0, cases: int | None = None, seconds: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tally:  # fmt: skip
    """Run cases of one format until there were so many, or so many seconds are over.

    Args:
        kind: the format.
        folder: for the corpus, the work, and the inputs of findings.
        seed: with the format and a case's number it gives the case.
        first: number of the first case.
        cases: how many; None for no end.
        seconds: how long; None for no end.
        say: called with a line now and then.
    """
    tally, began, said = Tally(kind, seed), time.monotonic(), time.monotonic()
    number = first

    def more() -> int:
        if seconds is not None and time.monotonic() - began > seconds:
            return 0
        return _EACH if cases is None else min(_EACH, first + cases - number)

    while (count := more()) > 0:
        worker = _Worker(kind, seed, number, count, folder)
        try:
            while (outcome := worker.next()) is not None:
                tally.add(number, outcome)
                number += 1
                if outcome["kind"] in {"hang", "crash", "finding"} and tally.findings[outcome["where"]]["count"] == 1:
                    say(f"{kind} case {number - 1}: {outcome['where']}")
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    say(
                        f"{kind}: {tally.cases} cases, {tally.accepted} accepted, {tally.refused} refused, {len(tally.findings)} kinds of findings"
                    )
                if seconds is not None and time.monotonic() - began > seconds:
                    break
        finally:
            worker.end()
    tally.seconds = round(time.monotonic() - began, 1)
    return tally


class _Worker:
    """One process, and the cases that it was given."""

    def __init__(self, kind: str, seed: str, first: int, count: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._kind, self._folder, self._left, self._number = kind, folder, count, first
        self._pipe, report = os.pipe()
        self._noise = folder / f"{kind}.log"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "EDGEKIT_DEBUG": "",
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        with open(self._noise, "wb") as noise:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", kind, seed, str(first), str(count), str(folder.resolve()), str(report)],
                stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, pass_fds=[report], cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
        os.close(report)
        self._buffer = b""
        self._began = False

    def next(self) -> dict[str, Any] | None:
        """What became of the next case; None where the worker has done all of its cases.

        Raises:
            RuntimeError: the worker could not begin: the fuzzer itself is at fault.
        """
        if self._left == 0:
            return None
        cpu, asleep = self._cpu(), 0.0
        while True:
            line, ended = self._line()
            if line.startswith(b"begin "):
                self._began, cpu, asleep = True, self._cpu(), 0.0
            elif line.startswith(b"end "):
                self._began = False
                self._left -= 1
                self._number += 1
                return json.loads(line.split(b" ", 2)[2])
            elif ended:
                return self._died()
            elif self._began:
                asleep += _POLL if self._sleeps() else 0.0
                if self._cpu() - cpu > HANG_SECONDS or asleep > HANG_SECONDS:
                    return self._hung()

    def end(self) -> None:
        """Kill it, and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _line(self) -> tuple[bytes, bool]:
        """The next line of the report, empty where none came in a moment; and whether the report has ended."""
        if b"\n" not in self._buffer:
            if not select.select([self._pipe], [], [], _POLL)[0]:
                return b"", False
            block = os.read(self._pipe, 1 << 16)
            if not block:
                return b"", True
            self._buffer += block
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return b"", False
        self._buffer = rest
        return line, False

    def _died(self) -> dict[str, Any]:
        code = self._process.wait()
        noise = self._noise.read_text(errors="replace")
        if not self._began:
            raise RuntimeError(f"the worker ended with {code} before a case:\n{noise[-4000:]}")
        self._left = 0
        self._keep()
        return {"kind": "crash", "where": f"the process died with {code}: {_innermost(noise)}", "detail": noise[-4000:]}

    def _hung(self) -> dict[str, Any]:
        os.kill(self._process.pid, signal.SIGUSR2)  # its faulthandler writes where it is
        time.sleep(2)
        self.end()
        self._keep()
        noise = self._noise.read_text(errors="replace")
        self._left = 0
        return {
            "kind": "hang",
            "where": f"over {HANG_SECONDS:g} s: {_innermost(noise)}",
            "detail": noise[-4000:],
            "seconds": HANG_SECONDS,
        }

    def _keep(self) -> None:
        """Put the input of the case that it ended with beside those of other findings."""
        kept = self._folder / "findings" / f"{self._kind}-{self._number}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        (self._folder / "work").rename(kept)

    def _stat(self) -> list[str]:
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return []
        return text.rpartition(") ")[2].split()

    def _cpu(self) -> float:
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0

    def _sleeps(self) -> bool:
        """Whether no thread of it runs, or would run if the machine were not busy."""
        try:
            states = [
                path.read_text().rpartition(") ")[2][0]
                for path in Path(f"/proc/{self._process.pid}/task").glob("*/stat")
            ]
        except OSError:
            return False
        return bool(states) and set(states) <= {"S", "T", "t", "Z"}


def _innermost(noise: str) -> str:
    """The innermost line of the package in a traceback of faulthandler's."""
    for line in noise.splitlines():
        if "/edgekit/" in line and "File " in line:
            return line.strip().replace(f"{ROOT}/", "")[:160]
    return "?"
