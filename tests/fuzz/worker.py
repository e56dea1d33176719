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

FORMATS = ("recipes", "bundles", "images", "checkpoints", "results", "devices")
_ADDRESSES = (
    8 << 30
)  # what a worker may map beyond what it has when it is ready: it protects the machine, and is no measure


def main() -> None:
    kind, seed, first, count, root, report = sys.argv[1:]
    faulthandler.enable(all_threads=True)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with the driver
    folder = Path(root)
    _environment(folder)
    from edgekit import privacy

    from .judge import Outcome, Watch, judged, lay_trap

    privacy.switch_off()
    lay_trap(folder / "trap")
    module = load(kind)
    corpus = folder / "corpus" / kind
    if not (corpus / ".complete").exists():
        shutil.rmtree(corpus, ignore_errors=True)
        corpus.mkdir(parents=True)
        module.make_corpus(corpus)
        (corpus / ".complete").touch()
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    (folder / "outside").mkdir(exist_ok=True)
    secret = folder / "outside" / "secret"
    secret.write_text("secret")
    target = module.Target(corpus, secret)
    watch = Watch(
        (str(work.resolve()) + os.sep, str(folder.resolve() / "private") + os.sep, "/dev/"),
        str(secret.resolve()) if kind == "bundles" else "",
        programs=kind == "devices",
    )
    sys.addaudithook(watch.hook)
    say = os.fdopen(int(report), "wb", buffering=0)
    warm = True
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + _ADDRESSES,) * 2)
    for number in range(int(first), int(first) + int(count)):
        work.mkdir(parents=True)
        os.chdir(work)
        if warm:  # what is loaded and built with the first input is no case's memory
            for i in range(5):
                judged(target.run(random.Random(f"warm {i}"), _made(work / f"warm{i}")))
            warm, floor = False, _resident()
        draws = random.Random(f"{seed}/{kind}/{number}")
        faulthandler.unregister(signal.SIGUSR2)  # Lightning puts all signals back to what it believes they were
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # the driver asks where it hangs
        say.write(f"begin {number}\n".encode())
        began = time.process_time()
        _forget_peak()
        try:
            act = target.run(draws, _made(work / "case"))
        except Exception as error:
            act, outcome = (
                None,
                Outcome(
                    "finding", f"the fuzzer itself: {type(error).__name__}", "".join(traceback.format_exception(error))
                ),
            )
        else:
            outcome = judged(act, watch)
        peak = max(0, _peak() - floor)
        if outcome.kind != "finding" and peak > module.MEMORY:
            outcome = Outcome(
                "finding", f"memory over {module.MEMORY >> 20} MiB", f"{peak >> 20} MiB; {outcome.detail}"
            )
        told = {
            "kind": outcome.kind,
            "where": outcome.where,
            "detail": outcome.detail,
            "seconds": round(time.process_time() - began, 3),
            "peak": peak,
        }
        os.chdir(folder)
        if outcome.kind == "finding":
            kept = folder / "findings" / f"{kind}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(exist_ok=True)
            work.rename(kept)
        _remove(work)
        _remove(folder / "private" / "cache")
        say.write(f"end {number} {json.dumps(told)}\n".encode())


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


def _resident() -> int:
    return _status("VmRSS")


def _mapped() -> int:
    return _status("VmSize")


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
