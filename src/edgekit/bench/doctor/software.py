"""Find which runtimes are installed, whether they load, and which devices they have."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from edgekit import targets
from edgekit.bench.sensors.files import found
from edgekit.errors import EdgekitError
from edgekit.runtimes import installed, why_not
from edgekit.runtimes.isolation import run_in_subprocess

_PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class InstalledRuntime:
    """A runtime on this machine.

    Attributes:
        name: as in a bundle's variants.
        version: None if it is not installed.
        devices: its providers or devices; empty if there are none, or if it was not queried.
        missing: why edgekit cannot run its models here, and what to do; empty if it can.
        fails: why it does not load although it is installed.
    """

    name: str
    version: str | None
    devices: list[str] = field(default_factory=list)
    missing: str = ""
    fails: str = ""


def runtimes(ask: bool = True) -> list[InstalledRuntime]:
    """Return every runtime that edgekit knows. With `ask`, each installed one is loaded in its own process, all in parallel, and
    its devices are queried."""
    versions = installed()
    loadable = [name for name, version in versions.items() if version is not None and ask]
    with ThreadPoolExecutor(max(1, len(loadable))) as pool:
        probed = dict(zip(loadable, pool.map(_devices, loadable), strict=True))
    listed = []
    for name, version in versions.items():
        devices, fails = probed.get(name, ([], ""))
        missing = why_not(name)
        listed.append(InstalledRuntime(name, version, devices, str(missing) if missing else "", fails))
    return listed


def clashing() -> list[str]:
    """Return distributions of the same runtime that are all installed and overwrite each other's files."""
    found = []
    for runtime in targets.runtimes().values():
        present = [name for name in runtime.packages if runtime.exclusive and _is_installed(name)]
        found += present if len(present) > 1 else []
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def system_tensorrt(root: Path = Path("/")) -> str | None:
    """Return the version of the system's TensorRT libraries, as JetPack installs them; None if there are none."""
    files = [f for folder in ("usr/lib/*-linux-gnu", "usr/lib64") for f in found(root, f"{folder}/libnvinfer.so.*.*")]
    versions = [re.search(r"\.so\.([\d.]+)$", file.name) for file in files]
    return max((v[1] for v in versions if v), key=len, default=None)


def _devices(name: str) -> tuple[list[str], str]:
    runtime = targets.find_runtime(name)
    if runtime is None or not runtime.probe:
        return [], ""
    try:
        return run_in_subprocess(_probe, runtime.probe, seconds=_PROBE_SECONDS), ""
    except EdgekitError as error:
        return [], error.message


def _probe(path: str) -> list[str]:
    devices: list[str] = targets.resolve(path)()
    return devices
