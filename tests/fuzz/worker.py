"""The process that runs cases; the driver watches it, and starts another one where it dies or hangs.

    python -m tests.fuzz.worker FORMAT SEED FIRST COUNT FOLDER REPORT

It writes `begin N` and `end N JSON` for each case into the file descriptor REPORT.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .judge import Outcome

FORMATS = ("recipes", "bundles", "images", "checkpoints", "results", "labels", "devices")
_ADDRESSES = (
    8 << 30
)  # what a worker may map beyond what it has when it is ready: it protects the machine, and is no measure


def main() -> None:
    kind, seed, first, count, root, report = sys.argv[1:]
    faulthandler.enable(all_threads=True)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with the driver
    folder = Path(root)
    _environment(folder)
    runner = _Runner(kind, folder)
    say = os.fdopen(int(report), "wb", buffering=0)
    for number in range(int(first), int(first) + int(count)):
        say.write(f"begin {number}\n".encode())
        result = runner.case(random.Random(f"{seed}/{kind}/{number}"), number)
        say.write(f"end {number} {json.dumps(result)}\n".encode())


class _Runner:
    """Runs cases of one format in a folder."""

    def __init__(self, kind: str, folder: Path) -> None:
        from edgekit import privacy

        from .judge import Watch, judged, lay_trap

        privacy.switch_off()
        lay_trap(folder / "trap")
        self._kind, self._folder, self._work = kind, folder, folder / "work"
        self._module = load(kind)
        corpus, secret = folder / "corpus" / kind, folder / "outside" / "secret"
        if not (corpus / ".complete").exists():
            shutil.rmtree(corpus, ignore_errors=True)
            corpus.mkdir(parents=True)
            self._module.make_corpus(corpus)
            (corpus / ".complete").touch()
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("secret")
        self._target = self._module.Target(corpus, secret)
        allowed = tuple(f"{path.resolve()}{os.sep}" for path in (self._work, folder / "private", Path("/dev")))
        if kind == "devices":  # where this folder's path is too long for a socket
            allowed = (*allowed, "/tmp/edgekit-ssh.")
        # Only a bundle must not lead out of itself; whoever links to images or weights elsewhere means it.
        self._watch = Watch(allowed, str(secret.resolve()) if kind == "bundles" else "", programs=kind == "devices")
        sys.addaudithook(self._watch.hook)
        _remove(self._work)
        self._work.mkdir()
        os.chdir(self._work)
        for i in range(5):  # what is loaded and built with the first inputs is no case's memory
            judged(self._target.run(random.Random(f"warm {i}"), _made(self._work / f"warm{i}")))
        self._floor = _status("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ADDRESSES,) * 2)

    def case(self, draws: random.Random, number: int) -> dict[str, Any]:
        """Make a case's input, run it, and clean up; gives what became of it."""
        from .judge import Outcome

        os.chdir(self._folder)
        _remove(self._work)
        os.chdir(_made(self._work))
        faulthandler.unregister(signal.SIGUSR2)  # Lightning puts all signals back to what it believes they were
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # the driver asks where it hangs
        began = time.process_time()
        _forget_peak()
        outcome = self._outcome(draws)
        peak, most = max(0, _peak() - self._floor), self._module.MEMORY
        if outcome.kind != "finding" and peak > most:
            outcome = Outcome("finding", f"memory over {most >> 20} MiB", f"{peak >> 20} MiB; {outcome.detail}")
        seconds = round(time.process_time() - began, 3)
        os.chdir(self._folder)
        if outcome.kind == "finding":
            kept = self._folder / "findings" / f"{self._kind}-{number}"
            _remove(kept)
            kept.parent.mkdir(exist_ok=True)
            self._work.rename(kept)
        _remove(self._folder / "private" / "cache")
        return {
            "kind": outcome.kind, "where": outcome.where, "detail": outcome.detail, "seconds": seconds, "peak": peak,
        }  # fmt: skip

    def _outcome(self, draws: random.Random) -> Outcome:
        from .judge import Outcome, judged

        try:
            act = self._target.run(draws, _made(self._work / "case"))
        except Exception as error:
            detail = "".join(traceback.format_exception(error))
            return Outcome("finding", f"the fuzzer itself: {type(error).__name__}", detail)
        return judged(act, self._watch)


def load(kind: str) -> ModuleType:
    """The module of a format: `make_corpus(folder)`, `Target(corpus, secret).run(draws, folder) -> act`, and `MEMORY`."""
    if kind not in FORMATS:
        raise SystemExit(f"no such format {kind}: {', '.join(FORMATS)}")
    return importlib.import_module(f".{kind}", __package__)


def _environment(folder: Path) -> None:
    """Whatever is kept for the user goes into a folder of this run's own."""
    private = folder / "private"
    for name, variable in (
        ("home", "HOME"),
        ("tmp", "TMPDIR"),
        ("cache", "EDGEKIT_CACHE"),
        ("xdg", "XDG_CACHE_HOME"),
        ("mpl", "MPLCONFIGDIR"),
    ):
        (private / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(private / name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as stream:
        for line in stream:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:  # not allowed here: then the peak of the cases before counts, too
        pass


if __name__ == "__main__":
    main()
