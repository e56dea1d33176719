"""One multiplexed SSH connection to a device, made by the user's own `ssh`: its configuration, keys, agent and jump hosts count.

No password is ever asked for (BatchMode) and host keys are checked as the user's configuration says. The first process holds
the connection, its socket lies in a private folder; every request is a further process over it.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import IO, Any

from edgekit.bench.remote.address import Address
from edgekit.errors import RemoteError, RuntimeMissing

_MARK = b"@edgekit "
_OPTIONS = {
    "BatchMode": "yes",
    "LogLevel": "ERROR",  # no banners, since what ssh prints is what went wrong
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "15",  # a connection that is silently gone is noticed within a minute
    "ServerAliveCountMax": "3",
}
# Standing alone in single quotes it means the same to every login shell: sh, bash, zsh, fish, csh.
_FIND_PYTHON = (
    "for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do path=$(command -v $name) || continue; "
    'if "$path" -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; then echo "@edgekit $path"; exit 0; fi; done; '
    'echo "@edgekit "; python3 --version 2>&1; exit 0'
)
_RECEIVE = 'import sys; i = sys.stdin.buffer; exec(compile(i.read(int(i.readline())), "edgekit-on-device", "exec"))'
_POLL_SECONDS = 0.2
_BLOCK = 1 << 16


class ConnectionLost(RemoteError):
    """The connection broke; what was under way can be tried again."""


class Stopped(Exception):
    """The user asked to stop, and did so before there was anything to bring back."""


class Connection:
    """A connection to one device.

    Args:
        address: the device.
        idle: called at least every fifth of a second while something is waited for; what it raises ends the waiting.
    """

    def __init__(self, address: Address, idle: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.idle = idle
        self.python = ""
        self._folder = _private_folder()
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Connect, or connect again.

        Raises:
            RuntimeMissing: there is no `ssh` on this machine.
            ConnectionLost: the device does not answer.
            RemoteError: it refuses, or its host key is not known or not the known one.
        """
        self._close_master()
        socket = self._folder / "s"
        socket.unlink(missing_ok=True)
        with open(self._folder / "stderr", "w+b") as stderr:
            self._master = _ssh(
                ["-M", "-N", "-S", str(socket), *self._options()], stdout=subprocess.DEVNULL, stderr=stderr
            )
            while not socket.exists():
                if self._master.poll() is not None:
                    stderr.seek(0)
                    raise _explained(self.address, stderr.read().decode(errors="replace"))
                self.idle()
                time.sleep(0.02)

    def close(self) -> None:
        """End the connection and remove its socket."""
        self._close_master()
        shutil.rmtree(self._folder, ignore_errors=True)

    def find_python(self, given: str | None = None) -> None:
        """Take the device's Python: the one given, else the first of at least 3.10 on its PATH.

        Raises:
            RemoteError: there is none.
        """
        hint = "install Python 3.10 or newer on it, or name one with --python"
        if given:
            test = "import sys; print(); print('@edgekit', sys.version_info >= (3, 10), sys.version.split()[0])"
            code, lines, said = self._run(f"{_quoted(given)} -I -c {shlex.quote(test)}")
            if not lines:
                raise RemoteError(f"{self.address}: cannot run {given}: {said or f'exit code {code}'}", hint)
            if not lines[0].startswith("True"):
                raise RemoteError(f"{self.address}: {given} is Python {lines[0].partition(' ')[2]}", hint)
            self.python = given
            return
        code, lines, said = self._run(f"exec /bin/sh -c {shlex.quote(_FIND_PYTHON)}")
        self.python = lines[0].strip() if lines else ""
        if not self.python:
            raise RemoteError(
                f"{self.address}: no Python 3.10 or newer on its PATH ({said or f'exit code {code}'})", hint
            )

    def call(
        self,
        op: str,
        payload: Iterable[bytes] = (),
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Run one of the verbs of `on_device` on the device.

        Args:
            op: its name.
            payload: bytes that follow the request.
            on_event: called with each event before the reply; one that brings bytes has them as `content`.
            arguments: of the verb.

        Raises:
            ConnectionLost: the connection broke before the reply.
            RemoteError: the verb failed on the device.
        """
        source = resources.files("edgekit.bench.remote").joinpath("on_device.py").read_bytes()
        request = json.dumps({"op": op, **arguments}).encode() + b"\n"
        command = f"exec {_quoted(self.python)} -I -c {shlex.quote(_RECEIVE)}"
        with tempfile.TemporaryFile() as stderr:
            child = self._start(command, stderr)
            try:
                reply = _Conversation(child, self.idle).hold(
                    [f"{len(source)}\n".encode(), source, request], payload, on_event
                )
            finally:
                code = _end(child)
            stderr.seek(0)
            said = _last_line(stderr.read().decode(errors="replace"))
        if reply is None:
            if code == 255 or self._master is None or self._master.poll() is not None:
                raise ConnectionLost(f"{self.address}: the connection is lost{f': {said}' if said else ''}")
            raise RemoteError(f"{self.address}: {self.python} failed on the device: {said or f'exit code {code}'}")
        if "error" in reply:
            hint = "free some space on the device; EDGEKIT_CACHE there names another place" if reply["full"] else ""
            raise RemoteError(f"{self.address}: {'no space left: ' if reply['full'] else ''}{reply['error']}", hint)
        answer: dict[str, Any] = reply["reply"]
        return answer

    def _run(self, command: str) -> tuple[int, list[str], str]:
        """Run a shell command; gives its exit code, what its marked lines say, and the last line that is not marked."""
        with tempfile.TemporaryFile() as stderr:
            child = self._start(command, stderr)
            lines: list[str] = []
            others: list[str] = []
            try:
                for line in _Conversation(child, self.idle).lines():
                    text = line.decode(errors="replace").strip()
                    if line.startswith(_MARK):
                        lines.append(line[len(_MARK) :].decode(errors="replace").strip())
                    elif text:
                        others.append(text)
            finally:
                code = _end(child)
            stderr.seek(0)
            said = _last_line(stderr.read().decode(errors="replace")) or (others[-1] if others else "")
        if code == 255:
            raise ConnectionLost(f"{self.address}: the connection is lost{f': {said}' if said else ''}")
        return code, lines, said

    def _start(self, command: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        if self._master is None or self._master.poll() is not None:
            raise ConnectionLost(f"{self.address}: the connection is lost")
        arguments = ["-o", "ControlMaster=no", "-S", str(self._folder / "s"), *self._options(), command]
        return _ssh(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def _options(self) -> list[str]:
        options = [argument for key, value in _OPTIONS.items() for argument in ("-o", f"{key}={value}")]
        return [*options, *self.address.destination]

    def _close_master(self) -> None:
        if self._master is not None:
            _end(self._master)
            self._master = None


class _Conversation:
    """The two ends of a pipe to a process on the device, neither of which may block the other."""

    def __init__(self, child: subprocess.Popen[bytes], idle: Callable[[], None]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._in, self._out = child.stdin.fileno(), child.stdout.fileno()
        os.set_blocking(self._in, False)
        self._idle = idle
        self._buffer = bytearray()

    def hold(
        self, head: list[bytes], payload: Iterable[bytes], on_event: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any] | None:
        """Send, then listen until the reply; None where none came."""
        try:
            for block in head:
                self._send(block)
            for block in payload:
                self._send(block)
        except BrokenPipeError:
            pass  # it ended early; why is in its reply, if there is one
        while (line := self._line()) is not None:
            if not line.startswith(_MARK):
                continue  # what a login shell prints
            message: dict[str, Any] = json.loads(line[len(_MARK) :])
            if "event" not in message:
                return message
            if "bytes" in message:
                content = self._bytes(message["bytes"])
                if content is None:
                    return None
                message["content"] = content
            on_event(message)
        return None

    def lines(self) -> Iterable[bytes]:
        """All lines until the end."""
        while (line := self._line()) is not None:
            yield line

    def _send(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            if select.select([], [self._in], [], _POLL_SECONDS)[1]:
                view = view[os.write(self._in, view[:_BLOCK]) :]
            self._idle()

    def _line(self) -> bytes | None:
        while b"\n" not in self._buffer:
            block = self._read()
            if not block:
                return None
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return bytes(line)

    def _bytes(self, size: int) -> bytes | None:
        """The next `size` bytes; None where the other end stops before."""
        while len(self._buffer) < size:
            block = self._read()
            if not block:
                return None
            self._buffer += block
        content = bytes(self._buffer[:size])
        del self._buffer[:size]
        return content

    def _read(self) -> bytes:
        while True:
            self._idle()
            if select.select([self._out], [], [], _POLL_SECONDS)[0]:
                return os.read(self._out, _BLOCK)


def _ssh(arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    program = shutil.which("ssh")
    if program is None:
        raise RuntimeMissing("there is no `ssh` on this machine", "install the OpenSSH client (Debian: openssh-client)")
    streams.setdefault("stdin", subprocess.DEVNULL)
    # A session of its own: Ctrl-C must not cut the connection over which the bench is stopped.
    return subprocess.Popen([program, *arguments], start_new_session=True, **streams)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close a process's pipes and wait for it, not for long."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    if child.stdin is None:
        child.terminate()
    try:
        return child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _quoted(program: str) -> str:
    """A program's path for the shell; `~/` is the home on the device."""
    if program.startswith("~/"):
        return f'"$HOME"/{shlex.quote(program[2:])}'
    return shlex.quote(program)


def _private_folder() -> Path:
    """A folder that only this user can enter, with a path short enough for a socket (108 bytes, of which ssh takes 18)."""
    folder = tempfile.mkdtemp(prefix="edgekit-ssh-")
    if len(folder) > 80:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="edgekit-ssh-", dir="/tmp")
    return Path(folder)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _explained(address: Address, said: str) -> RemoteError:
    """What ssh printed, as one line that says what to do."""
    port = f"-p {address.port} " if address.port else ""
    by_hand = f"ssh {port}{f'{address.user}@' if address.user else ''}{address.host}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        where = re.search(r"Offending .* key in (\S+)", said)
        return RemoteError(
            f"{address}: refused, its host key is not the one known{f' ({where[1]})' if where else ''}",
            "it is another device, or somebody is in between; where you know why, remove the old key with ssh-keygen -R",
        )
    if "Host key verification failed" in said:
        return RemoteError(
            f"{address}: refused, its host key is not known",
            f"connect once by hand and confirm its fingerprint: {by_hand}",
        )
    if denied := re.search(r"Permission denied \(([^)]*)\)", said):
        wants = {"password", "keyboard-interactive"} & set(denied[1].split(","))
        what = "wants a password, which edgekit never asks for" if wants else f"accepts none of your keys ({denied[1]})"
        return RemoteError(f"{address}: {what}", f"log in with a key: {by_hand.replace('ssh', 'ssh-copy-id', 1)}")
    reason = _last_line(said) or "ssh ended without a word"
    return ConnectionLost(f"{address}: cannot be reached: {reason.removeprefix('ssh: ')}", f"try by hand: {by_hand}")
