"""What the library does to the calls of a process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.kill.shim import State, changes, compiled

_PROGRAM = """
import os, sys
from pathlib import Path
from tests.kill.shim import State

def attempt(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

root, log, state = map(Path, sys.argv[1:])
a, b = root / "a", root / "b"
State(state).arm(root, log, "eio", 2)
acts = [
    lambda: a.write_text("new"), lambda: a.write_text("again"), lambda: b.write_text("other"), lambda: os.replace(b, a), a.read_text,
    lambda: a.write_text("a third time"), a.unlink, lambda: os.replace(b, a), lambda: b.write_text("still good"),
]
print(*map(attempt, acts))
"""


def test_a_faulty_file_stays_faulty_and_others_can_be_written(
    require_tool: Callable[[str, str], str], tmp_path: Path
) -> None:
    library = compiled(require_tool("cc", "compiles the library that counts changes"), tmp_path)
    root, log, state = tmp_path / "root", tmp_path / "log", tmp_path / "state"
    root.mkdir()
    (root / "a").write_text("old")
    log.touch()
    State(state)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "LD_PRELOAD": str(library), "EDGEKIT_KILL_STATE": str(state), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, root, log, state], env=environment, capture_output=True, text=True, check=True
    )
    fails = errno.EIO
    assert [int(code) for code in done.stdout.split()] == [fails, fails, 0, fails, 0, fails, 0, fails, 0]
    assert (root / "b").read_text() == "still good"
    counted = changes(log)
    first = [(c.operation, c.path, c.takes_space, c.writes) for c in counted[:2]]
    assert first == [("open", "a", False, True), ("write", "a", True, True)]  # what is there takes no space to open
    assert [c.writes for c in counted if c.operation == "unlink"] == [False]
