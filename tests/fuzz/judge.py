"""What a command may do with foreign bytes, and the watch over what it does beside."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from edgekit.errors import EdgekitError

LONGEST_MESSAGE = 4500  # characters
# Of Python's: each makes, changes or removes something, or starts a program.
_WRITES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr",
}  # fmt: skip
_STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.startfile",
    "socket.connect",
    "pickle.find_class",
}
TRAP = "edgekit_trap"  # a module on the path that a recipe may name and nobody may import


class Broken(Exception):
    """The command did something that it must not do, without an exception of its own."""


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        kind: accepted, refused, or finding.
        where: of a finding: the exception and the innermost place in the package, by which alike findings are known.
        detail: the message, or the traceback of a finding.
    """

    kind: str
    where: str = ""
    detail: str = ""


@dataclass
class Watch:
    """Notes through an audit hook what the code under test does to files outside of its folders, while `active`.

    Attributes:
        allowed: what the paths that it may write begin with.
        secret: a file that it may not read, even if links lead there; empty for none.
    """

    allowed: tuple[str, ...]
    secret: str
    programs: bool = False  # whether the case may start programs
    active: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int) or path is None:
                return
            writes = (
                flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                if isinstance(flags, int)
                else any(c in (mode or "") for c in "wax+")
            )
            if writes:
                self._outside(event, path)
            elif self.secret and self._resolved(path) == self.secret:
                self.seen.append(f"read {self.secret}")
        elif event in _WRITES:
            self._outside(event, arguments[0])
            if event in {"os.rename", "os.link"}:
                self._outside(event, arguments[1])
        elif (event in _STARTS and not self.programs) or (event == "import" and arguments[0].partition(".")[0] == TRAP):
            self.seen.append(f"{event} {str(arguments[:2])[:200]}")

    def _resolved(self, path: Any) -> str:
        return os.path.realpath(os.fsdecode(path))

    def _outside(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        real = os.path.join(
            self._resolved(os.path.dirname(os.fsdecode(path)) or "."), os.path.basename(os.fsdecode(path))
        )
        if not real.startswith(self.allowed):
            self.seen.append(f"{event} {real}")


@contextmanager
def _watched(watch: Watch | None) -> Iterator[None]:
    if watch is None:
        yield
        return
    watch.seen.clear()
    watch.active = True
    try:
        yield
    finally:
        watch.active = False
    if watch.seen:
        raise Broken(f"reaches outside: {'; '.join(watch.seen[:3])}")


def judged(act: Callable[[], object], watch: Watch | None = None) -> Outcome:
    """Run what a command runs and say whether that is what it may do."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        try:
            with redirect_stdout(printed), redirect_stderr(printed), _watched(watch):
                act()
            outcome = Outcome("accepted")
        except (EdgekitError, click.ClickException) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            _check_message(message)
            outcome = Outcome("refused", detail=message[:300])
        _check_printed(printed.buffer.getvalue().decode())
        return outcome
    except BaseException as error:  # whatever it is, it is what this looks for
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome("finding", place(error), "".join(traceback.format_exception(error, limit=40))[-6000:])


def run_command(*words: object) -> None:
    """A command of edgekit's, in this process; exit code 1, of a gate or of images that cannot be read, is fine."""
    from edgekit.cli.main import cli

    try:
        cli.main([str(word) for word in words], prog_name="edgekit", standalone_mode=False)
    except SystemExit as left:
        if left.code not in {0, 1, None}:
            raise Broken(f"leaves with {left.code}") from left


def _check_message(message: str) -> None:
    if not message.strip():
        raise Broken("an error without a message")
    if len(message) > LONGEST_MESSAGE:
        raise Broken(f"a message of {len(message)} characters")
    if unsafe := _unsafe(message):
        raise Broken(f"a message with {unsafe!a}")
    if re.search(r"weights_only|Traceback|site-packages|internal error", message):
        raise Broken(f"a message for developers: {message[:300]}")


def _check_printed(text: str) -> None:
    for line in text.split("\n"):
        if unsafe := _unsafe(line):
            raise Broken(f"prints {unsafe!a}")
        if line.startswith("error: ") and len(line) > LONGEST_MESSAGE:
            raise Broken(f"prints an error of {len(line)} characters")
        if line.startswith(("Traceback (most recent", "error: forged", "error: x")):
            raise Broken(f"prints {line[:100]}")


def _unsafe(line: str) -> str:
    """The characters of a line that move a terminal's cursor, end the line, or turn around what follows."""
    if line.isascii() and line.isprintable():
        return ""
    return "".join(
        c
        for c in line
        if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"}
        or c in "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e"
    )[:20]


def place(error: BaseException) -> str:
    """An exception's type, and the innermost function of the package that it went through."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}edgekit{os.sep}" in f.filename and "site-packages" not in f.filename
    ]
    last = frames[-1] if frames else None
    where = f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno} {last.name}" if last else "?"
    said = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|/\S+", "#", str(error))[:80]
    return f"{type(error).__name__} in {where}: {said}"


def lay_trap(folder: Path) -> None:
    """Put a module on the path that nothing may import."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{TRAP}.py").write_text("def factory(): raise SystemExit('the trap ran')\n")
    sys.path.append(str(folder))
