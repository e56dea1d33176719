"""One multiplexed SSH connection to a device, made by the user's own `ssh`: its configuration, keys, agent and jump hosts count.

No password is ever asked for (BatchMode) and host keys are checked as the user's configuration says. The first process holds
the connection, its socket lies in a private folder; every request is a further process over it.
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
    Alive,
    DataReply,
    FailureReply,
    LineReply,
    ReplyPart,
    Said,
    misbehaves,
    parse_message,
    parse_python,
)
from edgekit.children import start
from edgekit.errors import RemoteError, RuntimeMissing
from edgekit.temporary import machine_folder, scratch

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
_CONNECT_SECONDS = 120.0  # with the touch of a hardware key; ConnectTimeout ends where the login begins
_SHELL_SECONDS = 120.0
_MOST_WORDS = 1 << 16  # bytes of what ssh says about a connection
R = TypeVar("R", bound=ReplyPart)


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
        self._lock: int | None
        self._lock, self._folder = _private_folder()
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Connect, or connect again.

        Raises:
            RuntimeMissing: there is no `ssh` on this machine.
            ConnectionLost: the device does not answer.
            RemoteError: it refuses, or its host key is not known or not the known one.
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
                    raise _explained(self.address, stderr.read(_MOST_WORDS).decode(errors="replace"))
                if time.monotonic() - began > _CONNECT_SECONDS:
                    raise ConnectionLost(f"no login within {_CONNECT_SECONDS:.0f} s", where=self.address)
                self.idle()
                time.sleep(0.02)

    def close(self) -> None:
        """End the connection and remove its socket."""
        self._close_master()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
                raise RemoteError(f"cannot run {given}: {said or f'exit code {code}'}", hint, where=self.address)
            if not lines[0].startswith("True"):
                raise RemoteError(f"{given} is Python {lines[0].partition(' ')[2]}", hint, where=self.address)
            self.python = given
            return
        code, lines, said = self._run(f"exec /bin/sh -c {shlex.quote(_FIND_PYTHON)}")
        self.python = lines[0].strip() if lines else ""
        if not self.python:
            raise RemoteError(
                f"no Python 3.10 or newer on its PATH ({said or f'exit code {code}'})", hint, where=self.address
            )

    def call(
        self,
        op: str,
        reply: type[R],
        payload: Iterable[bytes] = (),
        *,
        on_event: Callable[[Said | LineReply], None] = lambda event: None,
        receive: Callable[[DataReply], AbstractContextManager[BinaryIO]] | None = None,
        transfer: int = 0,
        **arguments: Any,
    ) -> R:
        """Run one of the verbs of `on_device` on the device.

        Args:
            op: its name.
            reply: the model of its reply, as in `VERBS`.
            payload: bytes that follow the request.
            on_event: called with each event before the reply.
            receive: gives the file that takes the bytes which an event announces.
            transfer: bytes of the payload, which take their time.
            arguments: of the verb.

        Raises:
            ConnectionLost: the connection broke before the reply, or bytes arrived damaged.
            TooSlow: the device does not get on.
            RemoteError: the verb failed on the device, or the device says something else than edgekit does.
        """
        source = resources.files("edgekit.bench.remote").joinpath("on_device.py").read_bytes()
        request = json.dumps({"op": op, **arguments}).encode() + b"\n"
        child = self._start(f"exec {_quoted(self.python)} -I -c {shlex.quote(_RECEIVE)}")
        seconds = VERBS[op].seconds + transfer / LEAST_RATE
        answer: ReplyPart | None = None
        said = ""
        try:
            conversation = Conversation(child, str(self.address), seconds, self.idle)
            conversation.send([f"{len(source)}\n".encode(), source, request])
            conversation.send(payload)
            answer = self._answer(op, conversation, on_event, receive)
            if answer is None:
                said = conversation.last_words()
        finally:
            code = _end(child)
        if isinstance(answer, FailureReply):
            hint = "free some space on the device; EDGEKIT_CACHE there names another place" if answer.full else ""
            raise RemoteError(f"{'no space left: ' if answer.full else ''}{answer.error}", hint, where=self.address)
        if isinstance(answer, reply):
            return answer
        if code == 255 or self._master is None or self._master.poll() is not None:
            raise ConnectionLost(f"the connection is lost{f': {said}' if said else ''}", where=self.address)
        raise RemoteError(f"{self.python} failed on the device: {said or f'exit code {code}'}", where=self.address)

    def _answer(
        self,
        op: str,
        conversation: Conversation,
        on_event: Callable[[Said | LineReply], None],
        receive: Callable[[DataReply], AbstractContextManager[BinaryIO]] | None,
    ) -> ReplyPart | None:
        """Listen until the reply; None where none came."""
        for line in conversation.lines():
            if not line.startswith(MARK):
                continue  # what a login shell prints
            message = parse_message(op, line[len(MARK) :], str(self.address))
            if isinstance(message, (Said, LineReply)):
                on_event(message)
            elif not isinstance(message, (Alive, DataReply)):
                return message
            elif isinstance(message, DataReply):
                if receive is None:
                    raise misbehaves(str(self.address), "sends a file that nobody asked for")
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
        """Run a shell command; gives its exit code, what its marked lines say, and the last line that is not marked."""
        child = self._start(command)
        try:
            conversation = Conversation(child, str(self.address), _SHELL_SECONDS, self.idle)
            lines, other = parse_python(conversation.lines(), str(self.address))
            said = conversation.last_words() or other
        finally:
            code = _end(child)
        if code == 255:
            raise ConnectionLost(f"the connection is lost{f': {said}' if said else ''}", where=self.address)
        return code, lines, said

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        if self._master is None or self._master.poll() is not None:
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
        raise RuntimeMissing("there is no `ssh` on this machine", "install the OpenSSH client (Debian: openssh-client)")
    streams.setdefault("stdin", subprocess.DEVNULL)
    # A session of its own: Ctrl-C must not cut the connection over which the bench is stopped.
    return start([program, *arguments], foreign=True, start_new_session=True, **streams)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close a process's pipes and wait for it, not for long."""
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
    """A program's path for the shell; `~/` is the home on the device."""
    if program.startswith("~/"):
        return f'"$HOME"/{shlex.quote(program[2:])}'
    return shlex.quote(program)


