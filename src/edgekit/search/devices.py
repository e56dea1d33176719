"""The device of a search: this machine, or one over SSH. Both measure a candidate's bundle for one short turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from edgekit.bench.bundle_bench import BenchJob
from edgekit.bench.remote import wheel as wheels
from edgekit.bench.remote.address import Address, parse
from edgekit.bench.remote.connection import Connection, Stopped
from edgekit.bench.remote.device import RemoteJob, StopControls, measure_over
from edgekit.bench.remote.fan_out import wait_for
from edgekit.bench.remote.replies import ProbeReply
from edgekit.bench.workload import Workload, check_parallel
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, RemoteError
from edgekit.machine import this_machine
from edgekit.result import Latency
from edgekit.targets import extras_of
from edgekit.temporary import scratch_folder
from edgekit.terminal import echo


@dataclass(frozen=True)
class Turn:
    """What one turn measured.

    Attributes:
        results: the result files on this machine, by variant.
        failed: why other variants were not measured, by variant.
    """

    results: dict[str, Path]
    failed: dict[str, str]


class Device(Protocol):
    """What a search measures on; a context manager."""

    name: str

    def __enter__(self) -> Device: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def turn(self, bundle: Bundle, variants: Sequence[str], seconds: float, output: Path) -> Turn:
        """Measure variants of a bundle one after the other, each in a fresh process.

        Args:
            bundle: of a candidate.
            variants: ids; empty: all that can be measured there.
            seconds: of measuring, each.
            output: the folder for the result files.

        Raises:
            EdgekitError: nothing of this bundle can be measured.
            RemoteError: the device cannot be reached any more.
            KeyboardInterrupt: after Ctrl-C; what the turn had measured until then is not kept.
        """
        ...


class DeviceGone(RemoteError):
    """The device cannot be reached, or stays silent."""


class ThisMachine:
    """This machine as the device.

    Args:
        threads: of the inference; 0 leaves it to the runtime.
    """

    def __init__(self, threads: int = 0) -> None:
        import socket

        check_parallel(threads, Workload())
        self.name = f"this machine ({socket.gethostname()}, {this_machine().cpu})"
        self.threads = threads

    def __enter__(self) -> ThisMachine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def turn(self, bundle: Bundle, variants: Sequence[str], seconds: float, output: Path) -> Turn:
        """See `Device.turn`."""
        job = BenchJob.of(
            bundle, Workload(), names=variants, threads=self.threads, seconds=seconds, quick=True, output=output
        )
        outcome = job.measure()
        if outcome.interrupted:
            raise KeyboardInterrupt
        failed = {name: error.message for name, error in outcome.failed}
        failed |= {variant.id: reason for variant, reason in job.left_out}
        return Turn({latency.variant: path for _, latency, path in outcome.results}, failed)


class OverSsh:
    """A device over one SSH connection, which stays open for the whole search; edgekit and the files are copied there once.

    Args:
        address: the device's.
        threads: of the inference; 0 leaves it to the runtime.
        python: a Python of the device that has edgekit's packages; None: a private environment is made.
        wheel: edgekit's wheel for the device; None: the edgekit that runs here.
        say: called with lines about the progress.
    """

    def __init__(
        self,
        address: Address,
        threads: int = 0,
        python: str | None = None,
        wheel: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = str(address)
        self.address, self.threads, self.python = address, threads, python
        self._given_wheel, self._say = wheel, say
        self._open = ExitStack()

    def __enter__(self) -> OverSsh:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder("search"))
            self._wheel = wheels.check(self._given_wheel) if self._given_wheel else wheels.pack(folder)
            self._connection = Connection(self.address)
            stack.callback(self._connection.close)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def turn(self, bundle: Bundle, variants: Sequence[str], seconds: float, output: Path) -> Turn:
        """See `Device.turn`."""
        listed = bundle.manifest.variants
        chosen = [variant for variant in listed if not variants or variant.id in variants]
        extras = extras_of(variant.runtime for variant in chosen)
        options = ["--quick", "--seconds", repr(seconds), *(["--threads", str(self.threads)] if self.threads else [])]
        options += [word for name in variants for word in ("--variant", name)]
        needed, optional = (extras, ()) if variants else ((), extras)
        job = RemoteJob(bundle, tuple(options), needed, optional, self._wheel, self.python)
        controls = StopControls()
        with ThreadPoolExecutor(1) as pool:  # Ctrl-C reaches the main thread, which tells the device to stop
            future = pool.submit(measure_over, self._connection, job, output, controls, self._tell)
            wait_for({future}, controls)
        if controls.stop.is_set():
            raise KeyboardInterrupt
        try:
            brought = future.result().brought
        except Stopped:
            raise KeyboardInterrupt from None
        except RemoteError as error:
            if self._answers():
                raise EdgekitError(error.reason, error.hint) from error
            raise DeviceGone(error.reason, error.hint, where=self.address) from error
        failed = {reason.variant: reason.reason for reason in (*brought.failed, *brought.left_out)}
        measured = [(result.measurement, path) for result, path in brought.results]
        return Turn({part.variant: path for part, path in measured if isinstance(part, Latency)}, failed)

    def _answers(self) -> bool:
        """Whether the device is there: then what failed is the candidate's fault."""
        try:
            self._connection.call("probe", ProbeReply)
        except RemoteError:
            return False
        return True

    def _tell(self, line: str) -> None:
        if line != "measuring" and not line.startswith("bench:"):
            self._say(f"{self.address}: {line}")


def device_of(
    texts: Sequence[str],
    threads: int = 0,
    python: str | None = None,
    wheel: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Device:
    """Return the device of the options `--device`, `--threads`, `--python` and `--wheel`.

    Raises:
        RemoteError: it is not an address, or there are several.
        EdgekitError: options of a device without one, or too many threads.
    """
    if not texts:
        if python or wheel:
            raise EdgekitError("--python and --wheel are about a device", "name one with --device")
        return ThisMachine(threads)
    addresses = parse(texts)
    if len(addresses) > 1:
        raise RemoteError(
            f"--device {', '.join(map(str, addresses))}: a search is for one device",
            "run one for each; candidates that were trained already are not trained again on the same --storage",
        )
    return OverSsh(addresses[0], threads, python, wheel, say or (lambda line: echo(line, err=True)))
