"""A multiplexed SSH connection to a device, made by the user's own `ssh` with its configuration, keys, agent and jump hosts.

ssh never asks for a password (BatchMode) and checks host keys as the user's configuration says. The first process holds the
connection, with a socket in a private folder; every request is another process that uses the socket.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgekit.bench.remote.abandoned import remove_abandoned
from edgekit.bench.remote.address import Address
from edgekit.bench.remote.conversation import Conversation
from edgekit.bench.remote.replies import (
    LEAST_RATE,
    MARK,
    VERBS,
    AliveEvent,
    FailureReply,
    FileEvent,
    LineEvent,
    ProgressEvent,
    RemoteMessage,
    parse_message,
    parse_python,
    protocol_error,
)
from edgekit.children import start
from edgekit.errors import RemoteError, RuntimeMissing
from edgekit.temporary import machine_folder, scratch

_OPTIONS = {
    "BatchMode": "yes",
    "LogLevel": "ERROR",  # no banners: ssh then prints only errors
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "15",  # a silently lost connection is detected within a minute
    "ServerAliveCountMax": "3",
}
# In single quotes it has the same meaning in every login shell: sh, bash, zsh, fish, csh.
_FIND_PYTHON = (
    "for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do path=$(command -v $name) || continue; "
    'if "$path" -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; then echo "@edgekit $path"; exit 0; fi; done; '
    'echo "@edgekit "; python3 --version 2>&1; exit 0'
)
_RECEIVE = 'import sys; i = sys.stdin.buffer; exec(compile(i.read(int(i.readline())), "edgekit-on-device", "exec"))'
_CONNECT_SECONDS = 120.0  # including the touch of a hardware key; ConnectTimeout only covers the time before the login
_SHELL_SECONDS = 120.0
_MOST_STDERR = 1 << 16  # bytes of ssh's standard error
R = TypeVar("R", bound=RemoteMessage)


class ConnectionLost(RemoteError):
    """The connection broke; the current step can be repeated."""


class Stopped(Exception):
    """The user stopped before there was anything to fetch."""


class Connection:
    """A connection to one device.

    Args:
        address: the device.
        idle: called at least every fifth of a second while waiting; an exception that it raises ends the wait.
    """

    def __init__(self, address: Address, idle: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.idle = idle
        self.python = ""
        self._lock: int | None
        self._lock, self._folder = _private_folder()
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the process that holds the connection runs; whether the device still answers, the next request shows."""
        return self._master is not None and self._master.poll() is None

    def open(self) -> None:
        """Connect, or connect again.

        Raises:
            RuntimeMissing: this machine has no `ssh`.
            ConnectionLost: the device does not answer.
            RemoteError: the device refuses the login, or its host key is unknown or has changed.
        """
        self._close_master()
        began = time.monotonic()
        socket = self._folder / "s"
        socket.unlink(missing_ok=True)
        with open(self._folder / "stderr", "w+b") as stderr:
            self._master = _ssh(
                ["-M", "-N", "-S", str(socket), *self._options()], stdout=subprocess.DEVNULL, stderr=stderr
            )
            while not socket.exists():
                if self._master.poll() is not None:
                    stderr.seek(0)
                    raise _ssh_error(self.address, stderr.read(_MOST_STDERR).decode(errors="replace"))
                if time.monotonic() - began > _CONNECT_SECONDS:
                    raise ConnectionLost(f"login took more than {_CONNECT_SECONDS:.0f} s", where=self.address)
                self.idle()
                time.sleep(0.02)

    def close(self) -> None:
        """End the connection and remove its socket."""
        self._close_master()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def find_python(self, path: str | None = None) -> None:
        """Choose the device's Python: `path`, otherwise the first one on its PATH that is at least 3.10.

        Raises:
            RemoteError: there is none.
        """
        hint = "install Python 3.10 or newer on the device, or name one with --python"
        if path:
            test = "import sys; print(); print('@edgekit', sys.version_info >= (3, 10), sys.version.split()[0])"
            code, lines, error_line = self._run(f"{_quoted(path)} -I -c {shlex.quote(test)}")
            if not lines:
                raise RemoteError(f"cannot run {path}: {error_line or f'exit code {code}'}", hint, where=self.address)
            if not lines[0].startswith("True"):
                raise RemoteError(
                    f"{path} is Python {lines[0].partition(' ')[2]}, which is too old", hint, where=self.address
                )
            self.python = path
            return
        code, lines, error_line = self._run(f"exec /bin/sh -c {shlex.quote(_FIND_PYTHON)}")
        self.python = lines[0].strip() if lines else ""
        if not self.python:
            raise RemoteError(
                f"there is no Python 3.10 or newer on its PATH ({error_line or f'exit code {code}'})",
                hint,
                where=self.address,
            )

    def call(
        self,
        op: str,
        reply: type[R],
        payload: Iterable[bytes] = (),
        *,
        on_event: Callable[[ProgressEvent | LineEvent], None] = lambda event: None,
        receive: Callable[[FileEvent], AbstractContextManager[BinaryIO]] | None = None,
        transfer: int = 0,
        **arguments: Any,
    ) -> R:
        """Run one of the requests of `on_device` on the device.

        Args:
            op: its name.
            reply: the model of its reply, as in `VERBS`.
            payload: bytes that follow the request.
            on_event: called with each event before the reply.
            receive: opens the file for the bytes that an event announces.
            transfer: bytes of the payload, for the time limit.
            arguments: of the request.

        Raises:
            ConnectionLost: the connection broke before the reply, or data arrived damaged.
            TooSlow: the device makes no progress.
            RemoteError: the request failed on the device, or the device sends what edgekit never sends.
        """
        source = resources.files("edgekit.bench.remote").joinpath("on_device.py").read_bytes()
        request = json.dumps({"op": op, **arguments}).encode() + b"\n"
        child = self._start(f"exec {_quoted(self.python)} -I -c {shlex.quote(_RECEIVE)}")
        seconds = VERBS[op].seconds + transfer / LEAST_RATE
        answer: RemoteMessage | None = None
        error_line = ""
        try:
            conversation = Conversation(child, str(self.address), seconds, self.idle)
            conversation.send([f"{len(source)}\n".encode(), source, request])
            conversation.send(payload)
            answer = self._answer(op, conversation, on_event, receive)
            if answer is None:
                error_line = conversation.last_error_line()
        finally:
            code = _end(child)
        if isinstance(answer, FailureReply):
            hint = (
                "free some space on the device, or set EDGEKIT_CACHE there to a folder on another disk"
                if answer.full
                else ""
            )
            raise RemoteError(f"{'no space left: ' if answer.full else ''}{answer.error}", hint, where=self.address)
        if isinstance(answer, reply):
            return answer
        if code == 255 or not self.is_open:
            raise ConnectionLost(f"the connection is lost{f': {error_line}' if error_line else ''}", where=self.address)
        raise RemoteError(
            f"{self.python} failed on the device: {error_line or f'exit code {code}'}", where=self.address
        )

    def _answer(
        self,
        op: str,
        conversation: Conversation,
        on_event: Callable[[ProgressEvent | LineEvent], None],
        receive: Callable[[FileEvent], AbstractContextManager[BinaryIO]] | None,
    ) -> RemoteMessage | None:
        """Read messages until the reply; None if none came."""
        for line in conversation.lines():
            if not line.startswith(MARK):
                continue  # output of a login shell
            message = parse_message(op, line[len(MARK) :], str(self.address))
            if isinstance(message, (ProgressEvent, LineEvent)):
                on_event(message)
            elif not isinstance(message, (AliveEvent, FileEvent)):
                return message
            elif isinstance(message, FileEvent):
                if receive is None:
                    raise protocol_error(str(self.address), "sends a file that was not requested")
                digest = sha256()
                with receive(message) as stream:
                    conversation.extend(message.bytes / LEAST_RATE)

                    def take(block: bytes, digest: Any = digest, stream: BinaryIO = stream) -> None:
                        digest.update(block)
                        stream.write(block)

                    if not conversation.copy(message.bytes, take):
                        return None
                if digest.hexdigest() != message.sha256:
                    raise ConnectionLost(f"{message.path} arrived damaged", where=self.address)
        return None

    def _run(self, command: str) -> tuple[int, list[str], str]:
        """Run a shell command; return its exit code, the texts of its marked lines, and the last line without a mark."""
        child = self._start(command)
        try:
            conversation = Conversation(child, str(self.address), _SHELL_SECONDS, self.idle)
            lines, other = parse_python(conversation.lines(), str(self.address))
            error_line = conversation.last_error_line() or other
        finally:
            code = _end(child)
        if code == 255:
            raise ConnectionLost(f"the connection is lost{f': {error_line}' if error_line else ''}", where=self.address)
        return code, lines, error_line

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        if not self.is_open:
            raise ConnectionLost("the connection is lost", where=self.address)
        arguments = ["-o", "ControlMaster=no", "-S", str(self._folder / "s"), *self._options(), command]
        return _ssh(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _options(self) -> list[str]:
        options = [argument for key, value in _OPTIONS.items() for argument in ("-o", f"{key}={value}")]
        return [*options, *self.address.destination]

    def _close_master(self) -> None:
        if self._master is not None:
            _end(self._master)
            self._master = None


def _ssh(arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    program = shutil.which("ssh")
    if program is None:
        raise RuntimeMissing(
            "`ssh` is not installed on this machine", "install the OpenSSH client (Debian: openssh-client)"
        )
    streams.setdefault("stdin", subprocess.DEVNULL)
    # In its own session, because Ctrl-C must not end the connection that is needed to stop the bench.
    return start([program, *arguments], foreign=True, start_new_session=True, **streams)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close a process's pipes and wait for it; kill it after 5 s."""
    for stream in (child.stdin, child.stdout, child.stderr):
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
    """Quote a program's path for the shell; `~/` is the home folder on the device."""
    if program.startswith("~/"):
        return f'"$HOME"/{shlex.quote(program[2:])}'
    return shlex.quote(program)


def _private_folder() -> tuple[int, Path]:
    """Create a folder that only this user can enter, and lock it: if this process is killed, the next command removes the folder.

    Its path is short enough for a socket (108 bytes, of which ssh uses 18).
    """
    parent = machine_folder()
    for folder in {parent, Path("/tmp")}:
        remove_abandoned(folder)
    return scratch(parent if len(str(parent)) <= 55 else Path("/tmp"), "ssh")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _ssh_error(address: Address, stderr: str) -> RemoteError:
    """Turn ssh's output into one line that says what to do."""
    port = f"-p {address.port} " if address.port else ""
    by_hand = f"ssh {port}{f'{address.user}@' if address.user else ''}{address.host}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
        where = re.search(r"Offending .* key in (\S+)", stderr)
        return RemoteError(
            f"refused: its host key has changed{f' (known key: {where[1]})' if where else ''}",
            "it may be another device, or an attack; if you know the reason, remove the old key with ssh-keygen -R",
            where=address,
        )
    if "Host key verification failed" in stderr:
        return RemoteError(
            "refused: its host key is not known",
            f"connect once by hand and confirm the fingerprint: {by_hand}",
            where=address,
        )
    if denied := re.search(r"Permission denied \(([^)]*)\)", stderr):
        wants = {"password", "keyboard-interactive"} & set(denied[1].split(","))
        what = (
            "asks for a password, which edgekit does not support"
            if wants
            else f"accepts none of your keys ({denied[1]})"
        )
        return RemoteError(what, f"log in with a key: {by_hand.replace('ssh', 'ssh-copy-id', 1)}", where=address)
    reason = _last_line(stderr) or "ssh ended without a message"
    return ConnectionLost(
        f"cannot be reached: {reason.removeprefix('ssh: ')}", f"try by hand: {by_hand}", where=address
    )
