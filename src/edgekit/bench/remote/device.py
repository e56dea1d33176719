"""All steps for one device: copy the missing files, make the environment, run the bench, fetch the results, clean up."""

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
    EnvironmentReply,
    FetchReply,
    FinishReply,
    FollowReply,
    LineEvent,
    OfferReply,
    ProbeReply,
    ProgressEvent,
    ProtocolError,
    StartReply,
    StopReply,
    StoreReply,
    protocol_error,
)
from edgekit.bench.remote.results import DeviceResults, Inbox
from edgekit.bench.remote.wheel import Wheel
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import EdgekitError, RemoteError, shortened
from edgekit.files import digest_of, sha256
from edgekit.targets import Runtime, runtimes_of
from edgekit.text import counted

# Pauses before connecting again, in seconds; a dropped Wi-Fi or an overloaded device usually recovers within these.
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_SAY_SECONDS = 5.0
_BLOCK = 1 << 18
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteJob:
    """The job for a device.

    Attributes:
        bundle: the opened bundle.
        options: options for `edgekit bench` on the device.
        extras: extras of the wheel that must be installed.
        optional: extras of runtimes of which at least one must be installed.
        wheel: edgekit itself.
        python: a Python on the device that has all packages; None makes an environment.
        keep: keep the bench's folder on the device.
    """

    bundle: Bundle
    options: tuple[str, ...]
    extras: tuple[str, ...]
    optional: tuple[str, ...]
    wheel: Wheel
    python: str | None = None
    keep: bool = False


@dataclass
class StopControls:
    """The user's Ctrl-C: the first (`stop`) ends all benches and fetches partial results; the second (`abandon`) leaves them running."""

    stop: threading.Event = field(default_factory=threading.Event)
    abandon: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class DeviceMeasurement:
    """The measurements of a device.

    Attributes:
        exit_code: of `edgekit bench` on the device.
        brought: its results, and the variants that were not measured.
        folder: the folder with the result files.
        notes: notes for the user, one sentence each.
    """

    exit_code: int
    brought: DeviceResults
    folder: Path
    notes: list[str]


def measure(
    address: Address,
    job: RemoteJob,
    output: Path,
    controls: StopControls,
    say: Callable[[str], None] = lambda line: None,
) -> DeviceMeasurement:
    """Bench a bundle on a device.

    Args:
        address: the device.
        job: the job for the device.
        output: the folder for its result files.
        controls: the user's Ctrl-C.
        say: called with lines about the progress.

    Raises:
        RemoteError: the device cannot be reached, refuses, or fails; the message says what is left on the device.
        Stopped: the user stopped before there was anything to fetch.
    """
    with closing(Connection(address)) as connection:
        return measure_over(connection, job, output, controls, say)


def measure_over(
    connection: Connection,
    job: RemoteJob,
    output: Path,
    controls: StopControls,
    say: Callable[[str], None] = lambda line: None,
) -> DeviceMeasurement:
    """Bench a bundle over a connection, which is opened if it is not open and stays open: for several bundles, one after the other.

    Args:
        connection: to the device.
        job, output, controls, say: see `measure`.

    Raises:
        RemoteError, Stopped: as `measure`.
    """
    return _DeviceBench(connection, job, output, controls, say).run()


