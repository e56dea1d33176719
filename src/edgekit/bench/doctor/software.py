"""Which runtimes are installed, whether they load here, and what devices they find."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from edgekit.bench.apart import apart
from edgekit.bench.sensors.files import found
from edgekit.bundle import RuntimeName
from edgekit.errors import EdgekitError
from edgekit.runtimes import installed, why_not

_PROBE_SECONDS = 60.0
# Distributions of ONNX Runtime that overwrite each other's files when two of them are installed.
_ONE_OF = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


@dataclass(frozen=True)
class Runtime:
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


def runtimes(ask: bool = True) -> list[Runtime]:
    """Every runtime that edgekit knows. Each that is installed is loaded in a process of its own, all at once, and asked
    for its devices, unless `ask` is off."""
    versions = installed()
    here: list[RuntimeName] = [name for name, version in versions.items() if version is not None and ask]
    with ThreadPoolExecutor(max(1, len(here))) as pool:
        answers = dict(zip(here, pool.map(_ask, here), strict=True))
    listed = []
    for name, version in versions.items():
        devices, fails = answers.get(name, ([], ""))
        missing = why_not(name)
        listed.append(Runtime(name, version, devices, str(missing) if missing else "", fails))
    return listed


def clashing() -> list[str]:
    """Distributions of ONNX Runtime that are installed beside each other, where there are several."""
    there = []
    for name in _ONE_OF:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        there.append(name)
    return there if len(there) > 1 else []


def system_tensorrt(root: Path = Path("/")) -> str | None:
    """The version of the TensorRT libraries that the system has, as JetPack installs them; None where it has none."""
    files = [f for folder in ("usr/lib/*-linux-gnu", "usr/lib64") for f in found(root, f"{folder}/libnvinfer.so.*.*")]
    versions = [re.search(r"\.so\.([\d.]+)$", file.name) for file in files]
    return max((v[1] for v in versions if v), key=len, default=None)


def _ask(name: RuntimeName) -> tuple[list[str], str]:
    try:
        return apart(_PROBES[name], seconds=_PROBE_SECONDS), ""
    except EdgekitError as error:
        return [], error.message


def _onnxruntime() -> list[str]:
    import onnxruntime

    return [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]


def _openvino() -> list[str]:
    import openvino

    core = openvino.Core()
    return [f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME').strip()})" for device in core.available_devices]


def _tensorrt() -> list[str]:
    from edgekit.runtimes.tensorrt.adapter import load

    load("trt")
    return _cuda_devices()


def _tensorrt_rtx() -> list[str]:
    from edgekit.runtimes.tensorrt.adapter import load

    load("trt-rtx")
    return _cuda_devices()


def _cuda_devices() -> list[str]:
    """The names of the GPUs that NVIDIA's driver gives to programs, by its own interface (CUDA Driver API, device management)."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        if not cuda.cuDeviceGet(ctypes.byref(device), ordinal) and not cuda.cuDeviceGetName(name, len(name), device):
            names.append(name.value.decode(errors="replace"))
    return names


_PROBES: dict[RuntimeName, Callable[[], list[str]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