def _private_folder() -> tuple[int, Path]:
    """A folder that only this user can enter, and the handle that locks it: where this process is killed, the next command removes it.

    Its path is short enough for a socket (108 bytes, of which ssh takes 18).
    """
    parent = machine_folder()
    for folder in {parent, Path("/tmp")}:
        remove_abandoned(folder)
    return scratch(parent if len(str(parent)) <= 55 else Path("/tmp"), "ssh")


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
            f"refused, its host key is not the one known{f' ({where[1]})' if where else ''}",
            "it is another device, or somebody is in between; where you know why, remove the old key with ssh-keygen -R",
            where=address,
        )
    if "Host key verification failed" in said:
        return RemoteError(
            "refused, its host key is not known",
            f"connect once by hand and confirm its fingerprint: {by_hand}",
            where=address,
        )
    if denied := re.search(r"Permission denied \(([^)]*)\)", said):
        wants = {"password", "keyboard-interactive"} & set(denied[1].split(","))
        what = "wants a password, which edgekit never asks for" if wants else f"accepts none of your keys ({denied[1]})"
        return RemoteError(what, f"log in with a key: {by_hand.replace('ssh', 'ssh-copy-id', 1)}", where=address)
    reason = _last_line(said) or "ssh ended without a word"
    return ConnectionLost(
        f"cannot be reached: {reason.removeprefix('ssh: ')}", f"try by hand: {by_hand}", where=address
    )