class _DeviceBench:
    """The steps of one bench on one device."""

    def __init__(
        self,
        connection: Connection,
        job: RemoteJob,
        output: Path,
        controls: StopControls,
        say: Callable[[str], None],
    ) -> None:
        self.connection, self.job, self.controls, self.say = connection, job, controls, say
        self.output = output
        self.address = connection.address
        self.notes: list[str] = []
        self.last_line = ""
        self.seen = 0
        self.asked_to_stop = False
        connection.idle = self._raise_if_stopped

    def run(self) -> DeviceMeasurement:
        job = self.job
        if not self.connection.is_open:
            self.connection.open()
        if not self.connection.python:
            self.connection.find_python(job.python)
        about = self.connection.call("probe", ProbeReply)
        self.connection.python = about.executable  # the real program instead of a shim that searches for it every time
        place = about.root
        if job.python and about.missing:
            raise RemoteError(
                f"{job.python} lacks {', '.join(about.missing)}",
                "install them there, or leave out --python to make a private environment",
                where=self.address,
            )
        self.say(f"Python {about.python}, {about.architecture}")
        files = {MANIFEST: job.bundle.path / MANIFEST} | {
            file.path: job.bundle.path / file.path for file in job.bundle.manifest.files
        }
        digests = {name: sha256(path) for name, path in files.items()}
        objects = {digests[name]: path for name, path in files.items()} | {job.wheel.sha256: job.wheel.path}
        self._with_retries(
            lambda: self._copy(objects),
            f"the copied files are in {place}/objects; run the same command again to resume",
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
        for _ in range(2):  # a damaged file is copied once more, from its beginning
            offer = self.connection.call("offer", OfferReply, objects=sizes)
            missing = offer.missing
            if not missing:
                return
            if any(offset > sizes.get(digest, -1) for digest, offset in missing.items()):
                raise protocol_error(str(self.address), "requests a file that was not offered")
            wanted = sum(sizes[digest] - offset for digest, offset in missing.items())
            if wanted > offer.free:
                raise RemoteError(
                    f"no space left: {_megabytes(wanted)} are needed, {_megabytes(offer.free)} are free",
                    "free some space on the device, or set EDGEKIT_CACHE there to a folder on another disk",
                    where=self.address,
                )
            self.say(f"copying {len(missing)} of {len(objects)} files, {_megabytes(wanted)}")
            damaged = self.connection.call(
                "store",
                StoreReply,
                self._blocks([(objects[digest], offset) for digest, offset in missing.items()], wanted),
                transfer=wanted,
                objects=[(digest, sizes[digest], offset) for digest, offset in missing.items()],
            ).damaged
            if not damaged:
                return
        name = objects[damaged[0]].name if damaged[0] in objects else "a file"
        raise RemoteError(f"{name} arrived damaged twice", "check the device's storage", where=self.address)

    def _blocks(self, files: list[tuple[Path, int]], total: int) -> Iterator[bytes]:
        """Yield the bytes of files, each from an offset on, and report the progress."""
        sent, last_said = 0, time.monotonic()
        for path, offset in files:
            with open(path, "rb") as stream:
                stream.seek(offset)
                while block := stream.read(_BLOCK):
                    yield block
                    sent += len(block)
                    if time.monotonic() - last_said > _SAY_SECONDS:
                        last_said = time.monotonic()
                        self.say(f"copied {_megabytes(sent)} of {_megabytes(total)}")

    def _environment(self, about: ProbeReply) -> str:
        job = self.job
        unsupported = {runtime.extra for runtime in runtimes_of(job.optional) if not _installs(runtime, about)}
        optional = [extra for extra in job.optional if extra not in unsupported]
        # JetPack installs TensorRT as a system package; no other system package is needed.
        system = any(runtime.system for runtime in runtimes_of((*job.extras, *job.optional)))
        key = digest_of([about.executable, about.python, job.wheel.requirements, system])[:16]
        built = self._with_retries(
            lambda: self.connection.call(
                "environment",
                EnvironmentReply,
                on_event=self._on_event,
                key=key,
                wheel=job.wheel.sha256,
                name=job.wheel.path.name,
                extras=[*job.extras, *optional],
                system=system,
            ),
            f"the environment in {about.root}/venvs/{key} is incomplete; run the same command again to make it",
        )
        for extra, reason in built.failed.items():
            if extra in job.extras or not set(built.extras) & set(job.optional):
                raise RemoteError(
                    f"[{extra}] cannot be installed: {shortened(reason, 500)}",
                    "give the device access to a package index, or use --python to name a Python that has the packages",
                    where=self.address,
                )
            self.notes.append(f"[{extra}] cannot be installed on the device: {shortened(reason, 500)}")
        return built.python

    def _measure(self, run: str, python: str, digests: dict[str, str], folder: str) -> FollowReply:
        self.connection.idle = lambda: None  # once the bench may have begun, only `stop` ends it, on the device
        began = self._with_retries(
            lambda: self.connection.call(
                "start",
                StartReply,
                run=run,
                python=python,
                wheel=self.job.wheel.sha256,
                options=list(self.job.options),
                files=digests,
            ),
            f"the bench may have begun; its files are in {folder}",
        )
        if began.state == "started":
            self.say("measuring")
        else:
            self.say(
                f"found this bench on the device: it {'is still running' if began.state == 'running' else 'has ended'}"
            )
        self.connection.idle = lambda: self._forward_stop(run)
        return self._with_retries(
            lambda: self.connection.call("follow", FollowReply, on_event=self._on_event, run=run, seen=self.seen),
            f"the bench goes on and writes into {folder}; run the same command again within a day to fetch its results",
        )

    def _bring(self, run: str, ended: FollowReply, folder: str) -> DeviceMeasurement:
        left = f"the results are in {folder} on the device; run the same command again within a day to fetch them"
        try:
            with Inbox(self.output, str(self.address), ended.files) as inbox:
                self._with_retries(
                    lambda: self.connection.call(
                        "fetch", FetchReply, receive=inbox.receive, run=run, paths=inbox.names
                    ),
                    left,
                )
                brought = inbox.keep(self.job.bundle, killed=ended.exit is None or ended.exit < 0)
        except ProtocolError as error:
            raise self._set_aside(run, error) from error
        if inbox.others:
            self.notes.append(
                f"did not fetch {counted(len(inbox.others), 'file')} in the bench's folder, not edgekit's own"
            )
        try:
            finished = self._with_retries(
                lambda: self.connection.call("finish", FinishReply, run=run, keep=self.job.keep),
                "the results have been fetched",
            )
            if self.job.keep:
                self.notes.append(f"kept on the device: {finished.folder}")
        except RemoteError as error:
            self.notes.append(f"{folder} could not be removed from the device: {error.reason}")
        if not brought.results:
            if self.controls.stop.is_set():
                raise Stopped
            raise RemoteError(ended.error or self._why_no_results(ended.exit), where=self.address)
        return DeviceMeasurement(1 if ended.exit is None else ended.exit, brought, self.output, self.notes)

    def _set_aside(self, run: str, error: ProtocolError) -> RemoteError:
        """Move the unusable results away on the device, so that the next bench does not find them; return the error with their place."""
        with suppress(EdgekitError):
            kept = self.connection.call("finish", FinishReply, run=run, keep=True).folder
            return RemoteError(
                error.reason, f"{error.hint}; its results are kept on the device in {kept}", where=self.address
            )
        return error

    def _why_no_results(self, code: int | None) -> str:
        how = (
            "the bench was killed, or the device restarted"
            if code is None or code < 0
            else f"the bench failed with exit code {code}"
        )
        return f"{how}{f': {self.last_line}' if self.last_line else ''}"

    def _on_event(self, event: ProgressEvent | LineEvent) -> None:
        text = shortened(event.text.rstrip(), 1000)
        if isinstance(event, LineEvent):
            self.seen = event.seen
            self.last_line = text or self.last_line
            if text.startswith("interrupted"):
                return
        if text:
            self.say(text)

    def _with_retries(self, step: Callable[[], T], left: str) -> T:
        """Run a step; if the connection breaks, connect again and repeat the step.

        Args:
            step: can be repeated.
            left: hint on what is left on the device, for the error if the device does not come back.
        """
        for pause in RETRY_SECONDS:
            try:
                return step()
            except TooSlow as error:
                raise RemoteError(error.reason, left, where=self.address) from error
            except ConnectionLost as error:
                self.say(f"{error.reason}: connecting again")
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

    def _raise_if_stopped(self) -> None:
        if self.controls.stop.is_set():
            raise Stopped

    def _forward_stop(self, run: str) -> None:
        if self.controls.abandon.is_set():
            raise RemoteError(
                "left running", "run the same command again within a day to fetch its results", where=self.address
            )
        if self.controls.stop.is_set() and not self.asked_to_stop:
            self.asked_to_stop = True
            self.say("stopping the bench")
            self.connection.call("stop", StopReply, run=run)


def _installs(runtime: Runtime, about: ProbeReply) -> bool:
    """Whether pip can install a runtime that the device can use and that can be timed there, without the gigabytes of PyTorch."""
    fits = not runtime.machines or about.architecture in runtime.machines
    return (
        runtime.timed
        and runtime.torch_free
        and fits
        and not runtime.system
        and bool(about.gpu or not runtime.accelerator)
    )


def _client(output: Path) -> list[str]:
    """Identify the client: two machines, or two output folders, do not share a bench on a device."""
    import getpass
    import socket

    return [socket.gethostname(), getpass.getuser(), str(output.resolve())]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
