"""Describe this machine. Every result contains the description, so that its numbers can be traced."""

from __future__ import annotations

import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edgekit.processors import usable_cpus

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
    "asimdhp",
    "sve",
)
# Arm processors of boards, phones and servers by (implementer, part), which is all that the kernel reports (Arm's MIDR_EL1
# registers).
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53", ("0x41", "0xd04"): "Cortex-A35", ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57", ("0x41", "0xd08"): "Cortex-A72", ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75", ("0x41", "0xd0b"): "Cortex-A76", ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1", ("0x41", "0xd41"): "Cortex-A78", ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1", ("0x41", "0xd49"): "Neoverse-N2", ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE", ("0x4e", "0x004"): "Carmel",
}  # fmt: skip


class Machine(BaseModel):
    """A description of a machine and its software."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    cpu: str
    architecture: str
    cores: int
    memory_bytes: int | None
    isa: list[str]
    os: str
    python: str
    packages: dict[str, str]
    emulated: bool = Field(
        False,
        description="whether another processor emulates this one (QEMU user mode), so that latencies mean nothing",
    )


def this_machine() -> Machine:
    """Return the description of this machine, without heavy imports."""
    return Machine(
        cpu=cpu_name(),
        architecture=platform.machine(),
        cores=usable_cpus(),
        memory_bytes=memory_bytes(),
        isa=[] if emulated() else cpu_features(),  # under emulation, /proc/cpuinfo describes the host's processor
        os=platform.platform(),
        python=platform.python_version(),
        packages=installed_packages(),
        emulated=emulated(),
    )


def installed_packages() -> dict[str, str]:
    """Return the versions of the installed packages that matter to edgekit."""
    from importlib import metadata

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the instruction-set extensions that matter for inference, in a fixed order (empty if the system does not report them)."""
    flags: set[str] = set()
    for line in _lines(cpuinfo):
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            flags.update(value.split())
            break
    return [name for name in _ISA if name in flags]


def emulated(root: Path = Path("/"), architecture: str = "") -> bool:
    """Whether this process runs under QEMU's user-mode emulation, on another kind of processor than it was built for.

    The kernel is then the host's: it reports its own architecture (Linux 6.1), or its /proc/cpuinfo does.

    Args:
        root: where `proc` is.
        architecture: the architecture that this process sees; by default from the system calls.
    """
    own = _family(architecture or platform.machine())
    kernel = "".join(_lines(root / "proc/sys/kernel/arch")).strip()
    if kernel:
        return _family(kernel) != own
    keys = {line.partition(":")[0].strip() for line in _lines(root / "proc/cpuinfo")}
    return (own == "arm" and "vendor_id" in keys) or (own == "x86" and "CPU implementer" in keys)


def _family(architecture: str) -> str:
    """Return the architecture's family: a 64-bit kernel runs 32-bit programs of its family without emulation."""
    name = architecture.lower()
    if name.startswith(("aarch64", "arm")):
        return "arm"
    return "x86" if name in {"x86_64", "amd64", "i386", "i486", "i586", "i686"} else name


def has_int8_dot_product(features: list[str] | None = None) -> bool:
    """Whether the CPU multiplies 8-bit integers without the saturation of AVX2's 16-bit sums (with VNNI, AMX, or Arm's dot product)."""
    features = cpu_features() if features is None else features
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(features))


def has_native_bf16(features: list[str] | None = None) -> bool:
    """Whether the CPU supports bfloat16 (AVX-512 BF16, AMX, or Arm's BF16); otherwise PyTorch emulates it, which is slower than
    float32."""
    if features is None:
        features = [] if emulated() else cpu_features()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(features))


def cpu_name(root: Path = Path("/")) -> str:
    """Return the board's name if there is one (Jetson, Raspberry Pi), otherwise the processor's; `unknown` if neither is reported.

    Args:
        root: where `proc` is.
    """
    board = _lines(root / "proc/device-tree/model")
    if board:
        return board[0].strip("\0\n ")
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    own = platform.processor() if root == Path("/") else ""
    return ", ".join(arm_cores(root)) or own or "unknown"


def arm_cores(root: Path = Path("/")) -> dict[str, list[int]]:
    """Return, on Arm, name → numbers of the processors of that kind (empty elsewhere); several kinds mean a big.LITTLE machine."""
    kinds: dict[str, list[int]] = {}
    number, implementer = 0, ""
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor" and value.isdigit():
            number = int(value)
        elif key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            name = _ARM_PARTS.get((implementer, value), f"Arm {implementer}/{value}")
            kinds.setdefault(name, []).append(number)
    return kinds


def memory_bytes(root: Path = Path("/"), key: str = "MemTotal") -> int | None:
    """Return a value of /proc/meminfo in bytes: all memory, or with `MemAvailable` the memory that is available to programs."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
