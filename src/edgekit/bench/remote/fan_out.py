"""Run the same bench on several devices in parallel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bench.remote import wheel as wheels
from edgekit.bench.remote.address import Address
from edgekit.bench.remote.connection import Stopped
from edgekit.bench.remote.device import DeviceMeasurement, RemoteJob, StopControls, measure
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, GateFailed
from edgekit.targets import extras_of
from edgekit.temporary import scratch_folder


class InternalError(EdgekitError):
    """A bug that occurred with one of the devices."""

    exit_code = 70

    def __init__(self, message: str, *, where: object) -> None:
        super().__init__(message, "edgekit --debug … shows the traceback; please report it", where=where)


@dataclass
class Fleet:
    """The measurements and errors of all devices, in their order."""

    measured: dict[Address, DeviceMeasurement] = field(default_factory=dict)
    failed: dict[Address, EdgekitError] = field(default_factory=dict)
    interrupted: bool = False

    def require_measured(self, reasons: str) -> None:
        """Fail where a device did.

        Args:
            reasons: where the reader finds them.

        Raises:
            EdgekitError: every device failed: what the last one said.
            GateFailed: some failed, or measured only a part.
        """
        if self.failed and not self.measured:
            raise list(self.failed.values())[-1]
        missing = len(self.failed) + len(self.incomplete)
        if missing:
            count = len(self.failed) + len(self.measured)
            raise GateFailed(f"{missing} of {count} devices failed or measured only a part{reasons}")

    @property
    def incomplete(self) -> list[Address]:
        """The devices that measured only a part."""
        return [address for address, measured in self.measured.items() if measured.exit_code != 0]


def bench_on(
    devices: Sequence[Address],
    bundle: Bundle,
    output: Path,
    *,
    options: Sequence[str] = (),
    extras: Sequence[str] = (),
    variants: Sequence[str] = (),
    wheel: Path | None = None,
    python: str | None = None,
    keep: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Fleet:
    """Bench a bundle on devices; if one fails, the others go on.

    The first Ctrl-C ends the benches on all devices and fetches partial results; the second leaves the benches running.

    Args:
        devices: the devices' addresses.
        bundle: an opened bundle.
        output: gets a subfolder for each device.
        options: options for `edgekit bench` on the device.
        extras: extras of the wheel that these options need in addition to a runtime.
        variants: ids of variants, whose runtimes must be installed; empty: all variants whose runtimes can be installed.
        wheel: edgekit's wheel for the devices; None packs the edgekit that runs here.
        python: a Python on the devices that has edgekit's dependencies; None makes a private environment.
        keep: keep the bench's folder on the devices.
        say: called with lines about each device's progress.

    Raises:
        BundleError: a variant is unknown.
        RemoteError: `wheel` is not edgekit's, or no wheel can be packed.
    """
    chosen = [bundle.variant(name) for name in variants] or [
        v for v in bundle.manifest.variants if v.status != "rejected"
    ]
    runtimes = extras_of(variant.runtime for variant in chosen)
    controls = StopControls()
    fleet = Fleet()
    printing = threading.Lock()

    def tell(address: Address, line: str) -> None:
        with printing:
            say(f"{address}: {line}")

    with scratch_folder("remote") as folder:
        packed = wheels.check(wheel) if wheel else wheels.pack(Path(folder))
        needed, optional = (runtimes, ()) if variants else ((), runtimes)
        job = RemoteJob(bundle, tuple(options), (*needed, *extras), optional, packed, python, keep)

        def measure_one(address: Address) -> DeviceMeasurement:
            return measure(address, job, output / address.folder, controls, lambda line: tell(address, line))

        with ThreadPoolExecutor(len(devices)) as pool:
            futures = {pool.submit(measure_one, address): address for address in devices}
            wait_for(set(futures), controls)
        for future, address in futures.items():
            try:
                fleet.measured[address] = future.result()
            except Stopped:
                pass
            except EdgekitError as error:
                fleet.failed[address] = error
            except OSError as error:  # on this machine, for example a bundle that was deleted meanwhile
                fleet.failed[address] = EdgekitError(
                    f"{error.filename or 'here'}: {error.strerror or error}", where=address
                )
            except Exception as error:  # a bug must not lose the other devices' results
                if os.environ.get("EDGEKIT_DEBUG"):
                    raise
                fleet.failed[address] = InternalError(f"internal error: {type(error).__name__}: {error}", where=address)
    fleet.interrupted = controls.stop.is_set()
    return fleet


def wait_for(futures: set[Future[DeviceMeasurement]], controls: StopControls) -> None:
    """Wait until all are done; the first Ctrl-C stops the benches, the second leaves them running."""
    while futures:
        try:
            futures = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).not_done
        except KeyboardInterrupt:
            if controls.stop.is_set():
                controls.abandon.set()
            controls.stop.set()
