"""Advice from the findings: each piece says what is wrong, why it matters, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.bench.doctor.findings import Findings
from edgekit.bench.doctor.hardware import as_list
from edgekit.machine import has_int8_dot_product
from edgekit.targets import find_runtime, runtimes

_GIGABYTE = 10**9
_LEAST_FREE = 1 * _GIGABYTE
_OTHERS = 0.1


@dataclass(frozen=True)
class DoctorAdvice:
    """One piece of advice.

    Attributes:
        about: the subject, in one or two words.
        says: the finding, and what follows from it.
        do: the command or setting; empty if there is nothing to do.
    """

    about: str
    says: str
    do: str = ""


def advice(found: Findings) -> list[DoctorAdvice]:
    """Return all advice for a machine, the most important first."""
    return [*_runtimes(found), *_precision(found), *_clocks(found), *_heat(found), *_room(found), *_quiet(found)]


def _runtimes(found: Findings) -> Iterator[DoctorAdvice]:
    if all(runtime.missing or runtime.fails for runtime in found.runtimes):
        yield DoctorAdvice(
            "no runtime",
            "no runtime that edgekit can use is installed",
            next(iter(runtimes().values())).install,
        )
    for runtime in found.runtimes:
        if runtime.fails:
            yield DoctorAdvice(
                runtime.name,
                f"is installed but does not load: {runtime.fails}",
                "install it again, or install another version",
            )
    if found.clashing:
        yield DoctorAdvice(
            found.clashing[0],
            f"{' and '.join(found.clashing)} overwrite each other's files",
            "uninstall all of them, then install one",
        )
    classic = next(runtime for runtime in found.runtimes if runtime.name == "tensorrt")
    if found.system_tensorrt and classic.version is None:
        yield DoctorAdvice(
            "TensorRT",
            f"the system has version {found.system_tensorrt}, but this Python cannot import it",
            "create the virtual environment with the system's Python and --system-site-packages",
        )
    elif found.gpus and not any(r.version for r in found.runtimes if _on_nvidia(r.name)):
        integrated = "integrated" in found.gpus[0].name
        yield DoctorAdvice(
            "GPU",
            f"{found.gpus[0].name}: TensorRT, which runs models on it, is not installed",
            "install JetPack's TensorRT" if integrated else "install edgekit's wheel with the extra [trt-rtx] or [trt]",
        )


def _on_nvidia(name: str) -> bool:
    runtime = find_runtime(name)
    return runtime is not None and runtime.accelerator == "nvidia"


def _precision(found: Findings) -> Iterator[DoctorAdvice]:
    features = found.processors.isa
    if not features or has_int8_dot_product(features):  # an empty list means unknown
        return
    if found.processors.architecture in {"x86_64", "AMD64"}:
        yield DoctorAdvice(
            "INT8",
            "no VNNI and no AMX: 8-bit products are added in 16 bits, which can saturate, so INT8 is less accurate here and often not "
            "faster than fp32",
            "measure both before you choose: edgekit bench BUNDLE",
        )
    elif found.processors.architecture in {"aarch64", "arm64"}:
        yield DoctorAdvice(
            "INT8",
            "no dot product (asimddp) and no i8mm: INT8 gains little over fp32 here",
            "measure both before you choose: edgekit bench BUNDLE",
        )


def _clocks(found: Findings) -> Iterator[DoctorAdvice]:
    now = found.sensors
    if found.power_modes and now.power_mode is not None:
        fastest = next((n for n, name in found.power_modes.items() if name.upper().startswith("MAXN")), None)
        locked = "sudo jetson_clocks"
        if fastest is not None and now.power_mode != found.power_modes[fastest]:
            listed = ", ".join(found.power_modes.values())
            yield DoctorAdvice(
                "power mode",
                f"{now.power_mode}, of {listed}: clocks are capped, and measurements hold only for this mode",
                f"sudo nvpmodel -m {fastest} && {locked}",
            )
        elif now.governor != "performance":
            yield DoctorAdvice("clocks", "clocks follow the load, so latency varies", locked)
    elif now.governor is not None and now.governor != "performance":
        yield DoctorAdvice(
            "governor",
            f"{now.governor}: clocks follow the load, so latency varies and short measurements are slow",
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )
    kinds = found.processors.kinds
    if kinds:
        sizes = ", ".join(f"{name} {as_list(numbers)}" for name, numbers in kinds.items())
        fast = kinds.get("performance")
        yield DoctorAdvice(
            "mixed cores",
            f"{sizes}: a run on the slower cores takes longer",
            f"taskset -c {as_list(fast)} edgekit bench BUNDLE" if fast else "pin the bench to one kind with taskset -c",
        )


def _heat(found: Findings) -> Iterator[DoctorAdvice]:
    throttling = found.sensors.throttling
    if throttling.now:
        yield DoctorAdvice(
            "throttled",
            f"now: {', '.join(throttling.now)}",
            "let the machine cool down, and use a better heat sink or power supply",
        )
    elif throttling.since_start:
        yield DoctorAdvice(
            "throttled",
            f"since the machine started: {', '.join(throttling.since_start)}",
            "for under-voltage, use a stronger power supply; for heat, a heat sink or fan",
        )
    if "root only" in found.power.why_not:
        yield DoctorAdvice(
            "energy",
            found.power.why_not + " (they reveal to other users what runs)",
            "on your own machine, until its next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj",
        )


def _room(found: Findings) -> Iterator[DoctorAdvice]:
    cores, usable, quota = found.processors, len(found.processors.usable), found.processors.quota
    if quota is not None and quota < usable:
        yield DoctorAdvice(
            "processor limit",
            f"the container may use {quota:g} of {usable} processors: more threads are throttled",
            f"--threads {max(1, int(quota))}",
        )
    elif cores.logical and 0 < usable < cores.logical:
        yield DoctorAdvice("processors", f"this process may use {as_list(cores.usable)}, {usable} of {cores.logical}")
    for disk in found.disks:
        if disk.free < _LEAST_FREE:
            yield DoctorAdvice(
                "disk",
                f"{disk.free / 1e6:.0f} MB are free for {disk.purpose} in {disk.folder}",
                "free some space there",
            )


def _quiet(found: Findings) -> Iterator[DoctorAdvice]:
    busy = found.loads.busy
    if found.loads.bench:
        yield DoctorAdvice(
            "another bench",
            "another `edgekit bench` runs on this machine, and both would disturb each other",
            "wait until it ends",
        )
    elif busy is not None and busy > _OTHERS:
        who = ", ".join(f"{name} {share:.2f}" for name, share in found.loads.busiest)
        yield DoctorAdvice(
            "other programs",
            f"other programs keep {busy:.1f} processors busy{f': {who}' if who else ''}",
            "stop them before you measure",
        )
    if found.processors.virtual:
        yield DoctorAdvice(
            "virtual machine",
            "clocks, heat, power and other work of the host are hidden, and latency may vary because of them",
        )
