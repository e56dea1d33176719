"""Which runtimes are installed, whether they load here, and what devices they find."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from edgekit import targets
from edgekit.bench.isolation import run_in_subprocess
from edgekit.bench.sensors.files import found
from edgekit.errors import EdgekitError
from edgekit.runtimes import installed, why_not

_PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class InstalledRuntime:
    """A runtime on this machine.

    Attributes:
        name: as in a bundle's variants.
        version: None where it is not installed.
        devices: providers or devices that it finds; empty where there are none, or where it was not asked.
        missing: why edgekit cannot run its models here, and what to do about it; empty where it can.
        fails: why it does not load though it is installed.
    """

    name: str
    version: str | None
    devices: list[str] = field(default_factory=list)
    missing: str = ""
    fails: str = ""


def runtimes(ask: bool = True) -> list[InstalledRuntime]:
    """Every runtime that edgekit knows. Each that is installed is loaded in a process of its own, all at once, and asked
    for its devices, unless `ask` is off."""
    versions = installed()
    here = [name for name, version in versions.items() if version is not None and ask]
    with ThreadPoolExecutor(max(1, len(here))) as pool:
        answers = dict(zip(here, pool.map(_ask, here), strict=True))
    listed = []
    for name, version in versions.items():
        devices, fails = answers.get(name, ([], ""))
        missing = why_not(name)
        listed.append(InstalledRuntime(name, version, devices, str(missing) if missing else "", fails))
    return listed


def clashing() -> list[str]:
    """Distributions of one runtime that are installed beside each other and overwrite each other's files."""
    found = []
    for runtime in targets.runtimes().values():
        there = [name for name in runtime.packages if runtime.exclusive and _is_installed(name)]
        found += there if len(there) > 1 else []
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def system_tensorrt(root: Path = Path("/")) -> str | None:
    """The version of the TensorRT libraries that the system has, as JetPack installs them; None where it has none."""
    files = [f for folder in ("usr/lib/*-linux-gnu", "usr/lib64") for f in found(root, f"{folder}/libnvinfer.so.*.*")]
    versions = [re.search(r"\.so\.([\d.]+)$", file.name) for file in files]
    return max((v[1] for v in versions if v), key=len, default=None)


def _ask(name: str) -> tuple[list[str], str]:
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
