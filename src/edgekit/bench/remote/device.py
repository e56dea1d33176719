"""One device, the whole way: copy what it lacks, make its environment, bench, bring the results back, clean up."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgekit.bench.remote.address import Address
from edgekit.bench.remote.connection import Connection, ConnectionLost, Stopped
from edgekit.bench.remote.wheel import Wheel
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import RemoteError
from edgekit.files import digest_of, sha256, write_bytes

# Pauses before connecting again, in seconds: a Wi-Fi that drops or a device that is out of breath comes back within these.
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_SAY_SECONDS = 5.0
_BLOCK = 1 << 18
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What to do on a device.

    Attributes:
        bundle: the opened bundle.
        options: for `edgekit bench` on the device.
        extras: of the wheel, that must be installed.
        optional: extras of runtimes that are installed where that works: one of them, at least.
        wheel: edgekit itself.
        python: a Python on the device that has everything already; None makes an environment.
        keep: leave the bench's folder on the device.
    """

    bundle: Bundle
    options: tuple[str, ...]
    extras: tuple[str, ...]
    optional: tuple[str, ...]
    wheel: Wheel
    python: str | None = None
    keep: bool = False


@dataclass
class Controls:
    """How the user ends it: once, and all benches end with what they have; twice, and they are left alone."""

    stop: threading.Event = field(default_factory=threading.Event)
    abandon: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Measured:
    """What a device brought.

    Attributes:
        exit_code: of `edgekit bench` there.
        content: what it printed with `--json`, its `file`s now those of this machine.
        folder: with the result files.
        notes: what the user should know, a sentence each.
    """

    exit_code: int
    content: dict[str, Any]
    folder: Path
    notes: list[str]


def measure(
    address: Address, job: Job, output: Path, controls: Controls, say: Callable[[str], None] = lambda line: None
) -> Measured:
    """Bench a bundle on a device.

    Args:
        address: the device.
        job: what to do there.
        output: the folder for its result files.
        controls: how the user ends it.
        say: called with lines that tell how far it is.

    Raises:
        RemoteError: the device cannot be reached, refuses, or cannot do it; says what is left where.
        Stopped: the user stopped it before there was anything to bring back.
    """
    connection = Connection(address)
    with closing(connection):
        return _Visit(connection, job, output, controls, say).whole()


