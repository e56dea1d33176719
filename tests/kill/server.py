"""A process that has imported everything once and forks for each command: a start costs milliseconds and not seconds.

`Server` starts it and asks; the process itself is `python server.py`, with the library of shim.c preloaded. It reads a JSON line a
command and answers with one. Nothing but imports happens before a fork: no runtime has threads yet.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kill.shim import State

# What the commands import when they are called.
_PREPARED = (
    "edgekit.cli.main", "edgekit.cli.train", "edgekit.cli.export", "edgekit.cli.bench", "edgekit.cli.report", "edgekit.cli.embed",
    "edgekit.cli.ablate", "edgekit.train.stages.pipeline", "edgekit.train.loop.engine", "edgekit.train.ablate", "edgekit.train.analysis.embed",
    "edgekit.train.analysis.feature_table",    "edgekit.export.pipeline", "edgekit.export.importers.runs", "edgekit.report.page",
    "edgekit.report.ablation", "edgekit.report.image_map",
    "edgekit.bench.rounds", "edgekit.runtimes.onnxruntime", "edgekit.runtimes.openvino", "onnxruntime", "openvino", "pyarrow.parquet",
    "sklearn.manifold", "sklearn.cluster", "sklearn.linear_model", "sklearn.decomposition", "torch.utils.tensorboard", "jinja2", "rich.table",
)  # fmt: skip
_PR_SET_CHILD_SUBREAPER = 36
_SECONDS = 600


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str


class Server:
    """Runs commands of edgekit in forks of a prepared process.

    Args:
        library: see `shim.compiled`.
        folder: for what the server writes; outside the folder that is watched.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "changes.log"
        state = folder / "state"
        State(state)
        environment = {
            **os.environ, "LD_PRELOAD": str(library), "EDGEKIT_KILL_STATE": str(state), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(state)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self._answer() == {"ready": True}

    def run(self, root: Path, arguments: list[str], kind: str = "count", at: int = 0) -> Ended:
        """Run `edgekit ARGUMENTS` in ROOT/work, with the temporary, home and cache folders in ROOT too."""
        self.log.write_bytes(b"")
        out, err = self.folder / "stdout", self.folder / "stderr"
        job = {
            "root": str(root),
            "arguments": arguments,
            "kind": kind,
            "at": at,
            "log": str(self.log),
            "out": str(out),
            "err": str(err),
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return Ended(answer["code"], out.read_text(errors="replace"), err.read_text(errors="replace"))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        stream = self.process.stdout
        assert stream is not None
        if not select.select([stream], [], [], _SECONDS)[0]:
            self.process.kill()
            raise AssertionError(f"the command hangs: nothing for {_SECONDS} s")
        line = stream.readline()
        assert line, "the server died"
        answer: dict[str, Any] = json.loads(line)
        return answer


def _serve(state: State) -> None:
    ctypes.CDLL(None).prctl(
        _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0
    )  # what a killed command leaves running becomes this process's child
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in _PREPARED:
        importlib.import_module(module)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(state, job)
        _, status = os.waitpid(child, 0)
        _end_the_rest()
        state.disarm()
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)


def _run(state: State, job: dict[str, Any]) -> None:
    """In the child: become the command."""
    root = Path(job["root"])
    os.setsid()
    os.environ |= {
        "TMPDIR": str(root / "tmp"), "HOME": str(root / "home"), "EDGEKIT_CACHE": str(root / "cache"), "XDG_CACHE_HOME": str(root / "home"),
    }  # fmt: skip
    tempfile.tempdir = None
    os.chdir(root / "work")
    for handle, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, handle)
        os.close(opened)
    sys.argv = ["edgekit", *job["arguments"]]
    from edgekit.cli.main import main

    code = 70
    try:
        state.arm(root, Path(job["log"]), job["kind"], job["at"])
        main()
    except SystemExit as left:
        code = int(left.code or 0)
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _end_the_rest() -> None:
    """Kill and reap what the command left running."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as stream:
            children = [int(child) for child in stream.read().split()]
        if not children:
            return
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    _serve(State(Path(sys.argv[1])))
