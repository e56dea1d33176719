"""The table of targets, each with the runtime that serves its files.

All lists, defaults, help texts and installation hints come from this table. Code is named by its path ("module:attribute") and imported on
use, so this module is cheap to import and needs only the standard library. A package adds a target with one entry point of the group
`edgekit.targets` (see CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgekit.errors import EdgekitError, ExportError, near
from edgekit.target_types import MARKERS, PRECISIONS, Precision, Runtime, Target

GROUP = "edgekit.targets"  # group of the entry points that add targets
DEFAULT_TARGETS = ("onnx", "openvino")  # the targets of an export without --target


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    module="onnxruntime",
    packages=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    extra="ort",
    session="edgekit.runtimes.onnxruntime:OnnxRuntimeSession",
    probe="edgekit.runtimes.onnxruntime:devices",
    marker="circle",
    providers=("cpu", "cuda", "tensorrt", "openvino"),
    exclusive=True,
    reads_onnx=True,
    checking={"session.intra_op.allow_spinning": "0"},  # waiting threads do not spin
)
OPENVINO = Runtime(
    name="openvino",
    title="OpenVINO",
    module="openvino",
    packages=("openvino",),
    extra="openvino",
    session="edgekit.runtimes.openvino:OpenVinoSession",
    probe="edgekit.runtimes.openvino:devices",
    marker="square",
    providers=("cpu", "gpu", "npu"),
    reads_onnx=True,
    # With several threads, OpenVINO 2026.4 gives different INT8 logits each time on CPUs without VNNI, for batches of more than a few
    # images (36 dB to float with one thread, 24 to 36 dB with two; FP32 is always identical).
    exact_threads={"int8": 1},
)
TENSORRT = Runtime(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    extra="trt",
    session="edgekit.runtimes.tensorrt.session:open_classic",
    probe="edgekit.runtimes.tensorrt.probe:classic",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    system="a Jetson has it from JetPack",
    marker="diamond",
)
TENSORRT_RTX = Runtime(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    packages=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    extra="trt-rtx",
    session="edgekit.runtimes.tensorrt.session:open_rtx",
    probe="edgekit.runtimes.tensorrt.probe:rtx",
    requires="edgekit.runtimes.tensorrt.cuda:driver",
    accelerator="nvidia",
    machines=("x86_64",),
    marker="triangle",
)
LITERT = Runtime(
    name="litert",
    title="LiteRT",
    module="ai_edge_litert",
    packages=("ai-edge-litert",),
    extra="litert",
    session="edgekit.runtimes.litert:LiteRtSession",
    probe="edgekit.runtimes.litert:devices",
    marker="pentagon",
    providers=("cpu",),
)
TFLITE_MICRO = Runtime(
    name="tflite-micro",
    title="TFLite Micro",
    module="tflite_micro",
    packages=("tflite-micro",),
    extra="micro",
    session="edgekit.runtimes.micro:MicroSession",
    probe="edgekit.runtimes.micro:devices",
    machines=("x86_64",),
    marker="hexagon",
    providers=("cpu",),
    timed=False,
    aborts=True,
)
EXECUTORCH = Runtime(
    name="executorch",
    title="ExecuTorch",
    module="executorch",
    packages=("executorch",),
    extra="executorch",
    session="edgekit.runtimes.executorch:ExecuTorchSession",
    probe="edgekit.runtimes.executorch:devices",
    requires="edgekit.runtimes.executorch:require_torch",
    marker="star",
    providers=("cpu",),
    aborts=True,
    torch_free=False,
)
_BUILT_IN = {
    target.name: target
    for target in (
        Target(
            name="onnx",
            runtime=ONNXRUNTIME,
            precisions=("fp32", "int8"),
            maker="edgekit.export.served:make_onnx",
            makes="ONNX",
            set_batch="edgekit.export.served:fix_onnx_batch",
        ),
        Target(
            name="openvino",
            runtime=OPENVINO,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.served:make_openvino",
            makes="OpenVINO IR",
            needs_runtime=True,
            set_batch="edgekit.export.openvino:fix_ir_batch",
        ),
        Target(
            name="trt",
            runtime=TENSORRT,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_classic",
            makes="ONNX and build plan; the engine is built on the device, on first use",
        ),
        Target(
            name="trt-rtx",
            runtime=TENSORRT_RTX,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.tensorrt:make_rtx",
            makes="engine, also without a GPU",
            needs_runtime=True,
            options=("compute_capabilities",),
        ),
        Target(
            name="litert",
            runtime=LITERT,
            precisions=("fp32", "fp16", "int8"),
            defaults=("fp16", "int8"),
            maker="edgekit.export.litert.maker:make",
            makes="TensorFlow Lite model, channels last",
            needs_runtime=True,
            float_model="edgekit.export.litert.maker:float_model",
        ),
        Target(
            name="micro",
            runtime=TFLITE_MICRO,
            precisions=("int8",),
            maker="edgekit.export.micro.maker:make",
            makes="TensorFlow Lite model for microcontrollers, as a file and as C",
            needs_runtime=True,
            options=("max_ram", "max_flash", "ethos_u"),
            only_batch=1,
        ),
        Target(
            name="executorch",
            runtime=EXECUTORCH,
            precisions=("fp32", "int8"),
            maker="edgekit.export.executorch.maker:make",
            makes="ExecuTorch program for apps on Android and iOS",
            needs_runtime=True,
            float_model="edgekit.export.executorch.maker:float_model",
            only_batch=1,
        ),
    )
}
_BUILT_IN_RUNTIMES = {target.runtime.name: target.runtime for target in _BUILT_IN.values()}


@dataclass(frozen=True)
class Added:
    """A target that an installed package adds; `package` is the package's name and version."""

    target: Target
    package: str


