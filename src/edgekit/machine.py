"""What machine this is: written into every result so that a number can be traced to what produced it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_PACKAGES = (
    "edgekit-vision", "numpy", "pillow", "torch", "torchvision", "timm", "lightning", "onnx", "onnxruntime", "openvino", "nncf",
    "scikit-learn",
)  # fmt: skip
_ISA = (
    "sse4_2",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


class Machine(BaseModel):
    """The fingerprint of a machine and of the software on it."""

    model_config = ConfigDict(extra="forbid")

    cpu: str
    architecture: str
    cores: int
    memory_bytes: int | None
    isa: list[str]
    os: str
    python: str
    packages: dict[str, str]


def this_machine() -> Machine:
    """The fingerprint of the machine that runs this process; nothing heavy is imported for it."""
    return Machine(
        cpu=_cpu_name(),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory(),
        isa=cpu_features(),
        os=platform.platform(),
        python=platform.python_version(),
        packages=installed_packages(),
    )


def installed_packages() -> dict[str, str]:
    """The versions of the packages that matter to edgekit, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction-set extensions that matter for inference, in a fixed order (empty where the system does not say)."""
    flags: set[str] = set()
    for line in _lines(cpuinfo):
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            flags.update(value.split())
            break
    return [name for name in _ISA if name in flags]


def has_int8_dot_product(features: list[str] | None = None) -> bool:
    """Whether the CPU multiplies 8-bit integers without the saturation of AVX2's 16-bit sums (VNNI, AMX, or Arm's dot product)."""
    features = cpu_features() if features is None else features
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(features))


def _cpu_name() -> str:
    model = Path("/proc/device-tree/model")
    if model.exists():
        return model.read_text(errors="replace").strip("\0\n ")
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _memory() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