class _Visit:
    def __init__(
        self,
        connection: Connection,
        job: Job,
        output: Path,
        controls: Controls,
        say: Callable[[str], None],
    ) -> None:
        self.connection, self.job, self.controls, self.say = connection, job, controls, say
        self.output = output
        self.address = connection.address
        self.notes: list[str] = []
        self.errors: list[str] = []
        self.seen = 0
        self.asked_to_stop = False
        connection.idle = self._unless_stopped

    def whole(self) -> Measured:
        job = self.job
        self.connection.open()
        self.connection.find_python(job.python)
        about = self.connection.call("probe")
        self.connection.python = about["executable"]  # not a shim that looks for it every time
        place = about["root"]
        if job.python and about["missing"]:
            raise RemoteError(
                f"{self.address}: {job.python} lacks {', '.join(about['missing'])}",
                "install them there, or leave --python out: then a private environment is made",
            )
        self.say(f"Python {about['python']}, {about['architecture']}")
        files = {MANIFEST: job.bundle.path / MANIFEST} | {
            file.path: job.bundle.path / file.path for file in job.bundle.manifest.files
        }
        digests = {name: sha256(path) for name, path in files.items()}
        objects = {digests[name]: path for name, path in files.items()} | {job.wheel.sha256: job.wheel.path}
        self._steadily(
            lambda: self._copy(objects), f"what was copied is in {place}/objects; the same command goes on from there"
        )
        python = about["executable"] if job.python else self._environment(about)
        run = digest_of([job.bundle.digest, job.options, job.wheel.sha256, python, _client(self.output)])[:16]
        folder = f"{place}/runs/{run}"
        try:
            reply = self._measure(run, python, digests, folder)
            return self._bring(run, reply, folder)
        finally:
            self.connection.idle = lambda: None

    def _copy(self, objects: dict[str, Path]) -> None:
        sizes = {digest: path.stat().st_size for digest, path in objects.items()}
        for _ in range(2):  # a damaged one is copied once more, from its beginning
            offer = self.connection.call("offer", objects=sizes)
            missing: dict[str, int] = offer["missing"]
            if not missing:
                return
            wanted = sum(sizes[digest] - offset for digest, offset in missing.items())
            if wanted > offer["free"]:
                raise RemoteError(
                    f"{self.address}: no space left: {_megabytes(wanted)} are to be copied, {_megabytes(offer['free'])} are free",
                    "free some space on the device; EDGEKIT_CACHE there names another place",
                )
            self.say(f"copying {len(missing)} of {len(objects)} files, {_megabytes(wanted)}")
            damaged = self.connection.call(
                "store",
                self._blocks([(objects[digest], offset) for digest, offset in missing.items()], wanted),
                objects=[(digest, sizes[digest], offset) for digest, offset in missing.items()],
            )["damaged"]
            if not damaged:
                return
        raise RemoteError(f"{self.address}: {objects[damaged[0]].name} arrives damaged", "check the device's storage")

    def _blocks(self, files: list[tuple[Path, int]], total: int) -> Iterator[bytes]:
        """The bytes of files, each from an offset on; says now and then how far it is."""
        sent, said = 0, time.monotonic()
        for path, offset in files:
            with open(path, "rb") as stream:
                stream.seek(offset)
                while block := stream.read(_BLOCK):
                    yield block
                    sent += len(block)
                    if time.monotonic() - said > _SAY_SECONDS:
                        said = time.monotonic()
                        self.say(f"copied {_megabytes(sent)} of {_megabytes(total)}")

    def _environment(self, about: dict[str, Any]) -> str:
        job = self.job
        optional = [e for e in job.optional if e != "trt-rtx" or (about["gpu"] and about["architecture"] == "x86_64")]
        # JetPack brings TensorRT as a package of the system; nothing else there is of use.
        system = "trt" in (*job.extras, *job.optional)
        optional = [extra for extra in optional if extra != "trt"]
        key = digest_of([about["executable"], about["python"], job.wheel.requirements, system])[:16]
        made = self._steadily(
            lambda: self.connection.call(
                "environment",
                on_event=lambda event: self.say(event["text"]),
                key=key,
                wheel=job.wheel.sha256,
                name=job.wheel.path.name,
                extras=[*job.extras, *optional],
                system=system,
            ),
            f"its environment in {about['root']}/venvs/{key} is made anew by the same command",
        )
        for extra, reason in made["failed"].items():
            if extra in job.extras or not set(made["extras"]) & set(job.optional):
                raise RemoteError(
                    f"{self.address}: [{extra}] cannot be installed: {reason}",
                    "give the device access to a package index, or name a Python that has the packages with --python",
                )
            self.notes.append(f"[{extra}] cannot be installed there: {reason}")
        python: str = made["python"]
        return python

    def _measure(self, run: str, python: str, digests: dict[str, str], folder: str) -> dict[str, Any]:
        self.connection.idle = lambda: None  # a bench that may have begun is only ended over there, by `stop`
        began = self._steadily(
            lambda: self.connection.call(
                "start",
                run=run,
                python=python,
                wheel=self.job.wheel.sha256,
                options=list(self.job.options),
                files=digests,
            ),
            f"whether the bench has begun is not known; what there is of it is in {folder}",
        )
        if began["state"] == "started":
            self.say("measuring")
        else:
            self.say(f"picking up the bench that {'still runs' if began['state'] == 'running' else 'has ended'} there")
        self.connection.idle = lambda: self._pass_the_stop_on(run)
        return self._steadily(
            lambda: self.connection.call("follow", on_event=self._line, run=run, seen=self.seen),
            f"the bench goes on there and writes into {folder}; the same command, within a day, brings its results",
        )

    def _bring(self, run: str, reply: dict[str, Any], folder: str) -> Measured:
        content: dict[str, Any] = {}

        def keep(event: dict[str, Any]) -> None:
            name, data = event["path"], event["content"]
            if hashlib.sha256(data).hexdigest() != event["sha256"]:
                raise ConnectionLost(f"{self.address}: {name} arrived damaged")
            if name == "stdout":
                content.update(_json(data))
            else:
                write_bytes(self.output / _inside(name.removeprefix("results/"), self.address), data)

        self._steadily(
            lambda: self.connection.call("fetch", on_event=keep, run=run, paths=reply["files"]),
            f"the results are in {folder} on the device; the same command, within a day, brings them",
        )
        code = reply["exit"]
        ended = self._steadily(
            lambda: self.connection.call("finish", run=run, keep=self.job.keep), f"{folder} is left on the device"
        )
        if self.job.keep:
            self.notes.append(f"kept on the device: {ended['folder']}")
        for row in content.get("results", []):
            row["file"] = str(self.output / PurePosixPath(row["file"]).relative_to(f"{folder}/results"))
        if not content.get("results"):
            if self.controls.stop.is_set():
                raise Stopped
            raise RemoteError(f"{self.address}: {self._why_nothing(code)}")
        return Measured(code, content, self.output, self.notes)

    def _why_nothing(self, code: int | None) -> str:
        said = self.errors[-1] if self.errors else ""
        if said.startswith("error: "):
            return said.removeprefix("error: ")
        died = (
            "the bench was killed on the device, or the device restarted"
            if code is None or code < 0
            else f"the bench failed there with exit code {code}"
        )
        return f"{died}{f': {said}' if said else ''}"

    def _line(self, event: dict[str, Any]) -> None:
        self.seen = event["seen"]
        text = event["text"].rstrip()
        if text:
            self.errors.append(text)
        if text and not text.startswith(("error: ", "interrupted")):
            self.say(text)

    def _steadily(self, step: Callable[[], T], left: str) -> T:
        """Take a step; where the connection breaks, connect again and repeat it.

        Args:
            step: may be repeated.
            left: what is left where, for the error when the device does not come back.
        """
        for pause in RETRY_SECONDS:
            try:
                return step()
            except ConnectionLost as error:
                self.say(f"{error.message.removeprefix(f'{self.address}: ')}; trying again")
            if self.controls.stop.wait(pause):
                break
            try:
                self.connection.open()
            except ConnectionLost:
                continue
        try:
            return step()
        except ConnectionLost as error:
            raise RemoteError(error.message, left) from error

    def _unless_stopped(self) -> None:
        if self.controls.stop.is_set():
            raise Stopped

    def _pass_the_stop_on(self, run: str) -> None:
        if self.controls.abandon.is_set():
            raise RemoteError(
                f"{self.address}: left alone", "the same command, within a day, brings the results of its bench"
            )
        if self.controls.stop.is_set() and not self.asked_to_stop:
            self.asked_to_stop = True
            self.say("ending the bench there")
            self.connection.call("stop", run=run)


def _client(output: Path) -> list[str]:
    """Who asks: two machines, or two benches into different folders, do not share a bench on a device."""
    import getpass
    import socket

    return [socket.gethostname(), getpass.getuser(), str(output.resolve())]


def _inside(name: str, address: Address) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise RemoteError(f"{address}: sends a file with the name {name!r}", "do not use this device")
    return name


def _json(data: bytes) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(data or b"{}")
        return content
    except ValueError:
        return {}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