def built_in() -> dict[str, Target]:
    """edgekit's own targets by name, in the order of the table."""
    return dict(_BUILT_IN)


def every() -> dict[str, Target]:
    """All targets by name: edgekit's own in the order of the table, then those that installed packages add.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return _BUILT_IN | {name: added.target for name, added in added_targets().items()}


def find(name: str) -> Target:
    """The target of a name.

    Raises:
        ExportError: there is no such target.
        EdgekitError: a package adds a target that cannot be used.
    """
    if name in _BUILT_IN:  # does not search the installed packages
        return _BUILT_IN[name]
    known = every()
    if name not in known:
        raise ExportError(f"unknown target {name}", near(name, known) or f"accepted: {', '.join(known)}")
    return known[name]


def runtimes() -> dict[str, Runtime]:
    """All runtimes by name, in the order of their targets.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return {target.runtime.name: target.runtime for target in every().values()}


def find_runtime(name: str) -> Runtime | None:
    """The runtime of a name; None if it is unknown here: a bundle may come from an installation with more runtimes.

    Raises:
        EdgekitError: a package adds a target that cannot be used.
    """
    return _BUILT_IN_RUNTIMES.get(name) or runtimes().get(name)  # the former does not search the installed packages


def every_provider() -> list[str]:
    """The providers of all runtimes, each once: the values of `--provider`."""
    return list(dict.fromkeys(word for runtime in runtimes().values() for word in runtime.providers))


def extras_of(names: Iterable[str]) -> tuple[str, ...]:
    """The extras of edgekit's wheel that install these runtimes, each once; a runtime without an extra adds none."""
    found = [runtime.extra for name in names if (runtime := find_runtime(name)) is not None and runtime.extra]
    return tuple(dict.fromkeys(found))


def runtimes_of(extras: Iterable[str]) -> list[Runtime]:
    """The runtimes that these extras of edgekit's wheel install; an extra without a runtime adds none."""
    wanted = set(extras)
    return [runtime for runtime in _BUILT_IN_RUNTIMES.values() if runtime.extra in wanted]


def rank(runtime: str) -> int:
    """The position of a runtime in the table; unknown runtimes come last."""
    names = list(_BUILT_IN_RUNTIMES) if runtime in _BUILT_IN_RUNTIMES else list(runtimes())
    return names.index(runtime) if runtime in names else len(names)


def title(runtime: str) -> str:
    """The title of a runtime in a report; the name of an unknown one."""
    found = find_runtime(runtime)
    return found.title if found else runtime


def marker(runtime: str) -> str:
    """The marker of a runtime in a chart."""
    found = find_runtime(runtime)
    return found.marker if found else MARKERS[-1]


def resolve(path: str) -> Any:
    """Import the object of a path of the table, `module:attribute`.

    Raises:
        ImportError: the module or its attribute does not exist.
    """
    name, _, attribute = path.partition(":")
    module = importlib.import_module(name)
    if not hasattr(module, attribute):
        raise ImportError(f"{name} has no {attribute}")
    return getattr(module, attribute)


@cache
def added_targets() -> dict[str, Added]:
    """The targets that installed packages add, by name.

    Raises:
        EdgekitError: a target cannot be loaded, is not a `Target`, or has the name of another target or runtime.
    """
    from importlib.metadata import entry_points

    found: dict[str, Added] = {}
    taken = dict(_BUILT_IN_RUNTIMES)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        where = f"the package {package}, target {point.name}"
        hint = "update that package, or uninstall it"
        try:
            target = point.load()
        except Exception as error:  # the package's module may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise EdgekitError(f"{where}: {point.value} cannot be loaded: {reason}", hint) from error
        if not isinstance(target, Target):
            raise EdgekitError(f"{where}: {point.value} is {type(target).__name__}, not edgekit.targets.Target", hint)
        if target.name in _BUILT_IN or target.name in found:
            raise EdgekitError(f"{where}: another target has the name {target.name}", hint)
        if taken.setdefault(target.runtime.name, target.runtime) != target.runtime:
            raise EdgekitError(f"{where}: another runtime has the name {target.runtime.name}", hint)
        found[target.name] = Added(target, package)
    return found


__all__ = [
    "DEFAULT_TARGETS", "EXECUTORCH", "GROUP", "LITERT", "MARKERS", "ONNXRUNTIME", "OPENVINO", "PRECISIONS", "TENSORRT", "TENSORRT_RTX",
    "TFLITE_MICRO", "Added", "Precision", "Runtime", "Target", "added_targets", "built_in", "every", "every_provider", "extras_of", "find",
    "find_runtime", "marker", "rank", "resolve", "runtimes", "runtimes_of", "title",
]  # fmt: skip
