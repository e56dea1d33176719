"""The same bench on several devices side by side."""

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
from edgekit.bench.remote.device import Controls, DeviceMeasurement, RemoteJob, measure
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, GateFailed
from edgekit.targets import extras_of
from edgekit.temporary import scratch_folder


class InternalError(EdgekitError):
    """A bug that showed with one of the devices."""

    exit_code = 70

    def __init__(self, message: str, *, where: object) -> None:
        super().__init__(message, "edgekit --debug … shows the traceback; please report it", where=where)


@dataclass
class Fleet:
    """What the devices brought, in their order."""

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
    """Bench a bundle on devices; one that fails does not stop the others.

    The first Ctrl-C ends the benches on all devices and brings what they have; the second leaves the devices alone.

    Args:
        devices: where.
        bundle: an opened bundle.
        output: gets a sub-folder for each device.
        options: for `edgekit bench` there.
        extras: of the wheel, that these options need beside a runtime.
        variants: ids of variants: their runtimes must be installed; without any, those of the bundle where that works.
        wheel: edgekit's wheel for the devices; None packs the edgekit that runs here.
        python: a Python on the devices that has edgekit's dependencies; None makes a private environment.
        keep: leave the bench's folder on the devices.
        say: called with lines that tell how far each device is.

    Raises:
        BundleError: there is no such variant.
        RemoteError: `wheel` is not edgekit's, or none can be packed.
    """
    chosen = [bundle.variant(name) for name in variants] or [
        v for v in bundle.manifest.variants if v.status != "rejected"
    ]
    runtimes = extras_of(variant.runtime for variant in chosen)
    controls = Controls()
    fleet = Fleet()
    printing = threading.Lock()

    def tell(address: Address, line: str) -> None:
        with printing:
            say(f"{address}: {line}")

    with scratch_folder("remote") as folder:
        packed = wheels.check(wheel) if wheel else wheels.pack(Path(folder))
        needed, optional = (runtimes, ()) if variants else ((), runtimes)
        job = RemoteJob(bundle, tuple(options), (*needed, *extras), optional, packed, python, keep)

        def one(address: Address) -> DeviceMeasurement:
            return measure(address, job, output / address.folder, controls, lambda line: tell(address, line))

        with ThreadPoolExecutor(len(devices)) as pool:
            futures = {pool.submit(one, address): address for address in devices}
            _wait(set(futures), controls)
        for future, address in futures.items():
            try:
                fleet.measured[address] = future.result()
            except Stopped:
                pass
            except EdgekitError as error:
                fleet.failed[address] = error
            except OSError as error:  # of this machine, for instance a bundle that was deleted meanwhile
                fleet.failed[address] = EdgekitError(
                    f"{error.filename or 'here'}: {error.strerror or error}", where=address
                )
            except Exception as error:  # a bug, which must not cost what the other devices measured
                if os.environ.get("EDGEKIT_DEBUG"):
                    raise
                fleet.failed[address] = InternalError(f"internal error: {type(error).__name__}: {error}", where=address)
    fleet.interrupted = controls.stop.is_set()
    return fleet


def _wait(futures: set[Future[DeviceMeasurement]], controls: Controls) -> None:
    while futures:
        try:
            futures = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).not_done
        except KeyboardInterrupt:
            if controls.stop.is_set():
                controls.abandon.set()
            controls.stop.set()
