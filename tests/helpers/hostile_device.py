"""A device that says what it likes: a `python` for the account of an SSH server that answers chosen requests with chosen bytes.

Whatever has no answer of its own is answered by edgekit's own code, which arrives with each request.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

MARK = "@edgekit "

_PROGRAM = """#!{real}
import json, os, sys, time

if "edgekit-on-device" not in " ".join(sys.argv[1:]):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
incoming = sys.stdin.buffer
source = incoming.read(int(incoming.readline()))
request = incoming.readline()
op = json.loads(request)["op"]
with open({answers!r}) as stream:
    answers = json.load(stream)
out, err = sys.stdout.buffer, sys.stderr.buffer
for what, value in answers.get(op, []):
    if what == "say":
        out.write(value.encode("latin-1"))
        out.flush()
    elif what == "say for ever":
        while True:
            out.write(value.encode("latin-1"))
    elif what == "complain for ever":
        while True:
            err.write(value.encode("latin-1"))
    elif what == "drip":
        while True:
            out.write(value.encode("latin-1"))
            out.flush()
            time.sleep(0.05)
    elif what == "sleep":  # for an hour, but not beyond the connection
        began, parent = time.monotonic(), os.getppid()
        while time.monotonic() - began < 3600 and os.getppid() == parent:
            time.sleep(0.5)
    elif what == "end":
        sys.exit(value)
if op in answers:
    sys.exit(0)


class Replayed:
    # Standard input as if nobody had read the request.
    def __init__(self):
        self.buffer, self.left = self, request

    def readline(self):
        line, self.left = self.left, b""
        return line or incoming.readline()

    def read(self, size):
        return incoming.read(size)

    def fileno(self):
        return incoming.fileno()


sys.stdin = Replayed()
sys.executable = os.path.abspath(sys.argv[0]) if os.path.exists(sys.argv[0]) else {program!r}
exec(compile(source, "edgekit-on-device", "exec"), {{"__name__": "__main__"}})
"""


class HostilePython:
    """Such a program, in a folder of its own.

    Args:
        folder: for it and the answers.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "python"
        self._answers = folder / "answers.json"
        self.answer()
        text = _PROGRAM.format(real=sys.executable, answers=str(self._answers), program=str(self.path))
        self.path.write_text(text)
        self.path.chmod(0o755)

    def answer(self, **ops: list[tuple[str, Any]]) -> None:
        """From now on answer these requests so: a list of what to do, each with its value."""
        written = self._answers.with_suffix(".new")
        written.write_text(json.dumps(ops))
        written.replace(self._answers)


def line(content: Any) -> str:
    """A line for this side of the connection."""
    return f"{MARK}{content if isinstance(content, str) else json.dumps(content)}\n"


def reply(**content: Any) -> list[tuple[str, Any]]:
    """The answer that holds these."""
    return [("say", line({"reply": content}))]


def file(path: str, content: bytes, **other: Any) -> str:
    """A file as `fetch` sends it; `other` replaces what is announced of it."""
    announced = {"event": "data", "path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return line({**announced, **other}) + content.decode("latin-1")


def changed_result(content: bytes, **other: Any) -> bytes:
    """A result with other values in its measurement."""
    result = json.loads(content)
    result["measurement"].update(other)
    return json.dumps(result).encode()
