"""One device, the whole way: copy what it lacks, make its environment, bench, bring the results back, clean up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgekit.bench.remote.address import Address
from edgekit.bench.remote.connection import Connection, ConnectionLost, Stopped
from edgekit.bench.remote.conversation import TooSlow
from edgekit.bench.remote.replies import (
    Ended,
    Environment,
    Fetched,
    Finished,
    LineReply,
    Misbehaves,
    Offer,
    ProbeReply,
    Said,
    StartReply,
    StopReply,
    Stored,
    misbehaves,
)
from edgekit.bench.remote.results import Brought, Inbox
from edgekit.bench.remote.wheel import Wheel
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import EdgekitError, RemoteError, shortened
from edgekit.files import digest_of, sha256
from edgekit.targets import Runtime, runtimes_of

# Pauses before connecting again, in seconds: a Wi-Fi that drops or a device that is out of breath comes back within these.
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_SAY_SECONDS = 5.0
_BLOCK = 1 << 18
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteJob:
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
class DeviceMeasurement:
    """What a device brought.

    Attributes:
        exit_code: of `edgekit bench` there.
        brought: its results and what was not measured.
        folder: with the result files.
        notes: what the user should know, a sentence each.
    """

    exit_code: int
    brought: Brought
    folder: Path
    notes: list[str]


def measure(
    address: Address, job: RemoteJob, output: Path, controls: Controls, say: Callable[[str], None] = lambda line: None
) -> DeviceMeasurement:
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
        job: RemoteJob,
        output: Path,
        controls: Controls,
        say: Callable[[str], None],
    ) -> None:
        self.connection, self.job, self.controls, self.say = connection, job, controls, say
        self.output = output
        self.address = connection.address
        self.notes: list[str] = []
        self.last_line = ""
        self.seen = 0
        self.asked_to_stop = False
        connection.idle = self._unless_stopped

    def whole(self) -> DeviceMeasurement:
        job = self.job
        self.connection.open()
        self.connection.find_python(job.python)
        about = self.connection.call("probe", ProbeReply)
        self.connection.python = about.executable  # not a shim that looks for it every time
        place = about.root
        if job.python and about.missing:
            raise RemoteError(
                f"{job.python} lacks {', '.join(about.missing)}",
                "install them there, or leave --python out: then a private environment is made",
                where=self.address,
            )
        self.say(f"Python {about.python}, {about.architecture}")
        files = {MANIFEST: job.bundle.path / MANIFEST} | {
            file.path: job.bundle.path / file.path for file in job.bundle.manifest.files
        }
        digests = {name: sha256(path) for name, path in files.items()}
        objects = {digests[name]: path for name, path in files.items()} | {job.wheel.sha256: job.wheel.path}
        self._steadily(
            lambda: self._copy(objects), f"what was copied is in {place}/objects; the same command goes on from there"
        )
        python = about.executable if job.python else self._environment(about)
        run = digest_of([job.bundle.digest, job.options, job.wheel.sha256, python, _client(self.output)])[:16]
        folder = f"{place}/runs/{run}"
        try:
            ended = self._measure(run, python, digests, folder)
            return self._bring(run, ended, folder)
        finally:
            self.connection.idle = lambda: None

    def _copy(self, objects: dict[str, Path]) -> None:
        sizes = {digest: path.stat().st_size for digest, path in objects.items()}
        for _ in range(2):  # a damaged one is copied once more, from its beginning
            offer = self.connection.call("offer", Offer, objects=sizes)
            missing = offer.missing
            if not missing:
                return
            if any(offset > sizes.get(digest, -1) for digest, offset in missing.items()):
                raise misbehaves(str(self.address), "lacks what nobody offered")
            wanted = sum(sizes[digest] - offset for digest, offset in missing.items())
            if wanted > offer.free:
                raise RemoteError(
                    f"no space left: {_megabytes(wanted)} are to be copied, {_megabytes(offer.free)} are free",
                    "free some space on the device; EDGEKIT_CACHE there names another place",
                    where=self.address,
                )
            self.say(f"copying {len(missing)} of {len(objects)} files, {_megabytes(wanted)}")
            damaged = self.connection.call(
                "store",
                Stored,
                self._blocks([(objects[digest], offset) for digest, offset in missing.items()], wanted),
                transfer=wanted,
                objects=[(digest, sizes[digest], offset) for digest, offset in missing.items()],
            ).damaged
            if not damaged:
                return
        name = objects[damaged[0]].name if damaged[0] in objects else "a file"
        raise RemoteError(f"{name} arrives damaged", "check the device's storage", where=self.address)

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

    def _environment(self, about: ProbeReply) -> str:
        job = self.job
        useless = {runtime.extra for runtime in runtimes_of(job.optional) if not _installs(runtime, about)}
        optional = [extra for extra in job.optional if extra not in useless]
        # JetPack brings TensorRT as a package of the system; nothing else there is of use.
        system = any(runtime.system for runtime in runtimes_of((*job.extras, *job.optional)))
        key = digest_of([about.executable, about.python, job.wheel.requirements, system])[:16]
        made = self._steadily(
            lambda: self.connection.call(
                "environment",
                Environment,
                on_event=self._told,
                key=key,
                wheel=job.wheel.sha256,
                name=job.wheel.path.name,
                extras=[*job.extras, *optional],
                system=system,
            ),
            f"its environment in {about.root}/venvs/{key} is made anew by the same command",
        )
        for extra, reason in made.failed.items():
            if extra in job.extras or not set(made.extras) & set(job.optional):
                raise RemoteError(
                    f"[{extra}] cannot be installed: {shortened(reason, 500)}",
                    "give the device access to a package index, or name a Python that has the packages with --python",
                    where=self.address,
                )
            self.notes.append(f"[{extra}] cannot be installed there: {shortened(reason, 500)}")
        return made.python

    def _measure(self, run: str, python: str, digests: dict[str, str], folder: str) -> Ended:
        self.connection.idle = lambda: None  # a bench that may have begun is only ended over there, by `stop`
        began = self._steadily(
            lambda: self.connection.call(
                "start",
                StartReply,
                run=run,
                python=python,
                wheel=self.job.wheel.sha256,
                options=list(self.job.options),
                files=digests,
            ),
            f"whether the bench has begun is not known; what there is of it is in {folder}",
        )
        if began.state == "started":
            self.say("measuring")
        else:
            self.say(f"picking up the bench that {'still runs' if began.state == 'running' else 'has ended'} there")
        self.connection.idle = lambda: self._pass_the_stop_on(run)
        return self._steadily(
            lambda: self.connection.call("follow", Ended, on_event=self._told, run=run, seen=self.seen),
            f"the bench goes on there and writes into {folder}; the same command, within a day, brings its results",
        )

    def _bring(self, run: str, ended: Ended, folder: str) -> DeviceMeasurement:
        left = f"the results are in {folder} on the device; the same command, within a day, brings them"
        try:
            with Inbox(self.output, str(self.address), ended.files) as inbox:
                self._steadily(
                    lambda: self.connection.call("fetch", Fetched, receive=inbox.receive, run=run, paths=inbox.names),
                    left,
                )
                brought = inbox.keep(self.job.bundle, killed=ended.exit is None or ended.exit < 0)
        except Misbehaves as error:
            raise self._set_aside(run, error) from error
        if inbox.others:
            self.notes.append(f"{len(inbox.others)} files of the bench there are not edgekit's and were not brought")
        try:
            finished = self._steadily(
                lambda: self.connection.call("finish", Finished, run=run, keep=self.job.keep), "the results are here"
            )
            if self.job.keep:
                self.notes.append(f"kept on the device: {finished.folder}")
        except RemoteError as error:
            self.notes.append(f"{folder} is left on the device: {error.reason}")
        if not brought.results:
            if self.controls.stop.is_set():
                raise Stopped
            raise RemoteError(ended.error or self._why_nothing(ended.exit), where=self.address)
        return DeviceMeasurement(1 if ended.exit is None else ended.exit, brought, self.output, self.notes)

    def _set_aside(self, run: str, error: Misbehaves) -> RemoteError:
        """The same error; the results that cannot be taken are set aside on the device, where the next bench does not find them."""
        with suppress(EdgekitError):
            kept = self.connection.call("finish", Finished, run=run, keep=True).folder
            return RemoteError(error.reason, f"{error.hint}; what it wrote is kept there in {kept}", where=self.address)
        return error

    def _why_nothing(self, code: int | None) -> str:
        said = self.last_line
        died = (
            "the bench was killed on the device, or the device restarted"
            if code is None or code < 0
            else f"the bench failed there with exit code {code}"
        )
        return f"{died}{f': {said}' if said else ''}"

    def _told(self, event: Said | LineReply) -> None:
        text = shortened(event.text.rstrip(), 1000)
        if isinstance(event, LineReply):
            self.seen = event.seen
            self.last_line = text or self.last_line
            if text.startswith("interrupted"):
                return
        if text:
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
            except TooSlow as error:
                raise RemoteError(error.reason, left, where=self.address) from error
            except ConnectionLost as error:
                self.say(f"{error.reason}; trying again")
            if self.controls.stop.wait(pause):
                break
            try:
                self.connection.open()
            except ConnectionLost:
                continue
        try:
            return step()
        except (ConnectionLost, TooSlow) as error:
            raise RemoteError(error.reason, left, where=self.address) from error

    def _unless_stopped(self) -> None:
        if self.controls.stop.is_set():
            raise Stopped

    def _pass_the_stop_on(self, run: str) -> None:
        if self.controls.abandon.is_set():
            raise RemoteError(
                "left alone", "the same command, within a day, brings the results of its bench", where=self.address
            )
        if self.controls.stop.is_set() and not self.asked_to_stop:
            self.asked_to_stop = True
            self.say("ending the bench there")
            self.connection.call("stop", StopReply, run=run)


def _installs(runtime: Runtime, about: ProbeReply) -> bool:
    """Whether pip may bring a device a runtime that it can use."""
    fits = not runtime.machines or about.architecture in runtime.machines
    return fits and not runtime.system and bool(about.gpu or not runtime.accelerator)


def _client(output: Path) -> list[str]:
    """Who asks: two machines, or two benches into different folders, do not share a bench on a device."""
    import getpass
    import socket

    return [socket.gethostname(), getpass.getuser(), str(output.resolve())]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
